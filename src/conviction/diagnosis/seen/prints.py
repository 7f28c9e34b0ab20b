"""What a program prints: lines with numbers in them are noted on their way; nothing is held back."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from conviction.findings.observation import Place, Printed

# The first and the last so many lines are kept.
_MOST_LINES = 100
_LONGEST = 1000
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf)(?![\w]|\.\d)")


class PrintsSeen:
    """The lines with numbers that went to `sys.stdout` or `sys.stderr` while `watch` was in force."""

    def __init__(self) -> None:
        self.first: list[Printed] = []
        self.last: deque[Printed] = deque(maxlen=_MOST_LINES)
        self._parts: dict[int, str] = {}
        self._streams: list[Any] = []

    def watch(self, note: Callable[[int, str], None]) -> None:
        """Have `note(stream, text)` called with all that is written from now on."""
        for number, stream in enumerate((sys.stdout, sys.stderr)):
            original = getattr(stream, "write", None)
            if original is None or stream in self._streams or "write" in getattr(stream, "__dict__", {}):
                continue
            try:
                setattr(stream, "write", _noting(original, number, note))  # noqa: B010
            except (AttributeError, TypeError):  # a stream that takes no attributes is left alone
                continue
            self._streams.append(stream)

    def leave(self) -> None:
        """Put the streams back."""
        while self._streams:
            stream = self._streams.pop()
            stream.__dict__.pop("write", None)

    def add(self, stream: int, text: str, step: int, find: Callable[[], Place | None]) -> None:
        """Take what was written; whole lines with numbers are noted, with the line of the program from `find()`."""
        lines = (self._parts.pop(stream, "") + text[-4 * _LONGEST :]).split("\n")
        if lines[-1]:
            self._parts[stream] = lines[-1][-_LONGEST:]
        for line in lines[:-1]:
            line = line.rsplit("\r", 1)[-1][:_LONGEST]
            numbers = _numbers_in(line)
            if numbers:
                self._keep(Printed(line, numbers, step, find()))

    def _keep(self, line: Printed) -> None:
        if len(self.first) < _MOST_LINES:
            self.first.append(line)
        else:
            self.last.append(line)

    @property
    def lines(self) -> tuple[Printed, ...]:
        """The lines kept, in their order."""
        return (*self.first, *self.last)


def _noting(original: Callable[[str], Any], number: int, note: Callable[[int, str], None]) -> Callable[[str], Any]:
    def write(text: str) -> Any:
        if isinstance(text, str):
            note(number, text)
        return original(text)

    return write


def _numbers_in(line: str) -> tuple[float, ...]:
    return tuple(float(found) for found in _NUMBER.findall(line)[:50])
