"""Which pictures are trained on and which are held out: by class, by seed, with identical files on one side."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from conviction.data.listing import UNDIVIDED, Listing
from conviction.data.threads import map_in_threads
from conviction.errors import DataError, UsageError
from conviction.text import printable

Labelled = tuple[tuple[str, int], ...]  # files with the numbers of their classes


def check_shares(valid_share: float, test_share: float) -> None:
    """Raise `UsageError` for shares that leave nothing to train on, or nothing to validate with."""
    if not (0 < valid_share < 1 and 0 <= test_share < 1 and valid_share + test_share < 1):
        what = (
            f"valid_share = {valid_share} and test_share = {test_share} leave nothing to train on or to validate with"
        )
        raise UsageError(what, "valid_share, test_share", "use fractions such as 0.1")


def split_listing(listing: Listing, valid_share: float, test_share: float, seed: int) -> dict[str, Labelled]:
    """Return the files of `train`, `valid` and, where there is one, `test`, each with its label.

    Splits that the folder itself has stay as they are. A folder without validation gets `valid_share` of each class of
    its training pictures, and one without test as well gets `test_share` of them (0: none). Labels number the classes
    by name, so a class that a split lacks shifts no other. Raises `DataError` where no class has two different
    pictures.
    """
    labels = {name: label for label, name in enumerate(listing.classes)}
    shares = _shares(listing, valid_share, test_share)
    pool = listing.splits.get(UNDIVIDED) or listing.splits["train"]
    held_out = hold_out_files(pool, _contents(listing.root, pool) if shares else {}, shares, seed)
    if "valid" in shares and "valid" not in held_out.values():
        what = "every class has one picture (or copies of one), so none can be held out for validation"
        raise DataError(what, printable(listing.root), "add pictures")
    parts: dict[str, list[tuple[str, int]]] = {"train": []}
    for name, files in pool.items():
        for file in files:
            parts.setdefault(held_out.get(file, "train"), []).append((file, labels[name]))
    for kind in ("valid", "test"):
        for name, files in listing.splits.get(kind, {}).items():
            parts.setdefault(kind, []).extend((file, labels[name]) for file in files)
    return {kind: tuple(sorted(parts[kind], key=_by_label)) for kind in ("train", "valid", "test") if kind in parts}


def hold_out_files(
    pool: Mapping[str, Sequence[str]], contents: Mapping[str, object], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Return the split (a key of `shares`) of each file of `pool`, by class, that is not trained on.

    Files with the same content go together; as copies add nothing to a test they stay in training while a class has
    enough other pictures. A class of three different pictures or more has one at least in every split; of two, one
    is held out for the first of `shares`. A file's place depends on the seed and its name alone, so that adding a
    picture moves few others.
    """
    groups: dict[object, list[str]] = {}
    owner: dict[object, str] = {}
    for name, files in pool.items():
        for file in files:
            content = contents.get(file, file)
            groups.setdefault(content, []).append(file)
            owner.setdefault(content, name)
    by_class: defaultdict[str, list[list[str]]] = defaultdict(list)
    for content, files in groups.items():
        by_class[owner[content]].append(files)
    chosen = {}
    for members in by_class.values():
        members.sort(key=lambda files: (len(files) > 1, _draw(seed, files[0])))
        start = 0
        for kind, count in _counts(len(members), shares).items():
            chosen |= {file: kind for files in members[start : start + count] for file in files}
            start += count
    return chosen


def same_contents(root: Path, files: Sequence[str]) -> dict[str, bytes]:
    """Return a digest of the bytes of every file that has the length of another one; others can have no twin."""
    lengths = dict(zip(files, map_in_threads(lambda file: (root / file).stat().st_size, files), strict=True))
    seen: defaultdict[int, int] = defaultdict(int)
    for length in lengths.values():
        seen[length] += 1
    shared = [file for file in files if seen[lengths[file]] > 1]
    return dict(zip(shared, map_in_threads(lambda file: _digest(root / file), shared), strict=True))


def _contents(root: Path, pool: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    return same_contents(root, [file for files in pool.values() for file in files])


def _shares(listing: Listing, valid_share: float, test_share: float) -> dict[str, float]:
    """Return the share of the training pool that each split still to be made gets."""
    if "valid" in listing.splits:
        return {}
    return {"valid": valid_share} | ({"test": test_share} if test_share and "test" not in listing.splits else {})


def _counts(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many of `total` go to each split; one at least while one at least is left to train on."""
    counts = {kind: max(1, round(total * share)) for kind, share in shares.items()}
    while sum(counts.values()) >= total and any(counts.values()):
        fullest = max(reversed(counts), key=lambda kind: counts[kind])  # of equals, the last gives way
        counts[fullest] -= 1
    return counts


def _draw(seed: int, file: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{file}".encode(errors="surrogateescape"), digest_size=8).digest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _by_label(entry: tuple[str, int]) -> tuple[int, str]:
    return entry[1], entry[0]
