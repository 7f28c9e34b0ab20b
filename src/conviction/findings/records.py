"""Finding: one cause why a net does not learn, with what was seen, what was expected and what to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conviction.text import printable


@dataclass(frozen=True)
class Finding:
    """One cause, where it sits (a layer, or a line of a file), and how sure it is (`confidence`, 0 to 1).

    `cause` is a code of the public vocabulary. `experiment` tells what confirmed it, None where nothing was tried.
    `hard` says that training cannot work as things are; it is no part of the JSON.
    """

    cause: str
    seen: str
    expected: str
    remedy: str
    layer: str | None = None
    file: str | None = None
    line: int | None = None
    confidence: float = 1.0
    experiment: str | None = None
    hard: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the public JSON."""
        return {
            "cause": self.cause,
            "where": {"file": self.file, "line": self.line, "layer": self.layer},
            "seen": self.seen,
            "expected": self.expected,
            "try": self.remedy,
            "confidence": self.confidence,
            "experiment": self.experiment,
        }

    def __str__(self) -> str:
        where = f", layer {printable(self.layer)}" if self.layer else ""
        if self.file:
            where += f", {printable(self.file)}" + (f":{self.line}" if self.line else "")
        tried = f" ({self.experiment})" if self.experiment else ""
        return f"{self.cause}{where}: {self.seen}, expected {self.expected}{tried} - {self.remedy}"
