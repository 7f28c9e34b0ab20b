"""Pixels of any numeric type made into the two kinds that a net is trained on: bytes, or floats of the user's scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conviction.errors import DataError

_CLOSE = 1e-3  # of one level: float32 holds n/255 to 1e-5 of a level, six decimals in a text to 1.3e-4
_CHECKED_AT_ONCE = 256  # pictures; most floats that are no bytes show it in the first few


def as_pixel_type(values: np.ndarray, where: str) -> np.ndarray:
    """Return whole numbers by type as uint8, floats as float32.

    Raises `DataError` for whole numbers outside of 0 to 255, floats that are not finite, and other types.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind in "iub":
        if values.min() < 0 or values.max() > 255:
            found = f"pixels from {values.min()} to {values.max()}"
            raise DataError(found, where, "use whole numbers from 0 to 255, or floats")
        return values.astype(np.uint8)
    if values.dtype.kind != "f":
        raise DataError(f"pixels of type {values.dtype}", where, "use uint8 or float32")
    if not np.isfinite(values).all():
        raise DataError("some pixels are not finite numbers", where, "replace NaN and infinity")
    return values.astype(np.float32)


def as_bytes(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the parts of a data set (uint8 or float32, pictures first) as uint8 where their floats hold bytes.

    That is so where the floats of all parts are whole numbers from 0 to 255, or whole numbers divided by 255. Others
    stay as they are.
    """
    floats = [part for part in parts if part.dtype != np.uint8]
    if not floats or min(part.min() for part in floats) < 0:
        return list(parts)
    largest = max(part.max() for part in floats)
    factor = 255 if largest <= 1 else 1
    if largest > 255 or not all(_whole(part, factor) for part in floats):
        return list(parts)
    return [part if part.dtype == np.uint8 else np.rint(part * np.float32(factor)).astype(np.uint8) for part in parts]


def _whole(values: np.ndarray, factor: int) -> bool:
    """Whether the values times `factor` are whole numbers, looked at a few pictures at a time."""
    for start in range(0, len(values), _CHECKED_AT_ONCE):
        scaled = values[start : start + _CHECKED_AT_ONCE] * np.float32(factor)
        if (np.abs(scaled - np.rint(scaled)) > _CLOSE).any():
            return False
    return True
