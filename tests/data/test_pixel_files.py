"""Files of pixels: CSV, IDX and npz give the pictures that were put in, and every malformed one names its place."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from conviction.data.idx import format_idx
from conviction.data.pixel_files import holds_pixel_files, read_pixel_file
from conviction.data.records import Data
from conviction.errors import DataError

COUNT = 30


def make_pictures(channels: int = 1, side: int = 28, count: int = COUNT) -> np.ndarray:
    shape = (count, channels, side, side)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


LABELS = np.arange(COUNT) % 3


def write_csv(path: Path, rows: np.ndarray, labels: np.ndarray, header: bool = True, form: str = "{}") -> Path:
    lines = [",".join(["label", *(f"pixel{i}" for i in range(rows.shape[1]))])] if header else []
    lines += [
        ",".join([str(label), *(form.format(value) for value in row)]) for label, row in zip(labels, rows, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_idx(folder: Path, part: str, pictures: np.ndarray, labels: np.ndarray, packed: bool = True) -> Path:
    pack = gzip.compress if packed else bytes
    suffix = ".gz" if packed else ""
    images = folder / f"{part}-images-idx3-ubyte{suffix}"
    images.write_bytes(pack(format_idx(torch.from_numpy(pictures))))
    labels_file = folder / f"{part}-labels-idx1-ubyte{suffix}"
    labels_file.write_bytes(pack(format_idx(torch.from_numpy(labels.astype(np.uint8)))))
    return images


def contents(data: Data, *kinds: str) -> list[tuple[str, bytes]]:
    """The class name and pixels of every picture of some splits, in an order of their own."""
    found = []
    for split in (data.splits[kind] for kind in kinds):
        assert split.labels is not None
        pictures = split.source.fetch(torch.arange(len(split)))
        found += [
            (data.classes[int(label)], picture.numpy().tobytes())
            for picture, label in zip(pictures, split.labels, strict=True)
        ]
    return sorted(found)


def expected(pictures: np.ndarray, labels: np.ndarray) -> list[tuple[str, bytes]]:
    return sorted((str(label), picture.tobytes()) for picture, label in zip(pictures, labels, strict=True))


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (1, 8)])
@pytest.mark.parametrize("header", [True, False])
def test_csv_round_trip(tmp_path: Path, channels: int, side: int, header: bool) -> None:
    pictures = make_pictures(channels, side)
    data = read_pixel_file(write_csv(tmp_path / "digits.csv", pictures.reshape(COUNT, -1), LABELS, header))
    assert data.image == (channels, side, side)
    assert data.classes == ("0", "1", "2")
    assert contents(data, "train", "valid") == expected(pictures, LABELS)
    assert data.test is None
    assert not data.mirrors
    assert data.name == "digits.csv"


def test_csv_of_floats_and_label_last(tmp_path: Path) -> None:
    pictures = make_pictures()
    rows = pictures.reshape(COUNT, -1)
    whole = read_pixel_file(write_csv(tmp_path / "a.csv", rows, LABELS, form="{}.0"))
    assert contents(whole, "train", "valid") == expected(pictures, LABELS)
    scaled = read_pixel_file(write_csv(tmp_path / "b.csv", rows / 255, LABELS, form="{:.6f}"))
    assert contents(scaled, "train", "valid") == expected(pictures, LABELS)
    own = read_pixel_file(write_csv(tmp_path / "d.csv", rows / 300, LABELS, form="{:.6f}"))
    assert own.train.source.fetch(torch.tensor([0])).dtype == torch.float32
    assert own.preprocessing.mean == pytest.approx([mean * 0.85 for mean in whole.preprocessing.mean], abs=1e-4)
    assert (whole.preprocessing.scale, own.preprocessing.scale) == ("uint8", "own")
    lines = [",".join([*(f"p{i}" for i in range(784)), "class"])]
    lines += [",".join(map(str, [*row, label])) for row, label in zip(rows, LABELS, strict=True)]
    (tmp_path / "c.csv").write_text("﻿" + "\r\n".join(lines), encoding="utf-8")
    assert contents(read_pixel_file(tmp_path / "c.csv"), "train", "valid") == expected(pictures, LABELS)


BAD_CSV = {
    "word": (lambda lines: [*lines[:5], lines[5].replace(",", ",x", 1), *lines[6:]], "line 6, column 2: 'x"),
    "short line": (lambda lines: [*lines[:9], lines[9][:50].rpartition(",")[0], *lines[10:]], "line 10 has"),
    "all short": (lambda lines: [line.rpartition(",")[0] for line in lines], "783 pixels make no square"),
    "too bright": (lambda lines: [*lines, "0," + ",".join(["256"] * 784)], "pixels from 0 to 256"),
    "negative": (lambda lines: [*lines, "0," + ",".join(["-1"] * 784)], "pixels from -1 to 255"),
    "no label": (lambda lines: [lines[0].replace("label", "id"), *lines[1:]], "no column `label`.*line 1"),
    "half a label": (lambda lines: [*lines, "0.5," + ",".join(["1"] * 784)], "picture 31 has the label 0.5"),
    "nan": (lambda lines: [*lines, "0," + ",".join(["nan"] * 784)], "picture 31 has a pixel that is not finite"),
    "empty value": (lambda lines: [*lines, "0," + ",".join([""] * 784)], "line 32, column 2: '' is not a number"),
    "no rows": (lambda lines: lines[:1], "no rows"),
    "empty": (lambda lines: [""], "line 1 has no commas"),
    "one class": (lambda lines: lines[:1] + [f"7,{','.join(['1'] * 784)}"] * 4, "only one class"),
    "semicolons": (lambda lines: [line.replace(",", ";") for line in lines], "line 1 has no commas"),
}


@pytest.mark.parametrize(("spoil", "said"), BAD_CSV.values(), ids=BAD_CSV)
def test_a_malformed_csv_names_its_place(tmp_path: Path, spoil, said: str) -> None:
    path = write_csv(tmp_path / "digits.csv", make_pictures().reshape(COUNT, -1), LABELS)
    path.write_text("\n".join(spoil(path.read_text().splitlines())) + "\n")
    check_refused(path, said)


def check_refused(path: Path, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_pixel_file(path)
    assert str(path.name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"label,\xff\xfe\n1,2\n")
    check_refused(tmp_path / "a.csv", "not text in UTF-8")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("give", ["images", "labels", "folder"])
def test_idx_pairs_with_a_test_part(tmp_path: Path, packed: bool, give: str) -> None:
    pictures, more = make_pictures()[:, 0], make_pictures(count=12)[:, 0]
    images = write_idx(tmp_path, "train", pictures, LABELS, packed)
    write_idx(tmp_path, "t10k", more, np.arange(12) % 3, packed)
    labels = Path(str(images).replace("images-idx3", "labels-idx1"))
    assert holds_pixel_files(tmp_path)
    data = read_pixel_file({"images": images, "labels": labels, "folder": tmp_path}[give])
    assert contents(data, "train", "valid") == expected(pictures, LABELS)
    assert contents(data, "test") == expected(more, np.arange(12) % 3)


def test_a_single_idx_pair_and_labels_that_start_at_one(tmp_path: Path) -> None:
    pictures = make_pictures()[:, 0]
    data = read_pixel_file(write_idx(tmp_path, "emnist-letters", pictures, LABELS + 1))
    assert data.classes == ("1", "2", "3")
    assert data.test is None
    assert contents(data, "train", "valid") == expected(pictures, LABELS + 1)


def test_odd_idx_folders_are_refused(tmp_path: Path) -> None:
    assert not holds_pixel_files(tmp_path)
    check_refused(tmp_path, "no pair of IDX files")
    images = write_idx(tmp_path, "train", make_pictures()[:, 0], LABELS[:-1])
    check_refused(tmp_path, "30 pictures and 29 labels")
    write_idx(tmp_path, "other", make_pictures()[:, 0], LABELS)
    check_refused(tmp_path, "2 training parts")
    test = write_idx(tmp_path, "t10k", make_pictures()[:, 0], LABELS)
    check_refused(test, "this is the test part")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    check_refused(images, "no partner")


def test_a_label_only_in_the_test_part_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", make_pictures()[:, 0], LABELS)
    write_idx(tmp_path, "t10k", make_pictures()[:, 0], LABELS + 2)
    with pytest.raises(DataError, match=r"the labels 3, 4 are not in the training part, .*t10k-images"):
        read_pixel_file(tmp_path)


LAYOUTS = {
    "NHW": lambda pictures: pictures[:, 0],
    "NCHW": lambda pictures: pictures,
    "NHWC": lambda pictures: np.moveaxis(pictures, 1, 3),
    "int64": lambda pictures: pictures.astype(np.int64),
    "whole floats": lambda pictures: pictures.astype(np.float64),
    "float32 of 0 to 1": lambda pictures: pictures.astype(np.float32) / 255,
    "float64 of 0 to 1": lambda pictures: pictures / 255,
}
KEYS = [("x_train", "y_train"), ("images", "labels"), ("x", "y"), ("X", "Y")]


@pytest.mark.parametrize("keys", KEYS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_npz_round_trip(tmp_path: Path, keys: tuple[str, str], layout: str) -> None:
    pictures = make_pictures(1 if layout == "NHW" else 3, 16)
    np.savez_compressed(tmp_path / "a.npz", **{keys[0]: LAYOUTS[layout](pictures), keys[1]: LABELS[:, None]})
    data = read_pixel_file(tmp_path / "a.npz")
    assert data.image == (pictures.shape[1], 16, 16)
    assert contents(data, "train", "valid") == expected(pictures, LABELS)


def test_npz_with_floats_names_and_a_test_part(tmp_path: Path) -> None:
    pictures = make_pictures(3, 16) / 100 - 1
    names = np.array(["cat", "dog", "owl"])[LABELS]
    np.savez(tmp_path / "a.npz", x_train=pictures, y_train=names, x_test=pictures[:6], y_test=names[:6])
    data = read_pixel_file(tmp_path / "a.npz", image_size=20)
    assert data.classes == ("cat", "dog", "owl")
    assert data.image == (3, 20, 20)
    assert contents(data, "test") == expected(pictures[:6].astype(np.float32), names[:6])
    images = data.resized(16).preprocessing.apply(data.train.source.fetch(torch.arange(len(data.train))))
    assert images.mean().item() == pytest.approx(0, abs=1e-4)


BAD_NPZ = {
    "objects": ({"x": np.array([{}, {}], dtype=object), "y": LABELS}, "cannot be read: Object arrays"),
    "keys": ({"foo": LABELS}, "the archive holds foo"),
    "no labels": ({"x_train": make_pictures()}, "there is x_train and no y_train"),
    "counts": ({"x": make_pictures(), "y": LABELS[:-2]}, "30 pictures and 28 labels, .*key y"),
    "one-hot": ({"x": make_pictures(), "y": np.eye(3)[LABELS]}, "labels with 2 axes, .*key y"),
    "fractions": ({"x": make_pictures(), "y": LABELS + 0.5}, "labels of type float64"),
    "flat": ({"x": make_pictures().reshape(COUNT, -1), "y": LABELS}, "pictures of shape 30x784, .*key x"),
    "nan": ({"x": np.full((30, 4, 4), np.nan), "y": LABELS}, "not finite"),
    "bright": ({"x": make_pictures() + np.int32(9), "y": LABELS}, "pixels from 9 to 264"),
    "words": ({"x": np.full((30, 4, 4), "a"), "y": LABELS}, "pixels of type"),
    "none": ({"x": np.zeros((0, 4, 4), np.uint8), "y": LABELS[:0]}, "no pictures"),
}


@pytest.mark.parametrize(("arrays", "said"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_a_malformed_npz_names_its_key(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    check_refused(tmp_path / "a.npz", said)


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    np.savez(tmp_path / "a.npz", x=np.array([Payload()], dtype=object), y=np.array([0]))
    check_refused(tmp_path / "a.npz", "cannot be read")
    np.save(tmp_path / "b.npy", np.array([Payload()], dtype=object))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    check_refused(tmp_path / "b.npz", "cannot be read")
    assert not canary.exists()


def test_files_that_are_no_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "cut.npz", x=make_pictures(), y=LABELS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:5000])
    check_refused(tmp_path / "cut.npz", "cannot be read")
    (tmp_path / "photo.jpg").write_bytes(b"")
    check_refused(tmp_path / "photo.jpg", "not a kind of file")
    check_refused(tmp_path / "missing.csv", "no such file")


def test_the_split_follows_seed_and_share(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=make_pictures(), y=LABELS)
    first, second = read_pixel_file(path, valid_share=0.2), read_pixel_file(path, valid_share=0.2, seed=1)
    assert len(first.valid) == 6
    assert contents(first, "valid") != contents(second, "valid")


@pytest.mark.parametrize("spoilt", [0.002, -1 / 255, 1.5], ids=["between", "below", "above"])
def test_one_value_that_is_no_byte_keeps_all_floats(tmp_path: Path, spoilt: float) -> None:
    pictures = make_pictures(count=600) / 255
    pictures[599, 0, 5, 5] = spoilt
    np.savez(tmp_path / "a.npz", x=pictures, y=np.arange(600) % 3)
    data = read_pixel_file(tmp_path / "a.npz")
    assert data.train.source.fetch(torch.tensor([0])).dtype == torch.float32
    assert data.preprocessing.scale == "own"


def test_both_parts_get_one_scale(tmp_path: Path) -> None:
    bright, dark = make_pictures(), make_pictures(count=6) % 2
    for factor in (1.0, 1 / 255):
        np.savez(tmp_path / "a.npz", x_train=bright * factor, y_train=LABELS, x_test=dark * factor, y_test=LABELS[:6])
        assert contents(read_pixel_file(tmp_path / "a.npz"), "test") == expected(dark, LABELS[:6])
    np.savez(tmp_path / "a.npz", x_train=bright, y_train=LABELS, x_test=dark / 300, y_test=LABELS[:6])
    check_refused(tmp_path / "a.npz", "the test pixels are float32, those to train on uint8, .*key x_test")
