"""The audit finds every fault that was planted, counts what is left, and changes nothing."""

import dataclasses
import hashlib
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conviction.data.audit import Audit, audit_data, audit_folder
from conviction.data.folder import read_folder
from conviction.data.held import Held
from conviction.data.records import Data, Preprocessing, Split
from conviction.errors import DataError


def pixels(seed: int, size: tuple[int, int] = (20, 20)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def picture(path: Path, seed: int, size: tuple[int, int] = (20, 20), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size)).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A sound folder: train and test, two classes, ten and three pictures each, all different."""
    root = tmp_path / "photos"
    for place, kind in enumerate(("train", "test")):
        for number in range(10 if kind == "train" else 3):
            for name in ("ant", "bee"):
                picture(root / kind / name / f"{number}.png", 100 * place + 2 * number + (name == "bee"))
    return root


def fingerprint(root: Path) -> dict[str, tuple]:
    """Everything about every file that an honest reader leaves alone."""
    return {
        str(path): (stat.st_mtime_ns, stat.st_mode, stat.st_ino, stat.st_size, content)
        for path in sorted(root.rglob("*"))
        if (stat := path.lstat())
        and (content := hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "") is not None
    }


def warned(audit: Audit, words: str) -> str:
    (line,) = [line for line in audit.warnings if words in line]
    return line


def test_a_sound_folder_has_nothing_to_say(photos):
    audit = audit_folder(photos)
    assert audit.to_dict() == {
        "classes": ["ant", "bee"],
        "counts": {"train": {"ant": 10, "bee": 10}, "test": {"ant": 3, "bee": 3}},
        "images": 26,
        "broken": [],
        "duplicates": [],
        "leaks": [],
        "warnings": [],
    }
    assert json.loads(json.dumps(audit.to_dict())) == audit.to_dict()


def test_copies_are_found_by_their_pixels_and_leaks_across_splits(photos):
    # The same pixels in another format, another compression, and laid out turned: not one byte of the files agrees.
    picture(photos / "train" / "ant" / "copy.bmp", 0)
    picture(photos / "test" / "ant" / "leak.webp", 2, lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(pixels(4)[::-1, ::-1])).save(photos / "test" / "bee" / "turned.png", exif=exif)
    picture(photos / "train" / "ant" / "other.png", 999)
    audit = audit_folder(photos)
    assert audit.duplicates == (
        ("train/ant/0.png", "train/ant/copy.bmp"),
        ("train/ant/1.png", "test/ant/leak.webp"),
        ("train/ant/2.png", "test/bee/turned.png"),
    )
    assert audit.leaks == audit.duplicates[1:]
    assert warned(audit, "more than one class").startswith(
        "1 picture lies in more than one class: train/ant/2.png = test"
    )
    assert "test/bee/turned.png" in warned(audit, "EXIF orientation")


def test_a_grey_copy_is_a_copy_and_another_shape_is_not(tmp_path):
    flat = np.arange(64, dtype=np.uint8)
    for name, image in {
        "a/grey.png": Image.fromarray(flat.reshape(8, 8)),
        "a/rgb.png": Image.fromarray(flat.reshape(8, 8)).convert("RGB"),
        "b/wide.png": Image.fromarray(flat.reshape(4, 16)),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name)
    Image.new("RGB", (8, 8), (76, 76, 76)).save(tmp_path / "b" / "grey.png")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "b" / "red.png")  # as light as that grey
    assert audit_folder(tmp_path).duplicates == (("a/grey.png", "a/rgb.png"),)


def test_broken_files_are_listed_with_their_reasons_and_not_counted(photos):
    whole = (photos / "train" / "ant" / "0.png").read_bytes()
    (photos / "train" / "ant" / "3.png").write_bytes(whole[:100])
    (photos / "train" / "bee" / "page.jpg").write_text("<html>")
    (photos / "test" / "bee" / "none.jpg").write_bytes(b"")
    audit = audit_folder(photos)
    assert [file for file, _ in audit.broken] == ["train/ant/3.png", "train/bee/page.jpg", "test/bee/none.jpg"]
    reasons = [reason for _, reason in audit.broken]
    assert reasons[0].startswith("a broken picture")
    assert reasons[1].startswith("not a picture")
    assert reasons[2] == "an empty file"
    assert audit.counts["train"] == {"ant": 9, "bee": 10}
    assert audit.images == 25
    assert audit.to_dict()["broken"][2] == {"file": "test/bee/none.jpg", "reason": "an empty file"}


def test_what_surprises_is_warned_of(photos):
    ant = photos / "train" / "ant"
    (photos / "train" / "ant" / "imageNotFound.gif").write_bytes(b"GIF89a")
    picture(photos / "train" / ".ipynb_checkpoints" / "1.png", 500)
    Image.fromarray(pixels(501)).save(ant / "png.jpg", "PNG")
    Image.new("RGB", (20, 20), (9, 200, 9)).save(ant / "flat.png")
    Image.fromarray(pixels(502)[:, :, 0]).save(ant / "grey.png")
    Image.fromarray(pixels(503)).convert("CMYK").save(ant / "cmyk.tif")
    picture(ant / "tiny.png", 504, (6, 30))
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 10).save(ant / "twelve.png")
    audit = audit_folder(photos)
    assert "train/ant/imageNotFound.gif" in warned(audit, ".gif files")
    assert "train/.ipynb_checkpoints" in warned(audit, "hidden or system names")
    assert warned(audit, "another format").endswith("train/ant/png.jpg (PNG)")
    assert warned(audit, "of one colour") == "1 picture is of one colour: train/ant/flat.png"
    assert warned(audit, "rare kind").endswith("train/ant/cmyk.tif (CMYK), train/ant/twelve.png (I;16)")
    assert warned(audit, "smaller than 16").endswith("train/ant/tiny.png")
    assert warned(audit, "12 bits").endswith("train/ant/twelve.png")
    assert warned(audit, "grey and") == "2 grey and 30 colour pictures, all read in colour"
    assert warned(audit, "sizes") == "2 sizes (height x width), from 6x30 to 20x20"


def test_few_pictures_imbalance_and_missing_classes_are_warned_of(photos):
    for number in range(3):
        picture(photos / "train" / "cat" / f"{number}.png", 700 + number)
    for number in range(31):
        picture(photos / "train" / "ant" / f"more-{number}.png", 800 + number)
    audit = audit_folder(photos)
    assert warned(audit, "fewer than 10") == "fewer than 10 pictures to train on in 1 class: cat (3)"
    assert warned(audit, "out of balance") == "classes are out of balance: ant has 41 pictures, cat 3"
    assert warned(audit, "test has no") == "test has no readable picture of cat"
    assert audit.counts["test"] == {"ant": 3, "bee": 3, "cat": 0}


def test_what_cannot_be_trained_on_is_audited_all_the_same(tmp_path):
    picture(tmp_path / "a" / "1.png", 1)
    (tmp_path / "b").mkdir()
    audit = audit_folder(tmp_path)
    assert audit.counts == {"all": {"a": 1, "b": 0}}
    assert "class 'b' has no pictures" in warned(audit, "cannot be trained on")
    picture(tmp_path / "B" / "1.png", 2)
    assert warned(audit_folder(tmp_path), "by case only").endswith("B, b")
    with pytest.raises(DataError, match="no such folder"):
        audit_folder(tmp_path / "nowhere")


def test_nothing_of_the_users_is_written(photos):
    whole = (photos / "train" / "ant" / "0.png").read_bytes()
    (photos / "train" / "ant" / "bad.png").write_bytes(whole[:100])
    os.mkfifo(photos / "train" / "bee" / "pipe.jpg")
    (photos / "train" / "bee" / "up.png").symlink_to(photos)
    before = fingerprint(photos)
    audit_folder(photos)
    audit_data(read_folder(photos, on_bad="skip"))
    assert fingerprint(photos) == before


def test_names_are_kept_in_lists_and_escaped_in_lines(photos):
    name = 'x\n\u202e<script>"\x1b[2J.jpg'
    (photos / "train" / "ant" / name).write_bytes(b"no")
    Image.new("RGB", (20, 20)).save(photos / "train" / "bee" / (name + ".png"))
    audit = audit_folder(photos)
    assert audit.broken[0][0] == f"train/ant/{name}"
    assert all(line.isprintable() for line in audit.warnings)
    assert json.loads(json.dumps(audit.to_dict()))["broken"][0]["file"] == f"train/ant/{name}"


def test_data_is_audited_by_its_pictures(photos):
    picture(photos / "test" / "ant" / "leak.png", 0)
    audit = audit_data(read_folder(photos, valid_share=0.2))
    assert audit.classes == ("ant", "bee")
    assert audit.counts == {"train": {"ant": 8, "bee": 8}, "valid": {"ant": 2, "bee": 2}, "test": {"ant": 4, "bee": 3}}
    assert audit.images == 27
    assert [set(group) for group in audit.leaks] == [{"train/ant/0.png", "test/ant/leak.png"}]
    assert audit.duplicates == audit.leaks


def test_pictures_without_names_are_told_by_split_and_number(photos):
    data = read_folder(photos)
    first = data.train.source.fetch(torch.tensor([0]))

    @dataclasses.dataclass
    class Repeated:
        pictures: torch.Tensor

        def __len__(self) -> int:
            return len(self.pictures)

        def fetch(self, indices: torch.Tensor) -> torch.Tensor:
            return self.pictures[indices]

    split = dataclasses.replace(data.valid, source=Repeated(first.repeat(2, 1, 1, 1)), names=None)
    audit = audit_data(dataclasses.replace(data, valid=split))
    assert audit.leaks == ((data.train.names[0], "valid #0", "valid #1"),)


def test_a_bomb_is_broken_and_does_not_stop_the_audit(photos):
    content = (photos / "train" / "ant" / "0.png").read_bytes()
    header = b"IHDR" + struct.pack(">LL", 9000, 9000) + content[24:29]
    huge = content[:12] + header + struct.pack(">L", zlib.crc32(header)) + content[33:]
    (photos / "train" / "ant" / "bomb.png").write_bytes(huge)
    audit = audit_folder(photos)
    assert audit.broken == (("train/ant/bomb.png", "a picture of more than 64 million pixels"),)
    assert audit.images == 26


def test_an_audit_reads_as_text() -> None:
    audit = Audit(
        name="photos\x1b[31m",
        classes=("ant", "bee"),
        counts={"train": {"ant": 12, "bee": 3}, "test": {"bee": 1}},
        images=16,
        broken=(("train/ant/\n.jpg", "cut short"),),
        duplicates=(("a.jpg", "b.jpg"), ("c.jpg", "d.jpg")),
        leaks=(("c.jpg", "d.jpg"),),
        warnings=tuple(f"warning {n}" for n in range(25)),
    )
    text = str(audit)
    assert text.splitlines()[:6] == [
        "photos\\x1b[31m: 16 images in 2 classes", "",
        "class  train  test", "-----  -----  ----", "ant       12     0", "bee        3     1",
    ]  # fmt: skip
    assert "1 cannot be read:\n  train/ant/\\n.jpg: cut short" in text
    assert "2 groups of equal pictures:\n  a.jpg, b.jpg\n  c.jpg, d.jpg" in text
    assert "... and 5 more (all with --json)" in text and "warning 20" not in text


def test_floats_that_are_no_numbers_are_counted_as_broken():
    pictures = torch.rand(12, 1, 4, 4)
    pictures[3, 0, 0, 0], pictures[5, 0, 1, 1] = torch.nan, torch.inf
    split = Split(Held(pictures), torch.arange(12) % 2)
    sizes = Preprocessing((1, 4, 4), (4, 4), (4, 4), (0.0,), (1.0,), "own")
    audit = audit_data(Data("floats", ("a", "b"), split, split, None, sizes, lambda size: None))
    reason = "some pixels are not finite numbers"
    assert audit.broken == tuple((f"{kind} #{index}", reason) for kind in ("train", "valid") for index in (3, 5))
    assert audit.images == 20
    assert audit.counts["train"] == {"a": 6, "b": 4}
