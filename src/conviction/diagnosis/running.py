"""The parent of a diagnosis: starts the child process, passes on what the program prints, ends what does not end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from conviction.diagnosis.notebook import Script, read_notebook
from conviction.diagnosis.records import Diagnosis, read_fields
from conviction.errors import ResourceError, UsageError
from conviction.findings.observation import Ending
from conviction.text import printable, quoted, system_reason

# Seconds that a child may take beyond its time before it is asked to end, and then until it is killed.
_GRACE, _KILL = 20.0, 3.0
# Seconds that a program's own last words (atexit, threads) may take after the answer is there.
_LAST_WORDS = 3.0
MOST_PRINTED_BYTES = 1_000_000
_MOST_SOURCE_BYTES = 20_000_000
# Whoever starts a program by -c has the folder it is in first on the path: a `random.py` there would be ours too.
_START = ("import sys; sys.path[:1] = [] if sys.path[:1] == [''] else sys.path[:1]; "
          "from conviction.diagnosis.child import main; main(sys.argv[1])")  # fmt: skip
_CUT = "\n(the program printed more than 1 MB: the rest is left out)\n"


def diagnose_program(
    path: Path,
    arguments: Sequence[str] = (),
    *,
    steps: int | None = None,
    seconds: float = 60.0,
    prints: BinaryIO | None = None,
) -> Diagnosis:
    """Run a script or a notebook as it is, for `seconds` at most, in a process of its own; say why it does not learn.

    `arguments` are the script's own; after `steps` optimizer steps it is stopped. What it prints goes to `prints`, as
    bytes, the first megabyte of it. Nothing is written but what the program itself writes.

    Raises `UsageError` where the file is no program, where it did not train and where it broke for a reason that no
    finding tells; `ResourceError` where the system ended it.
    """
    started = time.monotonic()
    script = _read_script(path)
    with tempfile.TemporaryDirectory(prefix="conviction-") as folder:
        asked = _write_request(Path(folder), path, script, arguments, steps, seconds)
        end = _run_child(asked, seconds, prints)
        answer = _read_answer(Path(folder) / "answer.json")
    seen = _settle(answer, end, path, script)
    return dataclasses.replace(seen, seconds=time.monotonic() - started)


@dataclasses.dataclass(frozen=True)
class _End:
    """How the child process ended: its exit code (negative: a signal), and whether we had to end it."""

    code: int
    ended_by_us: bool


def _read_script(path: Path) -> Script:
    """Read a program as Python does, its encoding declared in its first lines; a notebook as one script."""
    if path.suffix.lower() == ".ipynb":
        return read_notebook(path)
    try:
        if path.is_file() and path.stat().st_size > _MOST_SOURCE_BYTES:
            raise UsageError("this is no Python program: it is too large", printable(path), "give a .py file")
        return Script(_decoded(path.read_bytes()), ())
    except OSError as error:
        what = f"the program cannot be read: {system_reason(error)}"
        raise UsageError(what, printable(path), "give the .py file that trains your net") from error
    except (SyntaxError, UnicodeError, LookupError) as error:
        raise UsageError("this is no Python program: it is no text", printable(path), "give a .py file") from error


def _decoded(content: bytes) -> str:
    from importlib.util import decode_source

    return decode_source(content)


def _write_request(
    folder: Path, path: Path, script: Script, arguments: Sequence[str], steps: int | None, seconds: float
) -> Path:
    asked = {
        "text": script.text, "file": str(path.absolute()), "named": str(path), "notebook": bool(script.firsts),
        "argv": [str(path), *arguments], "steps": steps, "seconds": seconds, "begun": time.time(),
        "folder": str(Path.cwd()), "answer": str(folder / "answer.json"),
    }  # fmt: skip
    request = folder / "request.json"
    request.write_text(json.dumps(asked), encoding="utf-8")
    return request


def _run_child(request: Path, seconds: float, prints: BinaryIO | None) -> _End:
    """Run the child to its end, or to the end of our patience; no process of its group outlives this."""
    surroundings = os.environ | {"MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(  # noqa: S603  (the user's own program)
        [sys.executable, "-c", _START, str(request)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=surroundings, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    printed = _Printed(child.stdout, prints)
    by_us = False
    try:
        limit = time.monotonic() + seconds + _GRACE
        looked, answered = time.monotonic(), False
        while child.poll() is None and (now := time.monotonic()) < limit:
            printed.pass_on(0.1)
            if not answered and now - looked > 0.1:
                looked, answered = now, _is_final(request.with_name("answer.json"))
                limit = min(limit, now + _LAST_WORDS) if answered else limit
        by_us = child.poll() is None
        if by_us:
            _signal_group(child, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_KILL)
    finally:
        _signal_group(child, getattr(signal, "SIGKILL", signal.SIGTERM))
        code = child.wait()
        printed.pass_on_rest()
        child.stdout.close()
    return _End(code, by_us)


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to all processes that the child started, those that left its group excepted."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, number)
        else:
            child.kill()


class _Printed:
    """What the program prints, passed on up to a limit; the rest is read all the same, or the program would wait."""

    def __init__(self, pipe: Any, prints: BinaryIO | None) -> None:
        self.pipe, self.prints, self.left, self.open = pipe.fileno(), prints, MOST_PRINTED_BYTES, True
        os.set_blocking(self.pipe, False)

    def pass_on(self, seconds: float) -> bool:
        """Pass on what comes within some seconds; False where nothing came."""
        if not self.open:
            time.sleep(seconds)
            return False
        if not select.select([self.pipe], [], [], seconds)[0]:
            return False
        try:
            content = os.read(self.pipe, 65_536)
        except BlockingIOError:
            return False
        self.open = bool(content)
        self._write(content)
        return bool(content)

    def pass_on_rest(self) -> None:
        """Pass on what is left in the pipe; a process that left our group may still write and is not waited for."""
        until = time.monotonic() + 1.0
        while self.open and time.monotonic() < until and self.pass_on(0.0):
            continue

    def _write(self, content: bytes) -> None:
        if self.prints is None or self.left <= 0:
            return
        kept = content[: self.left]
        self.left -= len(content)
        with contextlib.suppress(OSError, ValueError):  # our own stderr may be closed
            self.prints.write(kept if self.left > 0 else kept + _CUT.encode())
            self.prints.flush()


def _is_final(path: Path) -> bool:
    answer = _read_answer(path)
    return answer is not None and bool(answer["final"])


def _read_answer(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _settle(answer: dict[str, Any] | None, end: _End, path: Path, script: Script) -> Diagnosis:
    """Return what the answer says, or raise what has to be said instead."""
    if answer is not None and answer.get("bug"):
        raise RuntimeError(f"while looking at {printable(path.name)}: {answer['bug']}")
    if answer is None or answer["diagnosis"] is None:
        raise _refusal_of_silence(end, path)
    seen = dataclasses.replace(read_fields(answer["diagnosis"]), cells=script.firsts, text=script.text)
    if not answer["final"]:
        seen = dataclasses.replace(seen, ending=Ending("killed", error=_how_it_ended(end)))
    if seen.findings:
        return seen
    if not answer["final"]:
        raise _refusal_of_silence(end, path)
    if seen.ending.how == "error":
        raise _refusal_of_error(seen, path)
    if not answer["backwards"]:
        raise UsageError(
            _nothing_trained(seen.ending),
            printable(path),
            f"give the program that trains, with its arguments: conviction diagnose {quoted(path)} -- ...",
        )
    return seen


def _how_it_ended(end: _End) -> str:
    if end.ended_by_us:
        return "it did not stop when its time was over"
    if end.code >= 0:
        return f"its process left with exit code {end.code}"
    with contextlib.suppress(ValueError):
        return f"its process was ended by {signal.Signals(-end.code).name}"
    return f"its process was ended by signal {-end.code}"


def _refusal_of_silence(end: _End, path: Path) -> Exception:
    """Return the refusal for a process that was gone before it could tell anything."""
    what = f"the program was gone before it could be looked at: {_how_it_ended(end)}"
    if not end.ended_by_us and end.code == -getattr(signal, "SIGKILL", 9):
        return ResourceError(what, printable(path), "most likely memory ran out: make its batches or its data smaller")
    remedy = "give it more time with --seconds" if end.ended_by_us else f"run it by itself first: python {quoted(path)}"
    return UsageError(what, printable(path), remedy)


def _refusal_of_error(seen: Diagnosis, path: Path) -> UsageError:
    """Return the refusal for a program that broke where no finding tells why."""
    from conviction.diagnosis.words import place_of

    ending = seen.ending
    where = place_of(seen, ending.at.file, ending.at.line) if ending.at else printable(path)
    steps = f" after {seen.steps:,} training steps in which nothing was found wrong" if seen.steps else ""
    remedy = "mend this first, then diagnose it again"
    if ending.error.startswith("EOFError"):
        remedy = "it asks for input, and there is nobody to answer: give the value in the program or by an argument"
    elif ending.error.startswith("ModuleNotFoundError"):
        remedy = "install what it imports into the environment that conviction runs in"
    return UsageError(f"the program stopped with {printable(ending.error)}{steps}", where, remedy)


def _nothing_trained(ending: Ending) -> str:
    told = "no training was seen (no backward pass)"
    if ending.how == "exit" and ending.code:
        return f"{told}: the program left with exit code {ending.code}"
    if ending.how == "budget":
        return f"{told} before the time was over"
    return told
