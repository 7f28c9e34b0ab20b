"""The IDX format of MNIST: a header that tells type and shape, then the values; often gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from conviction.errors import DataError
from conviction.text import format_bytes, printable

_UNSIGNED_BYTES = 8
_LARGEST_BYTES = 2**33


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or not, into a uint8 tensor with `dimensions` axes.

    Raises `DataError` for a file that is missing, damaged, of other values or axes, or shorter or longer than it says.
    """
    where = printable(path)
    try:
        with open_maybe_gzipped(path) as file:
            return _parse(file, dimensions, where)
    except FileNotFoundError as error:
        raise DataError("no such file", where, "check the path") from error
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"the file is damaged: {printable(error)}", where, "fetch it again") from error


def open_maybe_gzipped(path: Path) -> BinaryIO:
    """Open a file for reading through gzip where its first bytes say so, whatever its name."""
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return cast("BinaryIO", gzip.open(path, "rb")) if gzipped else path.open("rb")


def _parse(file: BinaryIO, dimensions: int, where: str) -> Tensor:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError("the file is not in IDX format", where, "give a file such as train-images-idx3-ubyte.gz")
    if magic[2] != _UNSIGNED_BYTES or magic[3] != dimensions:
        raise DataError(
            f"IDX values of type 0x{magic[2]:02x} with {magic[3]} axes, expected unsigned bytes with {dimensions}",
            where,
            "images have 3 axes (idx3-ubyte), labels 1 (idx1-ubyte)",
        )
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError("the file ends inside its header", where, "fetch it again")
    shape = struct.unpack(f">{dimensions}I", header)
    return _read_values(file, shape, where)


def _read_values(file: BinaryIO, shape: tuple[int, ...], where: str) -> Tensor:
    size = 1
    for length in shape:
        size *= length
    if not 0 < size <= _LARGEST_BYTES:
        raise DataError(f"the header asks for {format_bytes(size)}", where, "fetch the file again")
    values = file.read(size + 1)  # one more than promised, to see what follows
    if len(values) != size:
        amount = f"only {len(values)}" if len(values) < size else "more"
        raise DataError(f"the header promises {size} values and the file has {amount}", where, "fetch the file again")
    return torch.from_numpy(np.frombuffer(bytearray(values), dtype=np.uint8).reshape(shape))


def format_idx(values: Tensor) -> bytes:
    """Write a uint8 tensor in IDX format, not compressed."""
    header = struct.pack(f">4B{values.ndim}I", 0, 0, _UNSIGNED_BYTES, values.ndim, *values.shape)
    return header + values.contiguous().numpy().tobytes()
