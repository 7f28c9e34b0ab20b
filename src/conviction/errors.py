"""The tree of errors: each carries its kind's exit code and reads as one line, what is wrong, where - what to do."""

from __future__ import annotations


class ConvictionError(Exception):
    """Base of every refusal.

    `what` is wrong, in `where` (a file, a key, a layer; may be empty), and `remedy` says what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(what, where, remedy)

    def __str__(self) -> str:
        line = f"{self.what}, {self.where}" if self.where else self.what
        return f"{line} - {self.remedy}" if self.remedy else line


class UsageError(ConvictionError, ValueError):
    """A name, an option or a recipe that cannot be used (exit 2)."""

    exit_code = 2


class ImageTooSmallError(UsageError):
    """An image below the smallest that a net can take (exit 2)."""


class DataError(ConvictionError):
    """Data that is missing, broken or unfit for classification (exit 3)."""

    exit_code = 3


class WeightsError(ConvictionError):
    """Weights, a checkpoint or a run that is missing or does not fit (exit 4)."""

    exit_code = 4


class ResourceError(ConvictionError):
    """Memory, disk or permission that is lacking (exit 5)."""

    exit_code = 5


class DivergedError(ConvictionError):
    """Training that left the finite numbers (exit 6)."""

    exit_code = 6


class VerificationError(ConvictionError):
    """Something read back that differs from what was meant (exit 7)."""

    exit_code = 7


class TemporaryError(ConvictionError):
    """A fault that may be gone at the next try, such as a network that does not answer (exit 75)."""

    exit_code = 75
