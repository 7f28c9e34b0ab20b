"""Data sets by name: found in a folder, the cache or the system, else downloaded; fashion-mini is in the package."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from conviction.data.downloading import PinnedFile, Progress, download, is_whole
from conviction.data.held import Pixels, held_data
from conviction.data.idx import read_idx
from conviction.data.records import Data
from conviction.errors import ConvictionError, DataError
from conviction.text import format_bytes, printable, suggest

_CLOTHES = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PACKAGED = Path(__file__).parent / "fashion_mini"
_SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
_WORKS_OFFLINE = "use fashion-mini, which works offline"

_CIFAR_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_CIFAR_RECORD_BYTES = 1 + 3 * 32 * 32
_CIFAR_BATCH_PICTURES = 10_000
_ARCHIVE_MOST_MEMBERS = 64

Paths = dict[str, Path]


@dataclass(frozen=True)
class NamedSet:
    """A published data set: its classes, its files, how they are read, and other folders where it may lie."""

    name: str
    classes: tuple[str, ...]
    files: tuple[PinnedFile, ...]
    read: Callable[[Paths], tuple[Pixels, Pixels]]
    layouts: tuple[str, ...] = ("",)
    system: Path | None = None


def _fashion_file(name: str, size_bytes: int, sha256: str) -> PinnedFile:
    # The authors' repository first: their own address of the README speaks plain http, where the sha256 must do alone.
    urls = (
        f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{name}",
        f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}",
    )
    return PinnedFile(name, urls, size_bytes, sha256)


# Lengths and sums of the files whose MD5 the Fashion-MNIST README publishes.
_FASHION_FILES = (
    _fashion_file(
        "train-images-idx3-ubyte.gz", 26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    _fashion_file(
        "train-labels-idx1-ubyte.gz", 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
    ),
    _fashion_file(
        "t10k-images-idx3-ubyte.gz", 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
    ),
    _fashion_file(
        "t10k-labels-idx1-ubyte.gz", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
)
_CIFAR_ARCHIVE = PinnedFile(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


def _read_fashion(paths: Paths) -> tuple[Pixels, Pixels]:
    return _read_idx_part(paths, "train"), _read_idx_part(paths, "t10k")


def _read_idx_part(paths: Paths, part: str) -> Pixels:
    images, labels = paths[f"{part}-images-idx3-ubyte.gz"], paths[f"{part}-labels-idx1-ubyte.gz"]
    pixels = Pixels(read_idx(images, 3).unsqueeze(1), read_idx(labels, 1).long())
    if len(pixels.pictures) != len(pixels.labels):
        raise DataError(
            f"{len(pixels.pictures)} images and {len(pixels.labels)} labels", printable(labels), "fetch both again"
        )
    if int(pixels.labels.max()) >= len(_CLOTHES):
        raise DataError(f"label {int(pixels.labels.max())} is none of 0 to 9", printable(labels), "fetch it again")
    return pixels


def _read_cifar(paths: Paths) -> tuple[Pixels, Pixels]:
    path = paths[_CIFAR_ARCHIVE.name]
    found: dict[str, Pixels] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for count, member in enumerate(archive):
                if count >= _ARCHIVE_MOST_MEMBERS:
                    raise DataError("the archive holds too many files", printable(path), "fetch it again")
                name = member.name.rpartition("/")[2]
                if name in (*_CIFAR_BATCHES, "test_batch.bin"):
                    found[name] = _read_cifar_batch(archive, member, path)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"the archive is damaged: {printable(error)}", printable(path), "fetch it again") from error
    missing = [name for name in (*_CIFAR_BATCHES, "test_batch.bin") if name not in found]
    if missing:
        raise DataError(f"the archive has no {missing[0]}", printable(path), "use the binary version of CIFAR-10")
    parts = [found[name] for name in _CIFAR_BATCHES]
    train = Pixels(torch.cat([part.pictures for part in parts]), torch.cat([part.labels for part in parts]))
    return train, found["test_batch.bin"]


def _read_cifar_batch(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Pixels:
    """Read 10,000 records of one label byte and three planes of 32 x 32 pixels, straight out of the archive."""
    size = _CIFAR_BATCH_PICTURES * _CIFAR_RECORD_BYTES
    stream = archive.extractfile(member) if member.isreg() and member.size == size else None
    content = stream.read(size) if stream is not None else b""
    if len(content) != size:
        raise DataError(f"{printable(member.name)} has not {size} bytes", printable(path), "fetch the archive again")
    records = torch.from_numpy(np.frombuffer(bytearray(content), np.uint8).reshape(-1, _CIFAR_RECORD_BYTES))
    labels = records[:, 0].long()
    if int(labels.max()) >= len(_OBJECTS):
        raise DataError(f"a label of {printable(member.name)} is none of 0 to 9", printable(path), "fetch it again")
    return Pixels(records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), labels)


SETS: dict[str, NamedSet] = {
    row.name: row
    for row in (
        NamedSet("fashion-mini", _CLOTHES, _FASHION_FILES, _read_fashion),
        NamedSet("fashion-mnist", _CLOTHES, _FASHION_FILES, _read_fashion, ("", "FashionMNIST/raw"), _SYSTEM),
        NamedSet("cifar10", _OBJECTS, (_CIFAR_ARCHIVE,), _read_cifar),
    )
}


def read_named(
    name: str,
    *,
    image_size: int | None = None,
    data_root: str | Path | None = None,
    valid_share: float = 0.1,
    seed: int = 0,
    offline: bool = False,
    progress: Progress | None = None,
) -> Data:
    """Read the data set `name`: `fashion-mini`, `fashion-mnist` (both 1x28x28) or `cifar10` (3x32x32).

    It is looked for in `data_root` (else the environment's CONVICTION_DATA), the cache, the system's own copy, and then
    downloaded unless `offline`; `progress(file, done_bytes, total_bytes)` is told. `valid_share` of each class of the
    training pictures becomes the validation split, chosen by `seed`. `image_size` resizes on the device.

    Raises `DataError` for an unknown name, a damaged file or a set that is nowhere, `TemporaryError` if the network
    failed, `ResourceError` if the cache cannot be written to.
    """
    if name not in SETS:
        known = f"use one of {', '.join(SETS)}, or a folder of images"
        raise DataError(f"unknown data set {printable(name)!r}{suggest(name, SETS)}", "", known)
    row = SETS[name]
    paths, notes = _find(row, data_root, offline, progress)
    train, test = row.read(paths)
    made = held_data(name, row.classes, train, test, mirrors=True, valid_share=valid_share, seed=seed, notes=notes)
    return made(image_size)


def cache_folder() -> Path:
    """Return the folder that keeps downloaded data: `conviction` in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "conviction"


def _find(
    row: NamedSet, data_root: str | Path | None, offline: bool, progress: Progress | None
) -> tuple[Paths, tuple[str, ...]]:
    """Return where the files of a set lie, and notes that say so."""
    if row.name == "fashion-mini":
        return {file.name: _PACKAGED / file.name for file in row.files}, ()
    root = data_root or os.environ.get("CONVICTION_DATA")
    tried = []
    own = [Path(root).expanduser() / row.name, *(Path(root).expanduser() / sub for sub in row.layouts)] if root else []
    for folder in own:
        tried.append(folder)
        if paths := _all_in(folder, row):
            return paths, (f"read from {printable(folder)}",)
    cache = cache_folder() / row.name
    damaged = [
        file.name for file in row.files if (cache / file.name).exists() and not is_whole(cache / file.name, file)
    ]
    tried.append(cache)
    if not damaged and (paths := _all_in(cache, row)):
        return paths, (f"read from {printable(cache)}",)
    if row.system is not None:
        tried.append(row.system)
        if paths := _all_in(row.system, row):
            return paths, (f"read from {printable(row.system)}",)
    return _download(row, cache, tried, damaged, offline, progress)


def _all_in(folder: Path, row: NamedSet) -> Paths | None:
    """Return the paths of all files of a set in a folder, gzipped or unpacked, or nothing if one is missing."""
    paths = {}
    for file in row.files:
        choices = [folder / file.name]
        if file.name.endswith("-ubyte.gz"):
            choices.append(folder / file.name.removesuffix(".gz"))
        present = [path for path in choices if path.is_file()]
        if not present:
            return None
        paths[file.name] = present[0]
    return paths


def _download(
    row: NamedSet, cache: Path, tried: list[Path], damaged: list[str], offline: bool, progress: Progress | None
) -> tuple[Paths, tuple[str, ...]]:
    places = "looked in " + ", ".join(printable(folder) for folder in tried)
    if damaged:
        places += f" ({damaged[0]} in the cache is damaged)"
    if offline:
        raise DataError(f"{row.name} is not on this machine and downloads are off", places, _WORKS_OFFLINE)
    try:
        paths = {file.name: download(file, cache, progress) for file in row.files}
    except ConvictionError as error:
        remedy = f"{error.remedy}, or {_WORKS_OFFLINE}" if error.remedy else f"try again later, or {_WORKS_OFFLINE}"
        raise type(error)(
            f"{row.name} is not on this machine: {error.what}", f"{places}{_also(error.where)}", remedy
        ) from error
    total = format_bytes(sum(file.size_bytes for file in row.files))
    notes = tuple(f"{name} in the cache was damaged and was fetched again" for name in damaged)
    return paths, (*notes, f"downloaded {total} to {printable(cache)}")


def _also(where: str) -> str:
    return f"; {where}" if where else ""
