"""Data sets in files of pixels: a CSV with a pixel a column, IDX pairs as MNIST's, NumPy's .npz."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conviction.data.csv_pixels import read_csv
from conviction.data.held import Pixels, held_data
from conviction.data.idx import read_idx
from conviction.data.pixel_types import as_bytes, as_pixel_type
from conviction.data.records import Data
from conviction.errors import DataError
from conviction.text import list_some, printable

_KINDS = "give a .csv of pixels, an IDX file (*-ubyte, *-ubyte.gz) or an .npz"
_TRAIN_KEYS = (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y"))
_TEST_KEYS = (("x_test", "y_test"), ("test_images", "test_labels"))
_LARGEST_BYTES = 2**36


@dataclass(frozen=True)
class _Arrays:
    """Pictures [N, C, h, w] and labels [N] of any type that can be sorted, as a file has them."""

    pictures: Tensor
    labels: np.ndarray
    where: str


def holds_pixel_files(folder: Path) -> bool:
    """Whether a folder directly holds a pair of IDX files, images and labels."""
    return bool(_idx_pairs(folder))


def read_pixel_file(
    path: str | Path, *, image_size: int | None = None, valid_share: float = 0.1, seed: int = 0
) -> Data:
    """Read a data set from a file of pixels (or a folder that holds IDX pairs).

    * CSV: `label,pixel1,...`, with or without a header; 784 pixels (28 x 28), 3072 (3 x 32 x 32) or another square.
    * IDX: images (`*-images*idx3-ubyte`, gzipped or not) with the labels beside them; where both train and t10k (or
      test) are there, the latter becomes the test split.
    * npz: `x_train, y_train` and, where there is one, `x_test, y_test`; or `images, labels`; or `x, y`. Pictures are
      [N, H, W], [N, H, W, C] or [N, C, H, W], uint8 or floats of any scale.

    Floats that hold bytes, as whole numbers from 0 to 255 or divided by 255, become bytes: the pictures are then the
    same as those of a file of bytes or a folder. Other floats are the user's own scale.

    Classes are the labels found, in rising order. `valid_share` of each class of the training pictures is held out,
    chosen by `seed`. `image_size` resizes on the device. Raises `DataError` that names the line or key at fault.
    """
    path = Path(path)
    train, test = _read(path)
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise DataError("there is only one class", train.where, "give pictures of two classes or more")
    if test is not None and len(strange := np.setdiff1d(test.labels, classes)):
        found = list_some([str(label) for label in strange])
        raise DataError(f"the labels {found} are not in the training part", test.where, "check the labels")
    notes = () if test is not None else ("the file has no test part",)
    made = held_data(
        path.name,
        tuple(str(name) for name in classes),
        _numbered(train, classes),
        None if test is None else _numbered(test, classes),
        mirrors=False,  # such files hold digits and letters more often than not
        valid_share=valid_share,
        seed=seed,
        notes=notes,
    )
    return made(image_size)


def _read(path: Path) -> tuple[_Arrays, _Arrays | None]:
    where = printable(path)
    if path.is_dir() or "ubyte" in path.name:
        return _read_idx_pairs(path)
    if not path.is_file():
        raise DataError("no such file", where, "check the path")
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    if path.suffix.lower() in {".csv", ".txt"}:
        pictures, labels = read_csv(path)
        return _Arrays(_squared(pictures, where), labels, where), None
    raise DataError("not a kind of file that is known", where, _KINDS)


def _numbered(arrays: _Arrays, classes: np.ndarray) -> Pixels:
    return Pixels(arrays.pictures, torch.from_numpy(np.searchsorted(classes, arrays.labels)).long())


def _squared(rows: np.ndarray, where: str) -> Tensor:
    """Turn rows of pixels into square pictures of one channel, or of three planes."""
    count = rows.shape[1]
    for channels in (1, 3):
        side = round((count / channels) ** 0.5)
        if channels * side * side == count:
            return torch.from_numpy(rows).view(-1, channels, side, side)
    raise DataError(f"{count} pixels make no square picture", where, "give 784 (28 x 28) or 3072 (3 x 32 x 32) pixels")


# IDX


def _read_idx_pairs(path: Path) -> tuple[_Arrays, _Arrays | None]:
    folder = path if path.is_dir() else path.parent
    pairs = _idx_pairs(folder)
    if not path.is_dir():
        own = [part for part, pair in pairs.items() if path in pair]
        if not own:
            raise DataError("the file has no partner (images with labels)", printable(path), "put both into one folder")
        if _is_test(own[0]):
            raise DataError("this is the test part", printable(path), f"give the training part or {printable(folder)}")
        pairs = {part: pair for part, pair in pairs.items() if part == own[0] or _is_test(part)}
    training = [part for part in pairs if not _is_test(part)]
    if len(training) != 1:
        what = f"{len(training)} training parts" if training else "no pair of IDX files to train on"
        raise DataError(what, printable(folder), "give one images file and its labels, such as train-images-idx3-ubyte")
    testing = [part for part in pairs if _is_test(part)]
    return _read_pair(*pairs[training[0]]), _read_pair(*pairs[testing[0]]) if testing else None


def _is_test(part: str) -> bool:
    return part.startswith(("t10k", "test")) or part.endswith("test")


def _idx_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return (images, labels) by what stands before `images` in their names, such as `train` and `t10k`."""
    if not folder.is_dir():
        return {}
    files = {path.name.removesuffix(".gz"): path for path in sorted(folder.glob("*ubyte*")) if path.is_file()}
    pairs = {}
    for name, path in files.items():
        labels = name.replace("images", "labels").replace("idx3", "idx1")
        if "images" in name and labels in files:
            pairs[name.partition("images")[0].rstrip("-_.")] = (path, files[labels])
    return pairs


def _read_pair(images: Path, labels: Path) -> _Arrays:
    pictures, numbers = read_idx(images, 3).unsqueeze(1), read_idx(labels, 1).numpy()
    _check_counts(len(pictures), len(numbers), printable(labels))
    return _Arrays(pictures, numbers, printable(images))


# npz


def _read_npz(path: Path) -> tuple[_Arrays, _Arrays | None]:
    where = printable(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError("the file is no .npz archive", where, "write it with numpy.savez")
            _check_archive(path)
            keys = {key.lower(): key for key in archive.files}
            train, test = _pair(archive, keys, _TRAIN_KEYS, where), _pair(archive, keys, _TEST_KEYS, where)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(
            f"the archive cannot be read: {printable(error)}", where, "write it with numpy.savez"
        ) from error
    if train is None:
        found = list_some(sorted(keys)) or "nothing"
        raise DataError(f"the archive holds {found}", where, "name the arrays x_train, y_train, or images, labels")
    return _of_one_type(train, test)


def _of_one_type(train: _Arrays, test: _Arrays | None) -> tuple[_Arrays, _Arrays | None]:
    """Turn floats that hold bytes into bytes, looking at both parts at once so that both get the same scale."""
    parts = [train] if test is None else [train, test]
    made = as_bytes([part.pictures.numpy() for part in parts])
    if made[-1].dtype != made[0].dtype:
        what = f"the test pixels are {made[-1].dtype}, those to train on {made[0].dtype}"
        raise DataError(what, parts[-1].where, "scale both alike")
    train, *rest = (replace(part, pictures=torch.from_numpy(p)) for part, p in zip(parts, made, strict=True))
    return train, rest[0] if rest else None


def _check_archive(path: Path) -> None:
    """Refuse archives that unpack to more than could be meant."""
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _LARGEST_BYTES:
            raise DataError("the archive unpacks to more than 64 GiB", printable(path), "split it up")


def _pair(
    archive: np.lib.npyio.NpzFile, keys: dict[str, str], wanted: Sequence[tuple[str, str]], where: str
) -> _Arrays | None:
    for images_key, labels_key in wanted:
        if images_key in keys:
            if labels_key not in keys:
                raise DataError(f"there is {images_key} and no {labels_key}", where, f"add the labels as {labels_key}")
            images_at, labels_at = f"{where}, key {images_key}", f"{where}, key {labels_key}"
            pictures = _as_pictures(archive[keys[images_key]], images_at)
            labels = _as_labels(archive[keys[labels_key]], labels_at)
            _check_counts(len(pictures), len(labels), labels_at)
            return _Arrays(pictures, labels, images_at)
    return None


def _as_pictures(values: np.ndarray, where: str) -> Tensor:
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[3] in {1, 3, 4} and values.shape[1] not in {1, 3, 4}:
        values = np.moveaxis(values, 3, 1)
    elif values.ndim != 4 or values.shape[1] not in {1, 3, 4}:
        shape = "x".join(map(str, values.shape)) or "a single number"
        raise DataError(f"pictures of shape {shape}", where, "use [N, H, W], [N, H, W, C] or [N, C, H, W]")
    if not values.size:
        raise DataError("there are no pictures", where, "check the file")
    return torch.from_numpy(np.ascontiguousarray(as_pixel_type(values, where)))


def _as_labels(values: np.ndarray, where: str) -> np.ndarray:
    if values.ndim == 2 and values.shape[1] == 1:  # as Keras gives CIFAR's
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"labels with {values.ndim} axes", where, "give one label for each picture, not one-hot rows")
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == values.round()).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iuU":
        raise DataError(f"labels of type {values.dtype}", where, "give whole numbers or names")
    return values


def _check_counts(pictures: int, labels: int, where: str) -> None:
    if pictures != labels:
        raise DataError(f"{pictures} pictures and {labels} labels", where, "give one label for each picture")
