"""Every kind of picture file against pixels worked out by hand, and every kind of broken one against a refusal."""

import io
import os
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conviction.data.decoding import MOST_PIXELS, check_picture, read_header, read_picture, read_pictures
from conviction.data.threads import map_in_threads
from conviction.errors import DataError

RNG = np.random.default_rng(0)


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def grey_row(path: Path) -> list[int]:
    return read_picture(path, 1)[0, 0].tolist()


def first_pixel(path: Path) -> list[int]:
    return read_picture(path, 3)[:, 0, 0].tolist()


def tiff(path: Path, data: bytes, width: int, height: int = 1, *, order: str = "<", **tags: int) -> Path:
    """Write an uncompressed TIFF from its tags: a writer of our own, so that Pillow does not check itself."""
    numbers = {"bits": 258, "photometric": 262, "samples": 277, "sample_format": 339, "orientation": 274}
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(data)}
    entries |= {numbers[name]: value for name, value in tags.items()}
    samples = entries[277]
    start = 8 + 2 + 12 * len(entries) + 4
    extra = struct.pack(f"{order}{samples}H", *[entries[258]] * samples) if samples > 2 else b""
    entries[273] = start + len(extra)
    ifd = b""
    for tag, value in sorted(entries.items()):
        if tag == 258 and samples > 2:
            ifd += struct.pack(f"{order}HHLL", tag, 3, samples, start)
        elif tag in (273, 279):
            ifd += struct.pack(f"{order}HHLL", tag, 4, 1, value)
        else:
            ifd += struct.pack(f"{order}HHLHH", tag, 3, 1, value, 0)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, 8)
    path.write_bytes(head + struct.pack(f"{order}H", len(entries)) + ifd + struct.pack(f"{order}L", 0) + extra + data)
    return path


def png(path: Path, rows: bytes, width: int, depth: int, colour: int, chunks: bytes = b"") -> Path:
    """Write a PNG of one row from its chunks, as its standard tells."""
    header = struct.pack(">LLBBBBB", width, 1, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(b"\0" + rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def test_grey_pictures_of_every_depth_are_scaled_to_bytes(tmp_path):
    deep = struct.pack(">4H", 0, 257, 32896, 65535)
    assert grey_row(png(tmp_path / "1.png", b"\xa0", 4, 1, 0)) == [255, 0, 255, 0]
    assert grey_row(png(tmp_path / "4.png", b"\x0f\x8c", 4, 4, 0)) == [0, 255, 136, 204]
    assert grey_row(png(tmp_path / "8.png", bytes([0, 1, 128, 255]), 4, 8, 0)) == [0, 1, 128, 255]
    assert grey_row(png(tmp_path / "16.png", deep, 4, 16, 0)) == [0, 1, 128, 255]
    assert grey_row(tiff(tmp_path / "16.tif", deep, 4, bits=16, order=">")) == [0, 1, 128, 255]
    little = struct.pack("<4H", 0, 257, 32896, 65535)
    assert grey_row(tiff(tmp_path / "16le.tif", little, 4, bits=16)) == [0, 1, 128, 255]
    assert grey_row(tiff(tmp_path / "16w.tif", little, 4, bits=16, photometric=0)) == [255, 254, 127, 0]
    assert grey_row(tiff(tmp_path / "8w.tif", bytes([0, 1, 128, 255]), 4, photometric=0)) == [255, 254, 127, 0]
    signed = struct.pack("<4h", -5, 0, 16384, 32767)
    assert grey_row(tiff(tmp_path / "16s.tif", signed, 4, bits=16, sample_format=2)) == [0, 0, 128, 255]


def test_twelve_declared_bits_are_not_taken_for_sixteen(tmp_path):
    twelve = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00])  # 0x000, 0xFFF, 0x800, 0x000, three nibbles each
    assert grey_row(tiff(tmp_path / "12.tif", twelve, 4, bits=12)) == [0, 255, 128, 0]


def test_floats_and_wide_integers_are_scaled_by_the_range_that_holds_them(tmp_path):
    def floats(name, *values):
        return grey_row(tiff(tmp_path / name, struct.pack("<4f", *values), 4, bits=32, sample_format=3))

    assert floats("unit.tif", 0, 0.25, 0.5, 1) == [0, 64, 128, 255]
    assert floats("byte.tif", 0, 64, 128, 255) == [0, 64, 128, 255]
    assert floats("deep.tif", 0, 257, 32896, 65535) == [0, 1, 128, 255]
    assert floats("signed.tif", -1, -0.5, 0, 1) == [0, 64, 128, 255]
    assert floats("holes.tif", float("nan"), 0.25, 0.5, 1) == [0, 64, 128, 255]
    assert floats("flat.tif", -3, -3, -3, -3) == [0, 0, 0, 0]
    wide = struct.pack("<4L", 0, 257, 32896, 65535)
    assert grey_row(tiff(tmp_path / "32.tif", wide, 4, bits=32)) == [0, 1, 128, 255]


def test_portable_pixmaps_of_any_maximum(tmp_path):
    for name, content in {
        "p2.pgm": b"P2 4 1 255 0 1 128 255",
        "p5.pgm": b"P5 4 1 255\n" + bytes([0, 1, 128, 255]),
        "p5-16.pgm": b"P5 4 1 65535\n" + struct.pack(">4H", 0, 257, 32896, 65535),
        "p5-12.pgm": b"P5 4 1 4095\n" + struct.pack(">4H", 0, 16, 2056, 4095),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert grey_row(tmp_path / name) == [0, 1, 128, 255], name
    (tmp_path / "p6.ppm").write_bytes(b"P6 1 1 255\n" + bytes([10, 20, 30]))
    assert first_pixel(tmp_path / "p6.ppm") == [10, 20, 30]


def test_transparency_is_laid_on_white(tmp_path):
    # 100 seen through alpha 51 (a fifth) on white: 100 / 5 + 255 * 4 / 5 = 224
    assert grey_row(png(tmp_path / "la.png", bytes([100, 51, 100, 255, 100, 0]), 3, 8, 4)) == [224, 100, 255]
    rgba = bytes([100, 0, 200, 51, 100, 0, 200, 255])
    assert read_picture(png(tmp_path / "rgba.png", rgba, 2, 8, 6), 3)[:, 0].T.tolist() == [
        [224, 204, 244],
        [100, 0, 200],
    ]
    palette = chunk(b"PLTE", bytes([100, 0, 200, 1, 2, 3])) + chunk(b"tRNS", bytes([51]))
    path = png(tmp_path / "p.png", bytes([0, 1]), 2, 8, 3, palette)
    assert read_picture(path, 3)[:, 0].T.tolist() == [[224, 204, 244], [1, 2, 3]]
    keyed = png(tmp_path / "key.png", bytes([9, 8, 7, 1, 2, 3]), 2, 8, 2, chunk(b"tRNS", struct.pack(">3H", 9, 8, 7)))
    assert read_picture(keyed, 3)[:, 0].T.tolist() == [[255, 255, 255], [1, 2, 3]]


def test_colour_of_every_kind(tmp_path):
    plain = png(tmp_path / "p.png", bytes([0, 1]), 2, 8, 3, chunk(b"PLTE", bytes([100, 0, 200, 1, 2, 3])))
    assert read_picture(plain, 3)[:, 0].T.tolist() == [[100, 0, 200], [1, 2, 3]]
    deep = struct.pack(">3H", 10 * 257, 20 * 257, 30 * 257)
    assert first_pixel(png(tmp_path / "rgb16.png", deep, 1, 16, 2)) == [10, 20, 30]
    ink = bytes([255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255])  # cyan, no ink at all, black
    path = tiff(tmp_path / "cmyk.tif", ink, 3, samples=4, photometric=5)
    assert read_picture(path, 3)[:, 0].T.tolist() == [[0, 255, 255], [255, 255, 255], [0, 0, 0]]
    path = tiff(tmp_path / "lab.tif", bytes([255, 0, 0, 0, 0, 0, 128, 0, 0]), 3, samples=3, photometric=8)
    grey = read_picture(path, 3)[:, 0].T
    assert (
        grey.int() - torch.tensor([[255], [0], [119]])
    ).abs().max() <= 2  # an L* of 50 is a luminance of 0.184, and that 119 in sRGB
    for suffix, options in {"webp": {"lossless": True}, "bmp": {}, "gif": {}}.items():
        picture = saved(Image.new("RGB", (3, 2), (10, 20, 30)), tmp_path / f"c.{suffix}", **options)
        assert first_pixel(picture) == [10, 20, 30], suffix


def test_adobe_jpegs_in_cmyk_and_ycck_are_not_inverted(tmp_path):
    white = saved(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), tmp_path / "white.jpg", quality=100)
    assert b"Adobe" in white.read_bytes()
    assert first_pixel(white) == [255, 255, 255]
    # Ink is stored inverted: (55, 127, 127, 0) as (200, 128, 128, 255). The same bytes read as YCCK say Y 200 and no
    # colour; Adobe's Y is of 255 minus what is stored, so 255 - 200 is stored, and 55 is the lightness of all three.
    ink = saved(Image.new("CMYK", (16, 16), (55, 127, 127, 0)), tmp_path / "ink.jpg", quality=100, subsampling=0)
    content = bytearray(ink.read_bytes())
    content[content.index(b"Adobe") + 11] = 2  # the marker's transform byte: 0 is CMYK, 2 is YCCK
    (tmp_path / "ycck.jpg").write_bytes(content)
    assert np.allclose(first_pixel(ink), [200, 128, 128], atol=2)
    assert np.allclose(first_pixel(tmp_path / "ycck.jpg"), [55, 55, 55], atol=2)


def test_grey_and_colour_turn_into_each_other(tmp_path):
    colour = saved(Image.new("RGB", (2, 2), (255, 0, 0)), tmp_path / "red.png")
    assert read_picture(colour, 1)[0, 0, 0] == 76  # 0.299 x 255, ITU-R 601
    grey = saved(Image.new("L", (2, 2), 7), tmp_path / "grey.png")
    assert first_pixel(grey) == [7, 7, 7]
    assert read_header(grey).grey
    assert not read_header(colour).grey


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_only_the_first_frame_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(frames[0], tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert first_pixel(path) == [255, 0, 0]


# Where the first row and the first column of the stored pixels lie in the upright picture (EXIF 2.32, section 4.6.4).
SIDES = {1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
         5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")}  # fmt: skip


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Lay an upright picture out as a camera held that way stores it."""
    row_side, column_side = SIDES[orientation]
    stored = upright if row_side in ("top", "bottom") else upright.swapaxes(0, 1)
    if row_side in ("bottom", "right"):
        stored = stored[::-1]
    return stored[:, ::-1] if column_side in ("bottom", "right") else stored


@pytest.mark.parametrize("orientation", SIDES)
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    stored = np.ascontiguousarray(stored_as(upright, orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix, options in {"png": {"exif": exif}, "webp": {"exif": exif, "lossless": True}}.items():
        path = saved(Image.fromarray(stored), tmp_path / f"o.{suffix}", **options)
        assert np.array_equal(read_picture(path, 3).permute(1, 2, 0), upright), suffix
        assert read_header(path).size == (4, 6)
        assert read_header(path).turned == (orientation != 1)
    height, width = stored.shape[:2]
    path = tiff(tmp_path / "o.tif", stored.tobytes(), width, height, samples=3, photometric=2, orientation=orientation)
    assert np.array_equal(read_picture(path, 3).permute(1, 2, 0), upright)
    assert read_header(path).size == (4, 6)


@pytest.mark.parametrize("orientation", SIDES)
def test_a_turned_jpeg_is_cut_as_it_is_seen(tmp_path, orientation):
    upright = np.zeros((64, 128, 3), dtype=np.uint8)
    upright[:, 64:] = 255  # dark left, bright right
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored_as(upright, orientation)))
    path = saved(image, tmp_path / "o.jpg", exif=exif, quality=100)
    small = read_picture(path, 1, (16, 32))
    assert small.shape == (1, 16, 32)
    assert small[0, :, :14].max() < 20
    assert small[0, :, 18:].min() > 235
    assert read_header(path).size == (64, 128)


def test_resizing_keeps_proportions_and_cuts_the_middle(tmp_path):
    wide = np.zeros((8, 16), dtype=np.uint8)
    wide[:, 2:14] = 200  # wider than the cut: resizing looks at the neighbours of what is cut out
    path = saved(Image.fromarray(wide), tmp_path / "wide.png")
    assert torch.equal(read_picture(path, 1, (8, 8)), torch.full((1, 8, 8), 200, dtype=torch.uint8))
    assert torch.equal(read_picture(path, 1, (4, 4)), torch.full((1, 4, 4), 200, dtype=torch.uint8))
    assert read_picture(path, 3, (5, 9)).shape == (3, 5, 9)
    tall = saved(Image.fromarray(wide.T.copy()), tmp_path / "tall.png")
    assert torch.equal(read_picture(tall, 1, (16, 16)), torch.full((1, 16, 16), 200, dtype=torch.uint8))
    line = saved(Image.new("L", (1, 4000), 9), tmp_path / "line.png")
    assert torch.equal(read_picture(line, 1, (8, 8)), torch.full((1, 8, 8), 9, dtype=torch.uint8))


def test_shrinking_averages_rather_than_skips(tmp_path):
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    path = saved(Image.fromarray(stripes), tmp_path / "stripes.png")
    assert (read_picture(path, 1, (16, 16)).int() - 128).abs().max() < 20


def test_a_jpeg_decoded_small_looks_like_one_decoded_whole(tmp_path):
    rows, columns = np.mgrid[0:480, 0:640]
    waves = 127 + 60 * np.sin(rows / 40) + 60 * np.cos(columns / 60)
    image = Image.fromarray(np.stack([waves, waves[::-1], waves[:, ::-1]], 2).astype(np.uint8))
    small = read_picture(saved(image, tmp_path / "waves.jpg", quality=95), 3, (60, 80))
    whole = np.asarray(image.resize((80, 60), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(small.numpy().astype(int) - whole).mean() < 1.5


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("size", "decoded"), [((64, 16), (64, 512)), ((16, 128), (16, 128)), ((8, 8), (8, 64))])
def test_a_jpeg_is_decoded_no_larger_than_needed_and_no_smaller(tmp_path, monkeypatch, orientation, size, decoded):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(stored_as(np.zeros((64, 512, 3), dtype=np.uint8), orientation))
    path = saved(Image.fromarray(stored), tmp_path / "long.jpg", exif=exif)
    seen, convert = [], Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: seen.append(self.size) or convert(self, mode))
    assert read_picture(path, 3, size).shape == (3, *size)
    assert seen == [decoded[::-1]]


def photograph(tmp_path: Path, suffix: str) -> bytes:
    image = Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    return saved(image, tmp_path / f"whole.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "ppm"])
def test_truncated_files_are_refused_by_name(tmp_path, suffix):
    whole = photograph(tmp_path, suffix)
    assert check_picture(tmp_path / f"whole.{suffix}").size == (40, 50)
    for tenth in range(10):
        path = tmp_path / f"cut-{tenth}.{suffix}"
        path.write_bytes(whole[: len(whole) * tenth // 10])
        for read in (lambda path: read_picture(path, 3), lambda path: read_picture(path, 3, (8, 8)), check_picture):
            with pytest.raises(DataError, match=f"cut-{tenth}"):
                read(path)


def test_a_damaged_png_is_found_without_decoding(tmp_path):
    content = bytearray(photograph(tmp_path, "png"))
    content[len(content) // 2] ^= 1
    (tmp_path / "bit.png").write_bytes(content)
    with pytest.raises(DataError, match=r"broken picture.*bit\.png"):
        check_picture(tmp_path / "bit.png")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><title>404</title>", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b'{"error": 404}', "not a picture"),
        (b"%PDF-1.7\n", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HLLHH", 3, 9, 9, 8, 3) + bytes(400), "not a picture"),
        (b"SIMPLE  =                    T" + b" " * 2850, "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, content, says):
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    for read in (read_header, check_picture, lambda path: read_picture(path, 3)):
        with pytest.raises(DataError, match=rf"{says}.*page\.jpg - remove or replace"):
            read(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8001, 12_000, 40_000, 2**31 - 1])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, side):
    header = struct.pack(">LLBBBBB", side, side, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert side**2 > MOST_PIXELS
    for read in (read_header, lambda path: read_picture(path, 3, (8, 8))):
        with pytest.raises(DataError, match=r"more than 64 million pixels.*bomb\.png"):
            read(tmp_path / "bomb.png")


def test_a_text_chunk_that_swells_is_refused(tmp_path):
    text = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(100_000_000)))
    path = png(tmp_path / "text.png", bytes(4), 4, 8, 0, text)
    with pytest.raises(DataError, match=r"broken picture.*text\.png"):
        read_picture(path, 3)


def test_what_cannot_be_opened_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, says in {"pipe.jpg": "not a file", "folder.jpg": "not a file", "gone.jpg": "no such file"}.items():
        with pytest.raises(DataError, match=says):
            read_picture(tmp_path / name, 3)


def test_names_cannot_write_to_the_terminal(tmp_path):
    path = tmp_path / "a\x1b[2J\n\u202egpj.exe"
    path.write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        read_picture(path, 3)
    assert "a\\x1b[2J\\n\\u202egpj.exe" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_harms_no_pixel(tmp_path):
    path = saved(Image.new("RGB", (16, 16), (200, 200, 200)), tmp_path / "e.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff\0\1")
    assert first_pixel(path) == [200, 200, 200]
    assert not read_header(path).turned


def test_the_true_format_is_told_whatever_the_name(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3)).save(buffer, "PNG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    header = read_header(tmp_path / "a.jpg")
    assert (header.format, header.size, header.mode) == ("PNG", (3, 5), "RGB")


@pytest.mark.parametrize("count", [0, 3, 70])
def test_many_are_decoded_in_order_and_the_broken_ones_told(tmp_path, count):
    paths = [saved(Image.new("L", (400, 400), number), tmp_path / f"{number}.png") for number in range(count)]
    if count:
        paths[2].write_bytes(b"broken")
    pictures, errors = read_pictures(paths, 1, (8, 8))
    assert pictures.shape == (count, 1, 8, 8)
    assert list(errors) == ([2] if count else [])
    assert pictures[:, 0, 0, 0].tolist() == [0 if number == 2 else number for number in range(count)]


def test_slow_work_goes_to_threads_and_keeps_its_order():
    def work(number: int) -> tuple[int, str]:
        time.sleep(0.002)
        return number, threading.current_thread().name

    outcomes = map_in_threads(work, range(100), chunk=8)
    assert [number for number, _ in outcomes] == list(range(100))
    assert len({name for _, name in outcomes}) > 1

    def fail(number: int) -> None:
        time.sleep(0.002)
        if number == 50:
            raise RuntimeError("at 50")

    with pytest.raises(RuntimeError, match="at 50"):
        map_in_threads(fail, range(100), chunk=8)
