"""A user's program, run as `python SCRIPT` runs it, for as long as its time lasts; how it ended is told."""

from __future__ import annotations

import builtins
import contextlib
import importlib.machinery
import linecache
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import CodeType, FrameType, TracebackType
from typing import Any

from torch import nn

from conviction.diagnosis.observer import Enough
from conviction.findings.observation import Ending, Place

# The program is asked to stop so often, once a second, before it is left where it is.
_ASKINGS = 5
_ERROR_LENGTH = 300


@dataclass(frozen=True)
class Source:
    """A program's text, its file (an absolute path), the words after it, and whether it is of a notebook."""

    text: str
    file: str
    argv: tuple[str, ...]
    notebook: bool = False

    @property
    def folder(self) -> str:
        """The folder that holds it."""
        return os.path.dirname(self.file)  # noqa: PTH120  (a program may have replaced anything in pathlib)


class Program:
    """One run of a user's program in this process, which belongs to it.

    `leave(ending)` is called, in whatever thread, where the program does not come back: it left by `os._exit`, or it
    did not stop when its `seconds` were over. It is called at most once and its process ends after it.
    """

    def __init__(self, source: Source, seconds: float, leave: Callable[[Ending], None]) -> None:
        self.source, self.seconds, self.leave = source, seconds, leave
        self.process = os.getpid()
        self.running = False
        self.over = threading.Event()
        self.exit = os._exit

    def run(self) -> Ending:
        """Run the program to its end, its error or the end of its time."""
        source = self.source
        linecache.cache[source.file] = (len(source.text), None, source.text.splitlines(True), source.file)
        try:
            code = compile(source.text, source.file, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            return _syntax_ending(error, source.file)
        module = _prepare_main(source)
        try:
            self._limit()
            ending = self._execute(code, module.__dict__)
        except Enough:  # the alarm came in the moment in which the program ended
            ending = Ending("budget")
        finally:
            self._unlimit()
        if os.getpid() != self.process:  # a process that the program made came to its end here
            self.exit(ending.code or (1 if ending.how == "error" else 0))
        return ending

    def _execute(self, code: CodeType, names: dict[str, Any]) -> Ending:
        try:
            exec(code, names)  # noqa: S102
        except SystemExit as left:
            return self._exit_ending(left)
        except BaseException as error:
            self.running = False
            if _is_enough(error):
                return Ending("budget")
            _show(error, self.source.file)
            return _error_ending(error, self.source.file)
        return Ending("finished")

    def _exit_ending(self, left: SystemExit) -> Ending:
        self.running = False
        if _is_enough(left.__context__):
            return Ending("budget")
        at = _place(left.__traceback__, self.source.file)
        if left.code is None or isinstance(left.code, int):
            return Ending("exit", at=at, code=int(left.code or 0))
        return Ending("exit", error=_one_line(str(left.code)), at=at, code=1)

    def _limit(self) -> None:
        """Limit the program's time: an alarm stops it; what catches the alarm is left where it is."""
        self.running = True
        os._exit = self._exit  # ty: ignore[invalid-assignment]
        threading.Thread(target=self._watch, daemon=True, name="time is over").start()
        if self._has_alarms:
            signal.signal(signal.SIGALRM, self._ask)
            signal.setitimer(signal.ITIMER_REAL, max(0.05, self.seconds), 1.0)

    def _unlimit(self) -> None:
        self.running = False
        if self._has_alarms and os.getpid() == self.process:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.over.set()
        os._exit = self.exit  # ty: ignore[invalid-assignment]

    @property
    def _has_alarms(self) -> bool:
        return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.running and os.getpid() == self.process:
            raise Enough

    def _watch(self) -> None:
        """Leave with what was seen when the program does not stop, whatever its main thread does."""
        if not self.over.wait(max(0.05, self.seconds) + _ASKINGS):
            self.running = False
            self.leave(Ending("budget"))
            self.exit(0)

    def _exit(self, status: int) -> None:
        """Stand in for `os._exit`: what was seen is told before the process is gone."""
        if self.running and os.getpid() == self.process:
            self.running = False
            self.over.set()
            self.leave(Ending("exit", code=status))
        self.exit(status)


def _prepare_main(source: Source) -> types.ModuleType:
    """Make the program `__main__`, as Python does, so that it can be pickled and started again by workers."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.argv = list(source.argv)
    sys.modules["__main__"] = main
    if source.notebook:  # a kernel has no file, and runs where the notebook lies
        os.chdir(source.folder)
        main.__dict__.update(display=print, get_ipython=_Shell)
        sys.path.insert(0, "")
        return main
    main.__dict__.update(
        __file__=source.file, __cached__=None,
        __loader__=importlib.machinery.SourceFileLoader("__main__", source.file),
    )  # fmt: skip
    sys.path.insert(0, source.folder)
    return main


class _Shell:
    """Stands for IPython's shell in an exported notebook: whatever is asked of it, it does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *words, **options: None


def _is_enough(error: BaseException | None) -> bool:
    """Whether an error is the end of the time, or came from how the program met it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, Enough):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _syntax_ending(error: SyntaxError | ValueError, file: str) -> Ending:
    line = error.lineno if isinstance(error, SyntaxError) else None
    told = error.msg if isinstance(error, SyntaxError) else str(error)
    return Ending("error", f"{type(error).__name__}: {_one_line(told)}", Place(file, line) if line else None)


def _error_ending(error: BaseException, file: str) -> Ending:
    told = _one_line(str(error))
    place = _place(error.__traceback__, file)
    if isinstance(error, SyntaxError) and error.filename and error.lineno:  # of a file that the program imports
        place = Place(error.filename, error.lineno)
    kind = type(error).__name__
    return Ending("error", f"{kind}: {told}" if told else kind, place, _layer(error.__traceback__))


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _ERROR_LENGTH else words[: _ERROR_LENGTH - 1] + "\u2026"


def _frames(trace: TracebackType | None) -> Generator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _place(trace: TracebackType | None, file: str) -> Place | None:
    """Return the innermost line of the program's own file in a traceback."""
    lines = [line for frame, line in _frames(trace) if frame.f_code.co_filename == file]
    return Place(file, lines[-1]) if lines else None


def _layer(trace: TracebackType | None) -> str:
    """Return the innermost module that was running, by its name in the outermost one."""
    running = [frame.f_locals.get("self") for frame, _ in _frames(trace) if frame.f_code.co_name == "forward"]
    modules = [module for module in running if isinstance(module, nn.Module)]
    if len(modules) < 2:
        return ""
    for name, module in modules[0].named_modules():
        if module is modules[-1]:
            return name
    return ""


def _show(error: BaseException, file: str) -> None:
    """Print the traceback as Python would have, from the program's own first line on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    with contextlib.suppress(Exception):
        traceback.print_exception(type(error), error, trace, file=sys.__stderr__)


def seconds_left(until: float) -> float:
    """Return the seconds until a time of the clock (`time.time`)."""
    return max(0.0, until - time.time())
