"""Picture files to pixels: which formats are read, how every kind of pixel becomes a byte, what is refused."""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

# Importing a plugin makes its format known to Pillow; the formats that are not named here (PSD, FITS, EPS, ...) are
# never tried on a user's file.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from torch import Tensor

from conviction.data.records import Size
from conviction.data.threads import map_in_threads
from conviction.errors import DataError
from conviction.text import printable

_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin,
            WebPImagePlugin)  # fmt: skip
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MOST_PIXELS = 64_000_000  # a file of a few kilobytes can claim gigabytes of pixels
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
_REMEDY = "remove or replace the file"

_ORIENTATION = 0x0112  # the EXIF tag; its values 2 to 8 undone by these moves (EXIF 2.32, section 4.6.4)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_LYING = frozenset({5, 6, 7, 8})  # orientations that swap width and height


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself before its pixels are decoded.

    `format` is the true one, whatever the file is called; `size` is (height, width) as seen upright; `mode` is Pillow's
    name for the kind of pixels; `turned` is true where an EXIF orientation turns or mirrors the picture.
    """

    format: str
    size: Size
    mode: str
    turned: bool

    @property
    def grey(self) -> bool:
        """Whether the pixels hold lightness only."""
        return self.mode in GREY_MODES


def read_header(path: Path) -> Header:
    """Read the true format, size and kind of pixels of a picture file, without decoding it.

    Raises `DataError` for a file that is no picture, or has more than 64 million pixels.
    """
    with _opened(path) as (image, _):
        return _header(image)


def check_picture(path: Path) -> Header:
    """Read the header and make sure that the file is whole, decoding it only where nothing cheaper shows that.

    A PNG's checksums are computed, a JPEG's end is looked for. Raises `DataError` for a file that is no picture,
    truncated or broken.
    """
    with _opened(path) as (image, file):
        header = _header(image)
        if header.format == "PNG":
            image.verify()
        elif header.format != "JPEG" or not _ends_jpeg(file):
            image.load()
        return header


def read_picture(path: Path, channels: int, size: Size | None = None) -> Tensor:
    """Decode a picture file to uint8 [C, h, w], upright, with `channels` 1 (lightness, ITU-R 601) or 3 (RGB).

    With `size` (height, width) the picture is resized, keeping its proportions, until it just covers `size`
    (bilinear with antialiasing), and cut in the middle. Only the first frame of an animation is read. Transparent parts
    are laid on white. Embedded colour profiles are not applied. Grey of more than 8 bits is scaled by the depth that
    the file declares: 65535 becomes 255 (and a camera's 12 bits stored as 16 come out dark, since the file does not say
    so). Floats and 32-bit integers are taken as 0..1, 0..255 or 0..65535, the first that holds all values of the
    picture, else stretched from their smallest to their largest value.

    Raises `DataError`, naming the file, for one that is missing, truncated, broken, no picture, or of more than 64
    million pixels.
    """
    return torch.from_numpy(np.array(read_pixels(path, channels, size), order="C"))


def read_pixels(path: Path, channels: int, size: Size | None = None) -> np.ndarray:
    """Decode as `read_picture` does, to a NumPy array [C, h, w] that need not be contiguous."""
    with _opened(path) as (image, _):
        if size is not None:
            _draft(image, size)
        image.load()
        turn = _TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        plain = _plain(upright, image, channels)
        pixels = np.asarray(plain if size is None else _fitted(plain, size))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read_pictures(paths: Iterable[Path], channels: int, size: Size) -> tuple[Tensor, dict[int, DataError]]:
    """Decode many files in threads to uint8 [N, C, h, w], and the errors of those that failed, by position.

    The pictures of failed files are black; it is for the caller to refuse or to drop them.
    """
    paths = list(paths)
    pictures = torch.zeros(len(paths), channels, *size, dtype=torch.uint8)
    buffer = pictures.numpy()

    def decode(position: int) -> DataError | None:
        try:
            buffer[position] = read_pixels(paths[position], channels, size)
        except DataError as error:
            return error
        return None

    outcomes = map_in_threads(decode, range(len(paths)))
    return pictures, {position: error for position, error in enumerate(outcomes) if error is not None}


def _header(image: Image.Image) -> Header:
    turn = _orientation(image)
    lying = turn in _LYING and image.format != "TIFF"  # Pillow gives a TIFF's size already upright
    size = (image.width, image.height) if lying else (image.height, image.width)
    true_format = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG with more of them behind it
    return Header(true_format, size, image.mode, turn in _TURNS)


def _ends_jpeg(file: BinaryIO) -> bool:
    """Return whether End of Image stands near the end; inside compressed data 0xFF is always followed by zero."""
    here = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - 32))
    tail = file.read()
    file.seek(here)  # Pillow reads on from where it stopped
    return b"\xff\xd9" in tail


@contextlib.contextmanager
def _opened(path: Path) -> Generator[tuple[Image.Image, BinaryIO]]:
    """Open a picture file; whatever Pillow raises on its bytes becomes a `DataError` that names the file."""
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError("not a file", printable(path), "give a picture file")  # opening a pipe would wait for ever
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            yield image, file
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on broken bytes
        raise DataError(_reason(path, error), printable(path), _REMEDY) from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                return "an empty file"
        return f"not a picture of a kind that is read ({', '.join(FORMATS)})"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"a picture of more than {MOST_PIXELS // 1_000_000} million pixels"
    if isinstance(error, OSError) and error.errno:
        return f"cannot be opened: {os.strerror(error.errno).lower()}"
    return f"a broken picture: {printable(error) or type(error).__name__}"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or the block is damaged: that harms no pixel."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole picture to look for a block at its end
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _draft(image: Image.Image, size: Size) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size where that still covers `size`; others stay as they are."""
    height, width = (size[1], size[0]) if _orientation(image) in _LYING else size
    scale = min(image.height / height, image.width / width)
    if scale > 1:
        image.draft(image.mode, (math.ceil(image.width / scale), math.ceil(image.height / scale)))


def _fitted(image: Image.Image, size: Size) -> Image.Image:
    """Resize to cover `size` and cut in the middle, in one step."""
    height, width = size
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (
        max(0.0, left),
        max(0.0, top),
        min(image.width, left + width * scale),
        min(image.height, top + height * scale),
    )
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _plain(image: Image.Image, opened: Image.Image, channels: int) -> Image.Image:
    """Turn any kind of pixels into 8-bit grey (`L`) or `RGB`; `opened` is the file's own image, with its tags."""
    if image.mode in _DEEP_MODES:
        image = Image.fromarray(_levelled(np.asarray(image, dtype=np.float32), opened))
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    elif image.has_transparency_data:
        whole = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    return image.convert("L" if channels == 1 else "RGB")


def _levelled(values: np.ndarray, opened: Image.Image) -> np.ndarray:
    """Scale pixels of more than 8 bits to 0..255 by what the file declares of their depth."""
    tags = getattr(opened, "tag_v2", {})
    values = np.nan_to_num(values, posinf=0, neginf=0)
    black, white = _levels(values, opened, tags)
    shares = np.clip((values - black) / (white - black), 0, 1)
    if (
        tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    ):  # "white is zero", which Pillow undoes for 8 bits only
        shares = 1 - shares
    return np.rint(shares * 255).astype(np.uint8)


def _levels(values: np.ndarray, opened: Image.Image, tags: Any) -> tuple[float, float]:
    """Return the values that stand for black and white."""
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    if opened.mode != "F" and bits <= 16:  # PNG and PGM: Pillow gives 0..65535 whatever a PGM's own maximum
        signed = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 2
        return 0, 2 ** (bits - 1 if signed else bits) - 1
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for white in (1, 255, 65535):
            if high <= white:
                return 0, white
    return low, high if high > low else low + 1
