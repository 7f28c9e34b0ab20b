"""The words that flags are made of: their types with their help, and how they become knobs of a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from conviction.errors import DataError, UsageError
from conviction.recipe import Recipe, parse_setting, read_knobs
from conviction.text import printable

# Of a log that is given whole; what matters is near its end or its beginning.
_MOST_BYTES = 100_000_000

OTHER_KNOBS = "any other knob, as in --set mixup=0.2: " + ", ".join(sorted(set(Recipe.__dataclass_fields__) - {
    "epochs", "batch_size", "image_size", "lr", "weight_decay", "optimizer", "schedule", "precision", "init", "device",
    "workers", "seed",
}))  # fmt: skip
CARD = "a card by name (t4, rtx 3060), by memory (16GiB), cpu, cuda; default what is here"
Json = Annotated[bool, Parameter(help="print one JSON object and nothing else")]
Device = Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, mps; default the accelerator if there is one")]
DataRoot = Annotated[str | None, Parameter(help="folder that holds named data sets (or set CONVICTION_DATA)")]


Net = Annotated[str, Parameter(help="a name of `conviction nets`, as it is or narrowed by /2, /4, /8; a net from "
                                    "elsewhere by module:factory, timm:NAME, torchvision:NAME")]  # fmt: skip
DataWord = Annotated[
    str, Parameter(help="a folder of images, a file of pixels, or fashion-mini, fashion-mnist, cifar10")
]
OtherData = Annotated[str | None, Parameter(help="other data; default the run's own test split, else validation")]
Settings = Annotated[tuple[str, ...], Parameter(name="--set", help=OTHER_KNOBS)]
RunFolder = Annotated[Path, Parameter(help="the folder of a run, such as runs/vgg7-bn-2-1")]


def told(knob: str) -> Parameter:
    """Help for the flag of a recipe's knob: its reason and choices."""
    told = Recipe.__dataclass_fields__[knob].metadata
    return Parameter(help=told["reason"] + (f": {', '.join(told['choices'])}" if told["choices"] else ""))


def parse_image(text: str) -> tuple[int, int, int]:
    """Read `CxHxW`."""
    sizes = text.lower().split("x")
    if len(sizes) != 3 or not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
        raise UsageError(f"--image {printable(text)!r} is not a shape", "--image", "write it as 3x224x224")
    channels, height, width = (int(size) for size in sizes)
    return channels, height, width


def merge_knobs(recipe: Path | None, settings: tuple[str, ...], flags: dict[str, Any]) -> dict[str, Any]:
    """Put together a recipe file, `--set` and the flags; the later win."""
    knobs = {} if recipe is None else read_knobs(recipe)
    knobs |= dict(parse_setting(setting) for setting in settings)
    return knobs | {name: value for name, value in flags.items() if value is not None}


def read_message(text: str) -> str:
    """Read a text that is given as such, as a file or, for `-`, on standard input; at most 100 MB of it."""
    if text == "-":
        return sys.stdin.buffer.read(_MOST_BYTES).decode(errors="replace")
    path = Path(text)
    if not _is_file(path):
        return text
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError as error:
        raise DataError(f"the message cannot be read: {error.strerror}", printable(text), "give a text file") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a message is no path: too long for a name, or with a zero byte
        return False
