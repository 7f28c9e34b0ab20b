"""Places: which lines of a stack are the user's own, and by which names the user's program holds a thing."""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from conviction.findings.observation import Place

_DEEPEST = 200
_MOST_NAMES = 6
# Names by which a function may look at its own variables as a dictionary.
_LOOKING = frozenset({"locals", "vars", "dir", "eval", "exec", "sys", "inspect"})


def _foreign_folders() -> tuple[str, ...]:
    """Return the folders of code that is nobody's program: Python's own, what is installed, torch and this package."""
    import conviction

    roots = [sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib")]
    files = [sys.modules["torch"].__file__, conviction.__file__]
    roots += [os.path.dirname(file) for file in files if file]  # noqa: PTH120 - a program may change its folder
    return tuple(os.path.abspath(root) + os.sep for root in roots)  # noqa: PTH100


_FOREIGN = _foreign_folders()


def belongs_to_user(filename: str) -> bool:
    """Whether a file of a stack frame is the user's own: not Python's, not installed, not ours."""
    if filename.startswith(("<frozen", "<__")):
        return False
    if "site-packages" in filename or "dist-packages" in filename:
        return False
    return not filename.startswith(_FOREIGN)


class Places:
    """Finds the user's lines in stacks; `is_users(filename)` says which files are the user's."""

    def __init__(self, is_users: Callable[[str], bool] | None = None) -> None:
        self._is_users = is_users or belongs_to_user
        self._known: dict[str, bool] = {}

    def is_users(self, filename: str) -> bool:
        """Whether a file is the user's."""
        known = self._known.get(filename)
        if known is None:
            known = self._known[filename] = bool(self._is_users(filename))
        return known

    def frames(self, frame: FrameType | None) -> Iterator[FrameType]:
        """Give the user's frames from `frame` outwards."""
        for _ in range(_DEEPEST):
            if frame is None:
                return
            if self.is_users(frame.f_code.co_filename):
                yield frame
            frame = frame.f_back

    def here(self, frame: FrameType | None = None) -> Place | None:
        """Return the innermost line of the user's that is running now, in `frame` or outside of it."""
        for users in self.frames(frame or sys._getframe(1)):
            return Place(users.f_code.co_filename, users.f_lineno)
        return None

    def maker(self, made: Any, frame: FrameType | None) -> Place | None:
        """Return the line that makes an object whose `__init__` is running in `frame`: the one outside of it."""
        while frame is not None and frame.f_code.co_name == "__init__" and _first_argument(frame, made) is made:
            frame = frame.f_back
        return self.here(frame) if frame is not None else None

    def of_traceback(self, trace: TracebackType | None) -> Place | None:
        """Return the innermost line of the user's in a traceback."""
        found = None
        while trace is not None:
            if self.is_users(trace.tb_frame.f_code.co_filename):
                found = Place(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
            trace = trace.tb_next
        return found

    def names_of(self, thing: Any, frame: FrameType | None) -> tuple[str, ...]:
        """Return the variables of the running program that hold `thing`, and attributes of `self` that do."""
        names: dict[str, None] = {}
        for users in self.frames(frame):
            for held in (_locals_of(users) or {}, users.f_globals):
                names |= dict.fromkeys(_holding(held, thing, ""))
            owner = _first_argument(users) if users.f_code.co_varnames[:1] == ("self",) else None
            attributes = getattr(owner, "__dict__", None)
            if isinstance(attributes, dict):
                held = attributes | attributes.get("_modules", {})
                names |= dict.fromkeys(_holding(held, thing, "self."))
        return tuple(names)[:_MOST_NAMES]


def _holding(held: Any, thing: Any, prefix: str) -> list[str]:
    return [prefix + name for name, value in list(held.items()) if value is thing and not name.startswith("_")]


def _locals_of(frame: FrameType) -> dict[str, Any] | None:
    """Return a function's variables; None where they cannot be read without a trace.

    Before Python 3.13 a function's `f_locals` is one dictionary that Python keeps and fills anew at each reading, and
    the one that the function's own `locals()` gives. Left full it would hold the first batch, with its graph, for as
    long as the function runs; so it is emptied, and functions that might look at it are not read.
    """
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED:
        return {}  # a module's variables are its globals
    if not _LOOKING.isdisjoint(code.co_names):
        return None
    held = frame.f_locals
    found = dict(held)
    if type(held) is dict:
        held.clear()
    return found


def _first_argument(frame: FrameType, unknown: Any = None) -> Any:
    """Return `self` of a method's frame; None for others, `unknown` where it cannot be read."""
    code = frame.f_code
    if code.co_argcount == 0 or not code.co_flags & inspect.CO_OPTIMIZED:
        return None
    found = _locals_of(frame)
    return unknown if found is None else found.get(code.co_varnames[0])
