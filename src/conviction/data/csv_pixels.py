"""Tables of pixels in CSV, as Kaggle's digit recogniser has them: a row is a label and the pixels of a picture."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conviction.data.pixel_types import as_bytes, as_pixel_type
from conviction.errors import DataError
from conviction.text import printable

_LABEL_NAMES = {"label", "labels", "class", "target", "y"}


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read pixels (uint8, or float32 of the file's own scale, [N, pixels]) and labels (int64 [N]).

    The label's column is found by its header, or is the first where there is none. Raises `DataError` that names the
    line and column of the first value that cannot be used.
    """
    where = printable(path)
    try:
        columns, label_column, first_row = _header(path, where)
        table = _parse(path, columns, first_row)
    except UnicodeDecodeError as error:
        raise DataError("the file is not text in UTF-8", where, "save it as CSV in UTF-8") from error
    except OSError as error:
        raise DataError(f"the file cannot be read: {printable(error)}", where, "check the path") from error
    if not len(table):
        raise DataError("there are no rows", where, "give a row for each picture")
    labels, pixels = table[:, label_column], np.delete(table, label_column, axis=1)
    if (labels != labels.round()).any() or labels.min() < 0:
        row = int(((labels != labels.round()) | (labels < 0)).argmax())
        raise DataError(f"picture {row + 1} has the label {labels[row]:g}", where, "use whole numbers from 0 on")
    return _pixels(pixels, where), labels.astype(np.int64)


def _header(path: Path, where: str) -> tuple[int, int, int]:
    """Return the number of columns, which of them is the label, and how many lines the header takes."""
    with path.open(encoding="utf-8-sig") as file:
        cells = [cell.strip().strip('"').lower() for cell in file.readline(2**20).split(",")]
    if len(cells) < 2:
        raise DataError("line 1 has no commas", where, "separate the label and the pixels with commas")
    if all(_is_number(cell) for cell in cells):
        return len(cells), 0, 0
    named = [column for column, cell in enumerate(cells) if cell in _LABEL_NAMES]
    if len(named) != 1:
        what = "the header names no column `label`" if not named else "the header names more than one label"
        raise DataError(what, f"{where}, line 1", "name the column of the classes `label`")
    return len(cells), named[0], 1


def _parse(path: Path, columns: int, first_row: int) -> np.ndarray:
    """Parse the table as whole numbers, else as floats."""
    for dtype in (np.int32, np.float32):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a file without rows, which is refused below
                table = np.loadtxt(path, dtype, delimiter=",", skiprows=first_row, ndmin=2, encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise
        except ValueError:
            continue
        if not len(table) or table.shape[1] == columns:
            return table
        break
    raise _first_fault(path, columns, first_row)


def _first_fault(path: Path, columns: int, first_row: int) -> DataError:
    """Find what kept the table from being parsed; slow, so only done then."""
    where = printable(path)
    for number, cells in _rows(path, first_row):
        if len(cells) != columns:
            return DataError(f"line {number} has {len(cells)} values, expected {columns}", where, "repair the line")
        for column, cell in enumerate(cells, 1):
            if not _is_number(cell):
                what = f"line {number}, column {column}: {printable(cell[:40])!r} is not a number"
                return DataError(what, where, "repair the line")
    return DataError("the file is not a table of numbers", where, "write `label,pixel1,...`")


def _rows(path: Path, first_row: int) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if number > first_row and line.strip():
                yield number, line.rstrip("\n").split(",")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _pixels(pixels: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(pixels).all():
        row = int((~np.isfinite(pixels)).any(axis=1).argmax())
        raise DataError(f"picture {row + 1} has a pixel that is not finite", where, "replace NaN and infinity")
    return as_bytes([as_pixel_type(pixels, where)])[0]
