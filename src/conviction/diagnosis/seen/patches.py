"""Patches: functions and methods that are replaced while a program is observed, and put back as they were."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_ABSENT = object()


class Patches:
    """What was replaced, in order; `put_back` undoes all of it."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any, Any]] = []

    def put(self, owner: Any, name: str, made: Callable[[Any], Any]) -> None:
        """Replace an attribute of a module or class by `made(original)`."""
        original = getattr(owner, name)
        replacement = functools.wraps(original)(made(original))
        self._replace(owner, name, replacement)

    def put_function(self, owner: ModuleType, name: str, made: Callable[[Any], Any], adopters: list[Any]) -> None:
        """Replace a function in its module and wherever `adopters` (modules) hold it under any name."""
        original = getattr(owner, name)
        replacement = functools.wraps(original)(made(original))
        self._replace(owner, name, replacement)
        for module in adopters:
            for held, value in list(vars(module).items()):
                if value is original:
                    self._replace(module, held, replacement)

    def put_value(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute by a value."""
        self._replace(owner, name, value)

    def _replace(self, owner: Any, name: str, replacement: Any) -> None:
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, replacement)
        self._done.append((owner, name, before, replacement))

    def put_back(self) -> None:
        """Undo all replacements, last first; what the program itself replaced meanwhile stays the program's."""
        while self._done:
            owner, name, before, replacement = self._done.pop()
            if vars(owner).get(name) is not replacement:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def users_modules(is_users: Callable[[str], bool]) -> list[ModuleType]:
    """Return the imported modules whose files are the user's: they may hold functions that they imported by name."""
    files = ((module, getattr(module, "__file__", None)) for module in list(sys.modules.values()))
    return [module for module, file in files if isinstance(file, str) and is_users(file)]
