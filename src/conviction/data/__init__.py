"""Data: folders of images, named data sets, files of pixels and plain torch data, all made into `Data`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from conviction.data.downloading import Progress
from conviction.data.named import SETS, read_named
from conviction.data.records import Data
from conviction.errors import DataError
from conviction.text import printable, suggest, system_reason

if TYPE_CHECKING:
    from conviction.data.audit import Audit


def open_data(
    text: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    valid_share: float = 0.1,
    seed: int = 0,
    on_bad: str = "stop",
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Data:
    """Open what the word DATA of the command stands for: a named set, a folder of images or a file of pixels.

    Raises `DataError` where it is none of them.
    """
    split: dict[str, Any] = {"image_size": image_size, "valid_share": valid_share, "seed": seed}
    if str(text) in SETS:
        return read_named(str(text), data_root=data_root, progress=progress, **split)

    from conviction.data.folder import read_folder
    from conviction.data.pixel_files import read_pixel_file

    path = Path(text)
    kind = _kind_of(path)
    if kind == "pixels":
        return read_pixel_file(path, **split)
    if kind == "folder":
        return read_folder(path, on_bad=on_bad, **split)
    named = ", ".join(SETS)
    raise DataError(f"no data named {printable(text)!r}{suggest(str(text), SETS)}", "",
                    f"give a folder of images, a file of pixels, or one of {named}")  # fmt: skip


def audit_any(data: Data | str | os.PathLike[str], *, data_root: str | None = None) -> Audit:
    """Audit a folder file by file, or any other data by its pictures. Nothing is changed."""
    from conviction.data.audit import audit_data, audit_folder

    if isinstance(data, Data):
        return audit_data(data)
    if is_folder_of_pictures(data):
        return audit_folder(Path(data))
    return audit_data(open_data(data, data_root=data_root))


def is_folder_of_pictures(text: str | os.PathLike[str]) -> bool:
    """Whether DATA stands for a folder of image files, rather than a named set or files of pixels."""
    return str(text) not in SETS and _kind_of(Path(text)) == "folder"


def _kind_of(path: Path) -> Literal["pixels", "folder", "nothing"]:
    from conviction.data.pixel_files import holds_pixel_files

    try:
        if path.is_file() or (path.is_dir() and holds_pixel_files(path)):
            return "pixels"
        return "folder" if path.is_dir() else "nothing"
    except OSError as error:  # a name that is too long, a folder that may not be entered
        what = f"the data cannot be opened: {system_reason(error)}"
        raise DataError(what, printable(path), "check the path") from error
