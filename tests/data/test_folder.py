"""Folders of photographs: how they are listed, refused, split, sized, held and streamed."""

import os
import socket
import struct
import unicodedata
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conviction.data import audit_any, open_data, photographs
from conviction.data.folder import MEASURED_PICTURES, load, read_folder
from conviction.data.listing import list_folder, pictures_below
from conviction.data.photographs import Photographs, available_bytes, held_kinds
from conviction.data.splitting import hold_out_files, same_contents
from conviction.errors import DataError, UsageError


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """Write a picture of noise, different for each seed; `size` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if mode == "RGB" else size
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def photos(root: Path, counts: dict[str, int], **options) -> Path:
    """Write class folders with so many different pictures each."""
    for place, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(root / name / f"{number:03}.png", seed=1000 * place + number + sum(root.name.encode()), **options)
    return root


def counts(data) -> dict[str, dict[str, int]]:
    return {
        kind: {data.classes[label]: count for label, count in sorted(Counter(split.labels.tolist()).items())}
        for kind, split in data.splits.items()
    }


def test_class_folders_are_split_three_ways(tmp_path):
    data = read_folder(photos(tmp_path / "pets", {"dog": 30, "cat": 20}))
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert counts(data) == {
        "train": {"cat": 16, "dog": 24},
        "valid": {"cat": 2, "dog": 3},
        "test": {"cat": 2, "dog": 3},
    }
    files = [name for split in data.splits.values() for name in split.names]
    assert len(set(files)) == 50
    for split in data.splits.values():
        assert [data.classes.index(name.split("/")[0]) for name in split.names] == split.labels.tolist()


def test_every_picture_carries_its_own_file_and_label(tmp_path):
    data = read_folder(photos(tmp_path, {"a": 12, "b": 12}))
    for split in data.splits.values():
        for index, name in enumerate(split.names):
            expected = np.asarray(Image.open(tmp_path / name)).transpose(2, 0, 1)
            assert np.array_equal(split.source.fetch(torch.tensor([index]))[0], expected), name


def test_the_split_depends_on_the_seed_and_on_nothing_else(tmp_path):
    photos(tmp_path, {"a": 40, "b": 40})
    first, again, other = (read_folder(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert first.test.names == again.test.names
    assert first.test.names != other.test.names
    picture(tmp_path / "a" / "new.png", seed=77777)
    moved = set(first.test.names) - set(read_folder(tmp_path, seed=0).test.names)
    assert len(moved) <= 1


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "Val"])
def test_own_splits_are_kept_and_labels_go_by_name(tmp_path, valid):
    photos(tmp_path / "train", {"ant": 5, "bee": 5, "cat": 5})
    photos(tmp_path / valid, {"bee": 2, "cat": 3})
    photos(tmp_path / "test", {"cat": 2})
    data = read_folder(tmp_path)
    assert counts(data) == {"train": {"ant": 5, "bee": 5, "cat": 5}, "valid": {"bee": 2, "cat": 3}, "test": {"cat": 2}}
    assert data.test.names == ("test/cat/000.png", "test/cat/001.png")


def test_a_missing_validation_is_split_off_train_and_a_missing_test_is_not_made(tmp_path):
    photos(tmp_path / "a" / "train", {"x": 10, "y": 10})
    photos(tmp_path / "a" / "test", {"x": 2, "y": 2})
    data = read_folder(tmp_path / "a", valid_share=0.2)
    assert [len(split) for split in data.splits.values()] == [16, 4, 4]
    photos(tmp_path / "b" / "train", {"x": 10, "y": 10})
    photos(tmp_path / "b" / "val", {"x": 2, "y": 2})
    assert read_folder(tmp_path / "b").test is None
    photos(tmp_path / "c" / "train", {"x": 10, "y": 10})
    (tmp_path / "c" / "models").mkdir()
    data = read_folder(tmp_path / "c")
    assert [len(split) for split in data.splits.values()] == [16, 2, 2]
    assert "ignored 1 folders beside train: models" in data.notes
    assert read_folder(tmp_path / "c", test_share=0).test is None


def test_pictures_of_a_test_folder_without_classes_are_said_and_left(tmp_path):
    photos(tmp_path / "train", {"x": 10, "y": 10})
    picture(tmp_path / "test" / "1.png", 1)
    data = read_folder(tmp_path)
    assert [len(split) for split in data.splits.values()] == [16, 2, 2]
    assert "ignored 1 pictures that lie in no class: test/1.png" in data.notes


def test_identical_files_stay_on_one_side(tmp_path):
    photos(tmp_path, {"a": 20, "b": 20})
    for number in range(20):
        (tmp_path / "a" / f"copy-{number}.png").write_bytes((tmp_path / "a" / "000.png").read_bytes())
        (tmp_path / "b" / f"copy-{number}.png").write_bytes((tmp_path / "b" / f"{number:03}.png").read_bytes())
    (tmp_path / "b" / "mislabelled.png").write_bytes((tmp_path / "a" / "001.png").read_bytes())
    for seed in range(5):
        data = read_folder(tmp_path, seed=seed)
        sides = {kind: {(tmp_path / name).read_bytes() for name in split.names} for kind, split in data.splits.items()}
        assert not sides["train"] & sides["valid"]
        assert not sides["train"] & sides["test"]
        assert not sides["valid"] & sides["test"]


@pytest.mark.parametrize("count", range(1, 12))
def test_every_class_of_three_is_in_every_split(count):
    pool = {"a": [f"a/{number}" for number in range(count)]}
    for shares in ({"valid": 0.1, "test": 0.1}, {"valid": 0.5, "test": 0.45}, {"valid": 0.1}):
        found = Counter(hold_out_files(pool, {}, shares, seed=3).values())
        held = sum(found.values())
        assert held < count
        assert set(found) == (set(shares) if count >= 3 else {"valid"} if count == 2 else set())


def test_a_class_of_copies_only_is_trained_on(tmp_path):
    photos(tmp_path, {"a": 10, "b": 1})
    for number in range(9):
        (tmp_path / "b" / f"{number + 1:03}.png").write_bytes((tmp_path / "b" / "000.png").read_bytes())
    assert counts(read_folder(tmp_path))["train"]["b"] == 10
    photos(tmp_path / "lone", {"a": 1, "b": 1})
    with pytest.raises(DataError, match="none can be held out"):
        read_folder(tmp_path / "lone")


def test_copies_are_not_held_out_while_there_are_others():
    pool = {"a": [f"a/{number}" for number in range(10)]}
    contents = {f"a/{number}": number // 2 for number in range(4)}
    for seed in range(10):
        held_out = hold_out_files(pool, contents, {"valid": 0.25, "test": 0.25}, seed)
        assert len(held_out) == 4
        assert not held_out.keys() & contents.keys()


def test_files_of_one_length_are_compared_and_others_are_not_read(tmp_path):
    for name, content in {"a": b"12", "b": b"12", "c": b"21", "d": b"123"}.items():
        (tmp_path / name).write_bytes(content)
    digests = same_contents(tmp_path, ["a", "b", "c", "d"])
    assert digests["a"] == digests["b"] != digests["c"]
    assert "d" not in digests
    (tmp_path / "d").write_bytes(b"12")
    assert len(set(same_contents(tmp_path, ["c", "d"]).values())) == 2
    assert same_contents(tmp_path, ["a", "d"])["a"] == digests["a"]


def refusal(path: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_folder(path, **options)
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) == 1
    assert " - " in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_trained_on_is_refused_with_its_name(tmp_path):
    photos(tmp_path / "photos", {"a": 3, "b": 3})
    assert "no such folder (did you mean photos?)" in refusal(tmp_path / "potos")
    assert "a file where a folder" in refusal(picture(tmp_path / "one.png"))
    assert "file name too long" in refusal(tmp_path / ("x" * 300))
    (tmp_path / "none").mkdir()
    assert "no class folders" in refusal(tmp_path / "none")
    assert "one class only (a)" in refusal(photos(tmp_path / "one", {"a": 3}))
    assert "class 'b' has no pictures" in refusal(photos(tmp_path / "empty", {"a": 3, "b": 0}))
    (tmp_path / "empty" / "b" / "x.gif").write_bytes(b"GIF89a")
    assert "class 'b' has no pictures (1 other files)" in refusal(tmp_path / "empty")
    picture(tmp_path / "flat" / "1.png")
    assert "1 pictures lie in the folder itself" in refusal(tmp_path / "flat")
    assert "a folder of its own" in refusal(tmp_path / "flat")


def test_splits_that_do_not_fit_are_refused(tmp_path):
    photos(tmp_path / "a" / "train", {"x": 3, "y": 3})
    photos(tmp_path / "a" / "test", {"x": 3, "z": 3})
    assert "class 'z' is in test but not in train" in refusal(tmp_path / "a")
    photos(tmp_path / "b" / "train", {"x": 3, "y": 3})
    photos(tmp_path / "b" / "val", {"x": 3})
    photos(tmp_path / "b" / "valid", {"x": 3})
    assert "both val/ and valid/ are there" in refusal(tmp_path / "b")
    photos(tmp_path / "c" / "test", {"x": 3, "y": 3})
    photos(tmp_path / "c", {"x": 3})
    assert "there is test/ but no train/" in refusal(tmp_path / "c")
    photos(tmp_path / "d" / "train", {"x": 3, "y": 3})
    (tmp_path / "d" / "valid").mkdir()
    assert "valid holds no pictures" in refusal(tmp_path / "d")
    for shares in ({"valid_share": 0.6, "test_share": 0.5}, {"valid_share": 0}, {"test_share": -0.1}):
        with pytest.raises(UsageError, match="leave nothing"):
            read_folder(tmp_path / "a", **shares)
    with pytest.raises(UsageError, match="on_bad"):
        read_folder(tmp_path / "a", on_bad="ask")


def test_hidden_system_and_special_files_are_no_pictures(tmp_path):
    photos(tmp_path, {"a": 3, "b": 3})
    for name in (
        ".hidden/1.png",
        "__MACOSX/1.png",
        ".ipynb_checkpoints/1.png",
        "a/.ipynb_checkpoints/1.png",
        "a/._1.png",
    ):
        picture(tmp_path / name)
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "a" / "imageNotFound.gif").write_bytes(b"GIF89a")
    (tmp_path / "b" / "README").write_text("hello")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # the name of a socket may have 108 bytes
        try:
            listener.bind("b/socket.jpg")
        finally:
            os.chdir(here)
    (tmp_path / "b" / "folder.jpg").mkdir()
    listing = list_folder(tmp_path)
    assert {name: len(files) for name, files in listing.splits["all"].items()} == {"a": 3, "b": 3}
    assert len(listing.ignored["hidden or system names"]) == 6
    assert listing.ignored["special files (pipes, sockets, devices)"] == ("a/pipe.jpg", "b/socket.jpg")
    assert listing.ignored[".gif files"] == ("a/imageNotFound.gif",)
    assert listing.ignored["files without an extension"] == ("b/README",)
    assert any("a/imageNotFound.gif" in note for note in read_folder(tmp_path).notes)


def test_links_are_followed_to_pictures_inside_only(tmp_path):
    outside = picture(tmp_path / "outside" / "secret.png", 5)
    root = photos(tmp_path / "root", {"a": 3, "b": 3})
    (root / "a" / "inside.png").symlink_to(root / "b" / "000.png")
    (root / "a" / "outside.png").symlink_to(outside)
    (root / "a" / "nowhere.png").symlink_to(root / "gone.png")
    (root / "a" / "loop.png").symlink_to(root / "a" / "loop.png")
    (root / "a" / "up").symlink_to(root)
    (root / "c").symlink_to(root / "b")
    listing = list_folder(root)
    assert listing.classes == ("a", "b")
    assert "a/inside.png" in listing.splits["all"]["a"]
    assert len(listing.splits["all"]["a"]) == 4
    (links,) = [names for reason, names in listing.ignored.items() if reason.startswith("links")]
    assert links == ("a/loop.png", "a/nowhere.png", "a/outside.png", "a/up", "c")
    (tmp_path / "alias").symlink_to(root)
    assert list_folder(tmp_path / "alias").classes == ("a", "b")


def test_pictures_may_lie_deeper_and_end_in_any_case(tmp_path):
    for name in ("a/1.PNG", "a/x/y/2.JpEg", "a/x/3.TIFF", "b/1.Bmp", "b/2.webp", "b/3.pPm"):
        picture(tmp_path / name, seed=len(name) + ord(name[2]))
    picture(tmp_path / "b" / "4.pgm", mode="L")
    listing = list_folder(tmp_path)
    assert listing.splits["all"] == {"a": ("a/1.PNG", "a/x/3.TIFF", "a/x/y/2.JpEg"),
                                     "b": ("b/1.Bmp", "b/2.webp", "b/3.pPm", "b/4.pgm")}  # fmt: skip
    assert len(read_folder(tmp_path).train) == 7 - 4


STRANGE = [
    "new\nline",
    "tab\t",
    "\u202egnp",
    "😀",
    "<script>alert(1)<",
    "=cmd()",
    "-x",
    '"quoted"',
    "CON",
    "dot.",
    "é" * 100,
]


def test_strange_names_come_through_unchanged(tmp_path):
    for place, name in enumerate(STRANGE):
        for number in range(3):
            picture(tmp_path / name / f"{name[:30]}{number}.png", seed=10 * place + number)
    data = read_folder(tmp_path)
    assert data.classes == tuple(sorted(STRANGE))
    assert len(data.train) == len(data.valid) == len(data.test) == len(STRANGE)
    for name in data.train.names:
        assert (tmp_path / name).is_file()


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    composed, decomposed = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    photos(tmp_path / "train", {composed: 3, "tea": 3})
    photos(tmp_path / "valid", {decomposed: 2, "tea": 2})
    data = read_folder(tmp_path)
    assert data.classes == (composed, "tea")
    assert counts(data)["valid"] == {composed: 2, "tea": 2}


def test_names_that_are_not_utf8_are_refused_for_classes_and_read_for_files(tmp_path):
    photos(tmp_path, {"a": 3, "b": 3})
    try:
        (tmp_path / "a" / "000.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.png"))
    except OSError:
        pytest.skip("this file system keeps names in UTF-8")
    assert sum(len(split) for split in read_folder(tmp_path).splits.values()) == 6
    (tmp_path / "b").rename(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff"))
    assert "not UTF-8" in refusal(tmp_path)


def spoil(root: Path) -> list[str]:
    """Add one whole picture and seven broken ones."""
    whole = picture(root / "a" / "whole.jpg", 1, (40, 40)).read_bytes()
    cut_png = (root / "a" / "000.png").read_bytes()[:-20]
    spoiled = {"a/b1.jpg": b"", "a/b2.jpg": b"<html>", "a/b3.jpg": whole[:200], "b/b4.jpg": whole[:-2],
               "b/b5.png": b"\x89PNG", "b/b6.png": cut_png, "b/b7.bmp": b"BM" + bytes(60)}  # fmt: skip
    for name, content in spoiled.items():
        (root / name).write_bytes(content)
    return sorted(spoiled)


def test_broken_pictures_are_all_named_or_left_out(tmp_path):
    bad = spoil(photos(tmp_path, {"a": 10, "b": 10}, size=(40, 40)))
    line = refusal(tmp_path)
    assert line.startswith("7 pictures cannot be read: a/b1.jpg (an empty file), a/b2.jpg (not a picture")
    assert "and 2 more" in line
    assert line.endswith("leave them out with --set on_bad=skip")
    data = read_folder(tmp_path, on_bad="skip")
    assert sum(len(split) for split in data.splits.values()) == 21
    (note,) = [note for note in data.notes if "left out" in note]
    assert note.startswith("left out 7 pictures")
    assert all(name in note for name in bad)
    assert not any(set(bad) & set(split.names) for split in data.splits.values())


def test_a_class_of_broken_pictures_is_refused_even_when_skipping(tmp_path):
    photos(tmp_path, {"a": 3, "b": 0})
    (tmp_path / "b" / "1.jpg").write_bytes(b"no")
    assert "class 'b' has no pictures" in refusal(tmp_path, on_bad="skip")


def test_pictures_that_break_after_reading_are_found_by_load(tmp_path):
    photos(tmp_path, {"a": 10, "b": 10})
    for on_bad in ("stop", "skip"):
        data = read_folder(tmp_path, on_bad=on_bad)
        gone = data.train.names[3]
        content = (tmp_path / gone).read_bytes()
        (tmp_path / gone).write_bytes(content[:60])
        with pytest.raises(DataError, match=gone):
            data.train.source.fetch(torch.tensor([0]))
        if on_bad == "stop":
            with pytest.raises(DataError, match=f"1 picture cannot be read: {gone}"):
                load(data)
        else:
            loaded = load(data)
            assert gone not in loaded.train.names
            assert len(loaded.train) == len(loaded.train.labels) == len(loaded.train.source) == len(data.train) - 1
            assert [loaded.classes.index(name[0]) for name in loaded.train.names] == loaded.train.labels.tolist()
            assert gone in loaded.notes[-1]
            assert loaded.train.source.fetch(torch.tensor([3])).shape == (1, 3, 8, 8)
        (tmp_path / gone).write_bytes(content)


def test_pictures_of_one_size_keep_it(tmp_path):
    data = read_folder(photos(tmp_path, {"a": 4, "b": 4}, size=(20, 12)))
    assert data.image == (3, 20, 12)
    assert data.preprocessing.stored == data.preprocessing.resized == (20, 12)
    assert not data.sizes_differ
    larger = data.resized(24)
    assert larger.image == (3, 24, 24)
    assert larger.preprocessing.stored == (20, 12)
    assert larger.preprocessing.resized == (40, 24)
    assert larger.train.source is data.train.source
    smaller = data.resized(7)
    assert smaller.preprocessing.stored == smaller.preprocessing.resized == (8, 8)
    for sized in (data, larger, smaller):
        stored = sized.train.source.fetch(torch.arange(3))
        assert tuple(stored.shape[2:]) == sized.preprocessing.stored
        assert sized.preprocessing.apply(stored).shape == (3, *sized.image)


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(300, 400), (500, 300), (240, 900)], 224),
        ([(100, 90), (90, 300), (80, 80)], 88),
        ([(5, 9), (7, 7), (6, 5)], 8),
    ],
)
def test_pictures_of_many_sizes_are_made_square(tmp_path, sizes, side):
    for name in ("a", "b"):
        for number, size in enumerate(sizes):
            picture(tmp_path / name / f"{number}.png", seed=number + ord(name), size=size)
    data = read_folder(tmp_path)
    assert data.sizes_differ
    assert data.image == (3, side, side)
    stored = round(side * 8 / 7)
    assert data.preprocessing.stored == data.preprocessing.resized == (stored, stored)
    assert data.train.source.fetch(torch.tensor([0])).shape == (1, 3, stored, stored)
    assert any("differ in size" in note for note in data.notes)
    assert read_folder(tmp_path, image_size=56).image == data.resized(56).image == (3, 56, 56)
    assert data.resized(56).preprocessing.stored == (64, 64)
    with pytest.raises(UsageError, match="image_size"):
        data.resized(0)


def test_a_cameras_own_size_is_not_trained_at(tmp_path):
    data = read_folder(photos(tmp_path, {"a": 2, "b": 2}, size=(600, 800)))
    assert data.image == (3, 224, 224)
    assert any("600x800" in note for note in data.notes)


def test_grey_folders_have_one_channel(tmp_path):
    photos(tmp_path, {"a": 3, "b": 3}, mode="L")
    data = read_folder(tmp_path)
    assert data.image == (1, 8, 8)
    assert data.train.source.fetch(torch.tensor([0])).shape == (1, 1, 8, 8)
    picture(tmp_path / "a" / "colour.png", 99)
    assert read_folder(tmp_path).image == (3, 8, 8)


def test_mean_and_deviation_are_those_of_the_training_pictures(tmp_path):
    data = read_folder(photos(tmp_path, {"a": 10, "b": 10}))
    pictures = data.train.source.fetch(torch.arange(len(data.train))).double() / 255
    assert torch.allclose(torch.tensor(data.preprocessing.mean).double(), pictures.mean((0, 2, 3)), atol=1e-6)
    std = pictures.transpose(0, 1).flatten(1).std(1, correction=0)
    assert torch.allclose(torch.tensor(data.preprocessing.std).double(), std, atol=1e-6)
    for name in ("a", "b"):
        for number in range(3):
            path = tmp_path / "black" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8 + number)).save(path)
    black = read_folder(tmp_path / "black")
    assert torch.isfinite(black.preprocessing.apply(black.train.source.fetch(torch.tensor([0])))).all()
    assert MEASURED_PICTURES == 2000


def test_what_does_not_fit_in_memory_streams_the_same_pixels(tmp_path, monkeypatch):
    photos(tmp_path, {"a": 12, "b": 12}, size=(9, 9))
    held = load(read_folder(tmp_path, image_size=7))
    monkeypatch.setattr(photographs, "available_bytes", lambda: 4 * 8 * 8 * 3 * 7)  # a quarter of it holds seven
    streamed = load(read_folder(tmp_path, image_size=7))
    assert not held.train.source.streams
    assert streamed.train.source.streams
    assert not streamed.valid.source.streams
    assert streamed.train.source.held is None
    chosen = torch.tensor([5, 0, 17, 5])
    assert torch.equal(held.train.source.fetch(chosen), streamed.train.source.fetch(chosen))
    assert streamed.train.source.fetch(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 8, 8)
    (tmp_path / streamed.train.names[0]).unlink()
    with pytest.raises(DataError, match="no such file"):
        streamed.train.source.fetch(torch.tensor([0]))


def test_the_small_splits_are_held_first():
    assert held_kinds({"train": 100, "valid": 10, "test": 20}, budget=30) == {"valid", "test"}
    assert held_kinds({"train": 100, "valid": 10, "test": 20}, budget=130) == {"train", "valid", "test"}
    assert held_kinds({"train": 1}, budget=0) == set()
    assert held_kinds({"train": 50, "valid": 20, "test": 20}, budget=60) == {"valid", "test"}
    assert 2**20 < available_bytes() < 2**50


def test_a_containers_limit_is_kept(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert photographs._group_bytes(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert photographs._group_bytes(tmp_path) > 2**50


def test_load_leaves_other_data_alone(tmp_path):
    data = read_folder(photos(tmp_path, {"a": 4, "b": 4}))
    assert load(data) is data
    assert isinstance(data.train.source, Photographs)
    assert data.train.source.held is not None


def test_mean_and_deviation_do_not_depend_on_the_size_asked_for(tmp_path):
    for name in ("a", "b"):
        for number in range(4):
            picture(tmp_path / name / f"{number}.png", seed=number + ord(name), size=(60 + number, 90))
    own, asked = read_folder(tmp_path), read_folder(tmp_path, image_size=16)
    assert own.resized(16).preprocessing == asked.preprocessing
    assert own.preprocessing.mean == asked.preprocessing.mean
    assert own.preprocessing.std == asked.preprocessing.std
    pictures = own.train.source.fetch(torch.arange(len(own.train))).double() / 255
    assert own.preprocessing.mean == pytest.approx(pictures.mean((0, 2, 3)).tolist(), abs=1e-9)


def test_measuring_passes_over_what_broke_since(tmp_path):
    photos(tmp_path, {"a": 6, "b": 6})
    sound = read_folder(tmp_path, test_share=0)
    other = read_folder(tmp_path, test_share=0, valid_share=0.4)
    gone = sorted(set(sound.train.names) - set(other.train.names))
    assert gone
    for file in gone:
        (tmp_path / file).write_bytes(b"")
    assert sound.resizer.measured().mean == pytest.approx(other.preprocessing.mean, abs=1e-9)
    for file in sound.train.names:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(DataError, match=f"{len(sound.train)} pictures cannot be read"):
        sound.resizer.measured()


def spoil_pixels(path: Path) -> None:
    """Make a PNG's pixel data nonsense and its checksum right, so that only decoding shows it."""
    content = path.read_bytes()
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    chunk = b"IDAT" + bytes(length)
    path.write_bytes(content[:start] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[start + length + 8 :])


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
def test_load_decodes_what_streams_once_and_keeps_nothing(tmp_path, monkeypatch, on_bad):
    photos(tmp_path, {"a": 10, "b": 10})
    spoil_pixels(tmp_path / "a" / "003.png")
    monkeypatch.setattr(photographs, "available_bytes", lambda: 0)
    data = read_folder(tmp_path, on_bad=on_bad)
    assert all(split.source.streams for split in data.splits.values())
    if on_bad == "stop":
        with pytest.raises(DataError, match=r"1 picture cannot be read: a/003\.png \(a broken picture"):
            load(data)
        return
    decoded = []
    read = photographs.read_pixels
    monkeypatch.setattr(photographs, "read_pixels", lambda path, *how: (decoded.append(path), read(path, *how))[1])
    loaded = load(data)
    assert len(decoded) == len(set(decoded)) == 20
    assert load(loaded) is loaded
    assert len(decoded) == 20
    assert sum(map(len, loaded.splits.values())) == 19
    assert "left out 1 pictures that cannot be read: a/003.png" in loaded.notes[-1]
    for split in loaded.splits.values():
        assert split.source.held is None
        assert len(split.source.fetch(torch.arange(len(split)))) == len(split.labels)


def test_pictures_below_follow_the_rules_of_the_listing(tmp_path):
    root = tmp_path / "root"
    for name in ("b/2.png", "b/x/1.JPG", "1.png", ".hidden/1.png", "__MACOSX/1.png", "b/._1.png", "b/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(root / "p.png").rename(root / name)
    outside = picture(tmp_path / "outside.png")
    (root / "b" / "outside.png").symlink_to(outside)
    (root / "b" / "inside.png").symlink_to(root / "1.png")
    (root / "b" / "up").symlink_to(root)
    assert pictures_below(root) == [root / name for name in ("1.png", "b/2.png", "b/inside.png", "b/x/1.JPG")]
    (tmp_path / "alias").symlink_to(root)
    assert pictures_below(tmp_path / "alias")[0] == tmp_path / "alias" / "1.png"
    with pytest.raises(DataError, match="no such folder"):
        pictures_below(tmp_path / "gone")
    (tmp_path / "none").mkdir()
    assert pictures_below(tmp_path / "none") == []


def test_a_path_that_cannot_be_opened_is_refused_as_data():
    for open_path in (open_data, audit_any):
        with pytest.raises(DataError, match="cannot be opened: file name too long") as caught:
            open_path("x" * 300)
        assert len(str(caught.value).splitlines()) == 1
