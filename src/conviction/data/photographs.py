"""Pictures that come from files: held in memory once decoded, or decoded each time they are asked for."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from conviction.data.decoding import read_picture, read_pictures, read_pixels
from conviction.data.records import Size
from conviction.data.threads import map_in_threads
from conviction.errors import DataError
from conviction.text import list_some, printable

_MEMORY_SHARE = 0.25  # of what is free: the rest is for the net, its optimizer and everything else on the machine
_ASSUMED_BYTES = 4 * 2**30  # free memory, where the system does not tell


@dataclass(eq=False)
class Photographs:
    """A source of the picture files under `root`, as uint8 [n, channels, h, w] of the height and width `size`.

    Where `streams` is false the files are decoded once, at the first `fetch` or `decode`, and held in memory. `faults`
    is what the last `check` found.
    """

    root: Path
    files: tuple[str, ...]
    channels: int
    size: Size
    streams: bool
    held: Tensor | None = field(default=None, repr=False)
    faults: Mapping[str, DataError] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the pictures at `indices`; raises `DataError` that names the files which cannot be decoded."""
        if self.streams:
            wanted = [read_picture(self.root / self.files[i], self.channels, self.size) for i in indices.tolist()]
            return torch.stack(wanted) if wanted else torch.empty(0, self.channels, *self.size, dtype=torch.uint8)
        refuse_broken(self.root, self.decode())
        assert self.held is not None
        return self.held.index_select(0, indices)

    def decode(self) -> dict[str, DataError]:
        """Decode all files into memory, unless that is done; returns the errors by file, and holds only if none."""
        if self.held is not None:
            return {}
        pictures, errors = read_pictures([self.root / file for file in self.files], self.channels, self.size)
        if not errors:
            self.held = pictures
        return {self.files[position]: error for position, error in errors.items()}

    def check(self) -> dict[str, DataError]:
        """Decode all files and keep none, unless that found no error before; returns the errors by file."""

        def decode(file: str) -> DataError | None:
            try:
                read_pixels(self.root / file, self.channels, self.size)
            except DataError as error:
                return error
            return None

        if self.faults is not None and not self.faults:
            return {}
        outcomes = zip(self.files, map_in_threads(decode, self.files), strict=True)
        errors = {file: error for file, error in outcomes if error is not None}
        self.faults = errors
        return errors

    def without(self, dropped: Collection[str]) -> Photographs:
        """Return the source without some of its files."""
        kept = tuple(file for file in self.files if file not in dropped)
        left = None if self.faults is None else {file: self.faults[file] for file in self.faults if file not in dropped}
        return Photographs(self.root, kept, self.channels, self.size, self.streams, faults=left)


def refuse_broken(root: Path, errors: dict[str, DataError], remedy: str = "remove or replace them") -> None:
    """Raise one `DataError` that lists the files that could not be read, if there are any."""
    if errors:
        named = [f"{file} ({error.what})" for file, error in sorted(errors.items())]
        count = "1 picture" if len(errors) == 1 else f"{len(errors)} pictures"
        raise DataError(f"{count} cannot be read: {list_some(named)}", printable(root), remedy)


def held_kinds(bytes_needed: dict[str, int], budget: int | None = None) -> set[str]:
    """Return the splits that are held in memory, the small ones first, while they fit in a quarter of what is free."""
    left = budget if budget is not None else int(available_bytes() * _MEMORY_SHARE)
    kinds = set()
    for kind, needed in sorted(bytes_needed.items(), key=lambda item: item[1]):
        if needed <= left:
            kinds.add(kind)
            left -= needed
    return kinds


def available_bytes() -> int:
    """Return the memory that a new tensor may take without swapping, within this process's control group."""
    return min(_system_bytes(), _group_bytes())


def _system_bytes() -> int:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # macOS tells only what is built in
    except (AttributeError, ValueError, OSError):
        return _ASSUMED_BYTES


def _group_bytes(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return what a container's limit leaves (control groups, version 2); containers see the whole machine's memory."""
    limit, used = ("".join(_lines(group / name)).strip() for name in ("memory.max", "memory.current"))
    return max(0, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else 2**62


def _lines(path: Path) -> Iterable[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
