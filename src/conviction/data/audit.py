"""What is wrong with a data set before anything is trained on it: broken files, copies, leaks, and what surprises."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conviction.data.batches import batches
from conviction.data.decoding import Header, read_header, read_pixels
from conviction.data.listing import UNDIVIDED, find_faults, list_folder, twin_names
from conviction.data.records import Data, Split
from conviction.data.threads import map_in_threads
from conviction.errors import DataError
from conviction.text import format_table, list_some, printable

FEW_PICTURES = 10  # fewer of a class to train on are said
IMBALANCE = 10  # the largest class over the smallest
SMALL_SIDE = 16  # pixels
_TWELVE_BITS = 16  # 4095, the most that 12 bits hold, as one of the 256 levels of 65535
_USUAL_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
_EXTENSIONS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".ppm": "PPM", ".pgm": "PPM", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """What was found in a data set.

    `counts` has the readable pictures by split and class (an undivided folder is the one split `all`), `images` their
    sum; `broken` pairs each unreadable file with the reason. `duplicates` are groups of pictures that are equal pixel
    for pixel; `leaks` are those of them that lie in more than one split. `warnings` are lines for a person.
    """

    name: str
    classes: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    images: int
    broken: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    leaks: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            (printable(name), *(str(self.counts[kind].get(name, 0)) for kind in self.counts)) for name in self.classes
        ]
        total = ("total", *(str(sum(self.counts[kind].values())) for kind in self.counts))
        header = ("class", *self.counts)
        parts = [
            f"{printable(self.name)}: {self.images} images in {len(self.classes)} classes",
            format_table(header, [*rows, total], right=range(1, len(header))),
            _told("cannot be read", [f"{printable(file)}: {reason}" for file, reason in self.broken]),
            _told("groups of equal pictures", [list_some(group) for group in self.duplicates]),
            _told("of them lie in more than one split", [list_some(group) for group in self.leaks]),
            _told("warnings", self.warnings),
        ]
        return "\n\n".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "classes": list(self.classes),
            "counts": {kind: dict(classes) for kind, classes in self.counts.items()},
            "images": self.images,
            "broken": [{"file": file, "reason": reason} for file, reason in self.broken],
            "duplicates": [list(group) for group in self.duplicates],
            "leaks": [list(group) for group in self.leaks],
            "warnings": list(self.warnings),
        }


def _told(what: str, lines: Sequence[str], most: int = 20) -> str:
    """Return a count with the first few lines under it; nothing where there are none."""
    if not lines:
        return ""
    more = [f"  ... and {len(lines) - most} more (all with --json)"] if len(lines) > most else []
    return "\n".join([f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:most]), *more])


@dataclass(frozen=True)
class Picture:
    """One picture that was looked at: its name, where it lies, a digest of its pixels, and its file's header if any."""

    name: str
    kind: str
    class_name: str
    digest: bytes
    one_colour: bool
    brightest: int
    header: Header | None = None


def audit_folder(path: Path | str) -> Audit:
    """Look at every file of a folder of photographs, decoding all pictures; nothing is written.

    A folder that could not be trained on is audited all the same, with the reasons among the warnings. Raises
    `DataError` for one that is missing or holds no class folders.
    """
    listing = list_folder(path)
    places = [
        (file, kind, name)
        for kind, classes in listing.splits.items()
        for name, files in classes.items()
        for file in files
    ]
    seen = map_in_threads(lambda place: _look(listing.root, *place), places)
    pictures = [outcome for outcome in seen if isinstance(outcome, Picture)]
    broken = [
        (place[0], outcome.what) for place, outcome in zip(places, seen, strict=True) if isinstance(outcome, DataError)
    ]
    faults = [f"cannot be trained on: {fault.what} - {fault.remedy}" for fault in find_faults(listing)]
    twins = [f"classes whose names differ by case only: {list_some(names)}" for names in twin_names(listing)]
    warnings = [*faults, *twins, *_file_warnings(pictures), *listing.notes()]
    return _summed(listing.root.name, listing.classes, tuple(listing.splits), pictures, broken, warnings)


def audit_data(data: Data) -> Audit:
    """Look at every picture of a data set as it is stored; copies are found by their pixels. Nothing is written."""
    seen = [outcome for split in data.splits.values() for outcome in _look_at_split(split, data.classes)]
    pictures = [outcome for outcome in seen if isinstance(outcome, Picture)]
    broken = [(outcome.where, outcome.what) for outcome in seen if isinstance(outcome, DataError)]
    return _summed(data.name, data.classes, tuple(data.splits), pictures, broken, list(data.notes))


def _look(root: Path, file: str, kind: str, class_name: str) -> Picture | DataError:
    try:
        header = read_header(root / file)
        pixels = read_pixels(root / file, 3)  # three channels, so that a grey copy of a grey picture in RGB is found
    except DataError as error:
        return error
    return _picture(file, kind, class_name, pixels.transpose(1, 2, 0), header)


def _look_at_split(split: Split, classes: Sequence[str]) -> Iterable[Picture | DataError]:
    for batch in batches(split, 512, seed=0, epoch=0, shuffled=False):
        for index, label, pixels in zip(
            batch.indices.tolist(), batch.labels.tolist(), batch.pictures.numpy(), strict=True
        ):
            if np.isfinite(pixels).all():
                yield _picture(split.name_of(index), split.kind, classes[label], pixels, None)
            else:
                yield DataError("some pixels are not finite numbers", split.name_of(index))


def _picture(name: str, kind: str, class_name: str, pixels: np.ndarray, header: Header | None) -> Picture:
    """Describe one picture; `pixels` has its channels first or last."""
    channel_axes = (0, 1) if header is not None else (1, 2)
    low, high = pixels.min(axis=channel_axes), pixels.max(axis=channel_axes)
    digest = hashlib.blake2b(str((pixels.shape, pixels.dtype)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return Picture(name, kind, class_name, digest.digest(), bool((low == high).all()), int(high.max()), header)


def _summed(
    name: str,
    classes: tuple[str, ...],
    kinds: tuple[str, ...],
    pictures: Sequence[Picture],
    broken: Sequence[tuple[str, str]],
    warnings: Sequence[str],
) -> Audit:
    """Count the pictures, group the copies, and put the warnings that follow from these in front."""
    counted = Counter((picture.kind, picture.class_name) for picture in pictures)
    counts = {kind: {class_name: counted[kind, class_name] for class_name in classes} for kind in kinds}
    by_digest: defaultdict[bytes, list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_digest[picture.digest].append(picture)
    copies = [group for group in by_digest.values() if len(group) > 1]
    leaks = [group for group in copies if len({picture.kind for picture in group}) > 1]
    mixed = [group for group in copies if len({picture.class_name for picture in group}) > 1]
    ahead = _count_warnings(counts)
    if mixed:
        examples = [" = ".join(picture.name for picture in group) for group in mixed]
        ahead.append(f"{_number(mixed, 'picture lies', 'pictures lie')} in more than one class: {list_some(examples)}")
    flat = [picture.name for picture in pictures if picture.one_colour]
    if flat:
        ahead.append(f"{_number(flat, 'picture is', 'pictures are')} of one colour: {list_some(flat)}")
    return Audit(
        name, classes, counts, len(pictures), tuple(broken), _named(copies), _named(leaks), (*ahead, *warnings)
    )


def _named(groups: Iterable[Iterable[Picture]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(picture.name for picture in group) for group in groups)


def _count_warnings(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    warnings = []
    training = counts.get("train", counts.get(UNDIVIDED, {}))
    few = [f"{name} ({count})" for name, count in training.items() if count < FEW_PICTURES]
    if few:
        warnings.append(
            f"fewer than {FEW_PICTURES} pictures to train on in {_number(few, 'class', 'classes')}: {list_some(few)}"
        )
    if training and max(training.values()) > IMBALANCE * max(1, min(training.values())):
        largest, smallest = (
            max(training, key=lambda name: training[name]),
            min(training, key=lambda name: training[name]),
        )
        warnings.append(
            f"classes are out of balance: {printable(largest)} has {training[largest]} pictures,"
            f" {printable(smallest)} {training[smallest]}"
        )
    for kind, classes in counts.items():
        missing = [name for name, count in classes.items() if not count and training.get(name)]
        if missing:
            warnings.append(f"{kind} has no readable picture of {list_some(missing)}")
    return warnings


def _file_warnings(pictures: Sequence[Picture]) -> list[str]:
    """Say what the headers show: names that lie about the format, turned, tiny, rare kinds of pixels, sizes."""
    found = [(picture, picture.header) for picture in pictures if picture.header is not None]
    groups = {
        "named as another format than the file has": [
            f"{picture.name} ({header.format})"
            for picture, header in found
            if _EXTENSIONS.get(Path(picture.name).suffix.lower()) != header.format
        ],
        "turned by their EXIF orientation, which is applied": [p.name for p, header in found if header.turned],
        f"smaller than {SMALL_SIDE} pixels": [p.name for p, header in found if min(header.size) < SMALL_SIDE],
        "of a rare kind, converted": [
            f"{picture.name} ({header.mode})" for picture, header in found if header.mode not in _USUAL_MODES
        ],
        "of 16 bits but almost black, perhaps from a camera of 12 bits": [
            p.name for p, header in found if header.mode.startswith("I") and p.brightest <= _TWELVE_BITS
        ],
    }
    warnings = [
        f"{_number(names, 'picture', 'pictures')} {what}: {list_some(names)}" for what, names in groups.items() if names
    ]
    grey = [picture.name for picture, header in found if header.grey]
    if 0 < len(grey) < len(found):
        warnings.append(f"{len(grey)} grey and {len(found) - len(grey)} colour pictures, all read in colour")
    sizes = sorted({header.size for _, header in found}, key=lambda size: size[0] * size[1])
    if len(sizes) > 1:
        small, large = (f"{height}x{width}" for height, width in (sizes[0], sizes[-1]))
        warnings.append(f"{len(sizes)} sizes (height x width), from {small} to {large}")
    return warnings


def _number(things: Sequence[object], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"
