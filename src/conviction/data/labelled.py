"""A folder of labelled pictures as one split, read as a trained net reads pictures: to measure it on other data."""

from __future__ import annotations

from pathlib import Path

import torch

from conviction.data.folder import inspect_files
from conviction.data.listing import UNDIVIDED, list_folder
from conviction.data.photographs import Photographs, refuse_broken
from conviction.data.records import Preprocessing, Split
from conviction.errors import DataError
from conviction.text import printable


def read_labelled(path: Path | str, preprocessing: Preprocessing) -> Split:
    """Return the pictures of a folder by class: those of `test/`, else `valid/`, else all of an undivided folder.

    Pictures are read in the channels and at the size of `preprocessing`, whatever they are. One class is enough. Raises
    `DataError` for a folder without pictures, or with some that cannot be read.
    """
    listing = list_folder(path)
    kind = next((kind for kind in ("test", "valid", UNDIVIDED) if kind in listing.splits), "train")
    classes = tuple(name for name, files in listing.splits[kind].items() if files)
    pairs = [(file, label) for label, name in enumerate(classes) for file in listing.splits[kind][name]]
    if not pairs:
        raise DataError(f"{kind} holds no pictures", printable(listing.root), "add pictures to evaluate on")
    files = tuple(file for file, _ in pairs)
    _, broken = inspect_files(listing.root, files)
    if broken:
        refuse_broken(listing.root, broken)
    source = Photographs(listing.root, files, preprocessing.image[0], preprocessing.stored, streams=True)
    labels = torch.tensor([label for _, label in pairs])
    return Split(source, labels, files, kind, classes, preprocessing)
