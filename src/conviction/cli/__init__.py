"""The command: `conviction VERB ...`. A thin door over the public page; results on stdout, the rest on stderr."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence

from conviction.errors import ConvictionError, UsageError
from conviction.text import printable, quoted

# What users of other tools type; each is accepted and its name here is told once.
SYNONYMS = {
    "--imgsz": "--image-size", "--img-size": "--image-size", "--batch": "--batch-size", "--bs": "--batch-size",
    "-b": "--batch-size", "--lr0": "--lr", "--learning-rate": "--lr", "--wd": "--weight-decay", "--opt": "--optimizer",
    "--sched": "--schedule", "-j": "--workers",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Every refusal is one line on stderr."""
    from cyclopts.exceptions import CycloptsError

    from conviction.cli.app import app

    _prepare_streams()
    try:
        if "" in arguments:
            raise UsageError("an empty word was given", "", "check the variable that it came from")
        end = (
            list(arguments).index("--") if "--" in arguments else len(arguments)
        )  # what follows are names, not options
        tokens = [*(_own_name(token) for token in arguments[:end]), *arguments[end:]]
        app(tokens or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return _refuse(f"{printable(_one_line(str(error)))} - see `conviction {_verb(arguments)}--help`", 2)
    except ConvictionError as error:
        return _refuse(_one_line(str(error)), error.exit_code)
    except KeyboardInterrupt as interrupt:
        folder = interrupt.args[0] if interrupt.args else ""
        saved = f"; whole epochs are saved, {printable(folder)} - go on with --resume --out {quoted(folder)}"
        return _refuse("interrupted" + (saved if folder else " - nothing was begun"), 130)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _report_bug(error)
        return _refuse("the output cannot be written: no space left on device - write it elsewhere", 5)
    except MemoryError:
        return _refuse("out of memory - lower --batch-size or --image-size", 5)
    except Exception as error:
        return _report_bug(error)
    return 0


def _prepare_streams() -> None:
    """Make both streams writable whatever the shell closed, and every name printable in any encoding."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _own_name(token: str) -> str:
    """Return an option under its own name; the synonym is told."""
    name, equals, value = token.partition("=")
    if name not in SYNONYMS:
        return token
    print(f"note: {name} is {SYNONYMS[name]} here", file=sys.stderr)
    return SYNONYMS[name] + equals + value


def _verb(arguments: Sequence[str]) -> str:
    from conviction.cli.app import VERBS

    return f"{arguments[0]} " if arguments and arguments[0] in VERBS else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _refuse(line: str, code: int) -> int:
    print(f"error: {line}", file=sys.stderr)
    return code


def _report_bug(error: Exception) -> int:
    """An error nobody foresaw is ours: say so, and show the trace only where it was asked for."""
    if "out of memory" in str(error).lower() or "can't allocate memory" in str(error):
        return _refuse(f"out of memory: {_one_line(str(error))[:200]} - lower --batch-size or --image-size", 5)
    if os.environ.get("CONVICTION_DEBUG"):
        traceback.print_exception(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    told = f"{type(error).__name__}: {_one_line(str(error))[:300]}, {os.path.basename(where.filename)}:{where.lineno}"  # noqa: PTH119
    return _refuse(f"a bug in conviction: {printable(told)} - set CONVICTION_DEBUG=1 for the trace and report it", 1)
