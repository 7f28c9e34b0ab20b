"""What lies in a folder of photographs: its splits, classes and picture files, and all that is left aside."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conviction.errors import DataError
from conviction.text import list_some, printable, suggest, system_reason

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
UNDIVIDED = "all"  # the one split of a folder that has no train/, valid/ and test/
_SYSTEM_NAMES = frozenset({"__macosx", "__pycache__", "$recycle.bin", "system volume information", "lost+found",
                           "thumbs.db", "desktop.ini"})  # fmt: skip
ARRANGEMENT = "put each class's pictures into a folder of its own, named after the class"


@dataclass(frozen=True)
class Listing:
    """The files of a folder of photographs by what they are, before any is opened.

    `splits` holds the picture files by split and class, as paths relative to `root`, sorted; an undivided folder has
    the one split `all`. `ignored` holds what is left aside, by reason; `stray` the pictures that lie in no class.
    """

    root: Path
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]
    ignored: Mapping[str, tuple[str, ...]]
    stray: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of all splits, sorted by code point."""
        return tuple(sorted({name for classes in self.splits.values() for name in classes}))

    @property
    def files(self) -> tuple[str, ...]:
        """The picture files of all splits and classes."""
        return tuple(file for classes in self.splits.values() for files in classes.values() for file in files)

    def without(self, dropped: Collection[str]) -> Listing:
        """Return the listing with some of its picture files left out."""
        splits = {
            kind: {name: tuple(file for file in files if file not in dropped) for name, files in classes.items()}
            for kind, classes in self.splits.items()
        }
        return dataclasses.replace(self, splits=splits)

    def notes(self) -> tuple[str, ...]:
        """Say what was left aside, a line for each reason."""
        lines = [f"ignored {len(names)} {reason}: {list_some(names)}" for reason, names in self.ignored.items()]
        if self.stray:
            lines.append(f"ignored {len(self.stray)} pictures that lie in no class: {list_some(self.stray)}")
        return tuple(lines)


@dataclass
class _Walk:
    """Walks a folder without following links out of it or into loops, and remembers what it passed over."""

    root: Path
    passed: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def folders_and_files(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the visible sub-folders and the picture files right in `folder`, each sorted by name."""
        folders, files = [], []
        for entry in _entries(folder):
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
                self._pass("hidden or system names", entry)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif self._is_picture(entry):
                files.append(Path(entry.path))
        return folders, files

    def pictures(self, folder: Path) -> Iterator[str]:
        """Yield the picture files in `folder` and below, relative to the root."""
        waiting = [folder]
        while waiting:
            folders, files = self.folders_and_files(waiting.pop())
            waiting += folders
            yield from (self.relative(file) for file in files)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _is_picture(self, entry: os.DirEntry[str]) -> bool:
        extension = Path(entry.name).suffix.lower()
        if entry.is_symlink() and not self._leads_inside(entry):
            self._pass("links that lead to folders, out of the folder or nowhere", entry)
        elif not entry.is_file():
            self._pass("special files (pipes, sockets, devices)", entry)
        elif extension not in EXTENSIONS:
            self._pass(f"{extension} files" if extension else "files without an extension", entry)
        else:
            return True
        return False

    def _leads_inside(self, entry: os.DirEntry[str]) -> bool:
        try:
            target = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
            return False
        return target.is_relative_to(self.root) and not target.is_dir()

    def _pass(self, reason: str, entry: os.DirEntry[str]) -> None:
        self.passed[reason].append(self.relative(Path(entry.path)))


def list_folder(path: Path | str) -> Listing:
    """List the pictures of a folder by split and class, with `train/`, `valid|val|validation/`, `test/` or without.

    Sub-folders are classes, and pictures may lie any number of folders deeper. Only names and types of files are looked
    at. Raises `DataError` for a folder that is missing, cannot be opened, or holds no class folders.
    """
    root = _existing(Path(path))
    walk = _Walk(root)
    folders, stray = walk.folders_and_files(root)
    split_folders = _split_folders(root, folders)
    strays = [walk.relative(file) for file in stray]
    splits = {}
    for kind, folder in split_folders.items():
        class_folders, loose = (folders, []) if folder == root else walk.folders_and_files(folder)
        splits[kind] = _pictures_by_class(walk, class_folders)
        strays += [walk.relative(file) for file in loose]
    if "train" in split_folders:
        others = [folder for folder in folders if folder not in split_folders.values()]
        walk.passed["folders beside train"] += [walk.relative(folder) for folder in others]
    if "test" in splits and not splits["test"]:  # pictures without classes, as competitions give them
        del splits["test"]
    ignored = {reason: tuple(sorted(names)) for reason, names in sorted(walk.passed.items()) if names}
    listing = Listing(root, splits, ignored, tuple(strays))
    if not listing.classes:
        raise _no_classes(listing)
    return listing


def pictures_below(folder: Path) -> list[Path]:
    """Return the picture files in `folder` and its sub-folders, sorted by path, by the rules of `list_folder`.

    Hidden and system names, other extensions, special files and links that lead out of the folder are left aside.
    Raises `DataError` for a folder that is missing or cannot be opened.
    """
    root = _existing(folder)
    return [folder / file for file in sorted(_Walk(root).pictures(root))]


def find_faults(listing: Listing) -> list[DataError]:
    """Return every reason why a folder cannot be trained on, the one to mend first at the front."""
    where, faults = printable(listing.root), []
    if len(listing.classes) == 1:
        only = printable(listing.classes[0])
        faults.append(DataError(f"one class only ({only})", where, f"two or more are needed: {ARRANGEMENT}"))
    for kind, classes in listing.splits.items():
        missing = [name for name, files in classes.items() if kind in ("train", UNDIVIDED) and not files]
        for name in missing:
            ignored = sum(name in Path(file).parts for files in listing.ignored.values() for file in files)
            other = f" ({ignored} other files)" if ignored else ""
            remedy = f"add pictures ({', '.join(sorted(EXTENSIONS))}) or remove the folder"
            faults.append(DataError(f"class {printable(name)!r} has no pictures{other}", where, remedy))
        if not any(classes.values()):
            faults.append(DataError(f"{kind} holds no pictures", where, "add pictures or remove the folder"))
    known = set(listing.splits.get("train", listing.classes))
    for kind, classes in listing.splits.items():
        for name in sorted(name for name, files in classes.items() if files and name not in known):
            what = f"class {printable(name)!r} is in {kind} but not in train"
            faults.append(DataError(what, where, "add it to train, or rename it as train names it"))
    return faults


def twin_names(listing: Listing) -> list[list[str]]:
    """Return the groups of classes whose names differ by upper and lower case only."""
    by_folded: defaultdict[str, list[str]] = defaultdict(list)
    for name in listing.classes:
        by_folded[name.casefold()].append(name)
    return [names for names in by_folded.values() if len(names) > 1]


def _existing(path: Path) -> Path:
    try:
        if path.is_dir():
            return path.resolve()
        if path.exists():
            raise DataError("a file where a folder of class folders is needed", printable(path), "give the folder")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        what = f"the folder cannot be opened: {system_reason(error)}"
        raise DataError(what, printable(path), "check the path") from error
    parent = path.absolute().parent
    near = suggest(path.name, [entry.name for entry in _entries(parent)]) if parent.is_dir() else ""
    raise DataError(f"there is no such folder{near}", printable(path), "check the path")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        what = f"the folder cannot be opened: {system_reason(error)}"
        raise DataError(what, printable(folder), "check its permissions") from error


def _split_folders(root: Path, folders: list[Path]) -> dict[str, Path]:
    """Return the folder of each split; the root itself as the one split where it has none."""
    found: dict[str, Path] = {}
    for folder in folders:
        kind = SPLIT_FOLDERS.get(folder.name.lower())
        if kind in found:
            what = f"both {printable(found[kind].name)}/ and {printable(folder.name)}/ are there"
            raise DataError(what, printable(root), f"keep one of them as the {kind} split")
        if kind:
            found[kind] = folder
    if not found:
        return {UNDIVIDED: root}
    if "train" not in found:
        name = printable(next(iter(found.values())).name)
        remedy = "put the other class folders into train/, or rename it if it is a class"
        raise DataError(f"there is {name}/ but no train/", printable(root), remedy)
    return {kind: found[kind] for kind in ("train", "valid", "test") if kind in found}


def _pictures_by_class(walk: _Walk, class_folders: list[Path]) -> dict[str, tuple[str, ...]]:
    by_class: defaultdict[str, list[str]] = defaultdict(list)
    for folder in class_folders:
        by_class[_class_name(folder)] += walk.pictures(folder)
    return {name: tuple(sorted(files)) for name, files in by_class.items()}


def _class_name(folder: Path) -> str:
    """Return a folder's name in composed Unicode: what looks the same to a person is one class on every system."""
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise DataError("a class folder whose name is not UTF-8", printable(folder), "rename it") from error
    return unicodedata.normalize("NFC", folder.name)


def _no_classes(listing: Listing) -> DataError:
    kinds = Counter({reason: len(names) for reason, names in listing.ignored.items()})
    aside = f" ({', '.join(f'{count} {reason}' for reason, count in kinds.most_common(3))})" if kinds else ""
    if listing.stray:
        what = f"{len(listing.stray)} pictures lie in the folder itself, in no class folder"
    else:
        what = f"no class folders with pictures{aside}"
    return DataError(what, printable(listing.root), ARRANGEMENT)
