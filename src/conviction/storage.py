"""The only door for durable writes: a temporary file in the target folder, flushed to disk, then renamed into place."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from conviction.errors import ConvictionError, ResourceError
from conviction.text import format_bytes, printable, system_reason

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another --out",
    errno.EDQUOT: "free some of the quota or choose another --out",
    errno.EFBIG: "raise the limit on file sizes or choose another --out",
    errno.EACCES: "choose a folder that you may write to with --out",
    errno.EPERM: "choose a folder that you may write to with --out",
    errno.EROFS: "choose a folder on a writable disk with --out",
}

_MOST_COPIES = 1000  # names that are tried for a new file


@contextlib.contextmanager
def refusing(path: Path) -> Generator[None]:
    """Turn an operating system error on `path` into a `ResourceError` that says what and where."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, path) from error


def explain_os_error(error: OSError, path: Path) -> ConvictionError:
    """Return the refusal for an operating system error met while writing `path`."""
    what = system_reason(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            what += f" ({format_bytes(shutil.disk_usage(existing_parent(path)).free)} free)"
    return ResourceError(f"cannot write: {what}", printable(path), _REMEDIES.get(error.errno or 0, "check the disk"))


def existing_parent(path: Path) -> Path:
    """Return `path` or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file beside `path` for writing; on success it takes the place of `path` in one step.

    On any error `path` stays as it was and the temporary file is removed.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        with refusing(path):
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
            temporary = None
            sync_folder(path.parent)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` durably to `path`; returns `path`."""
    with replacing(path) as file:
        file.write(content)
    return path


def write_text(path: Path, content: str) -> Path:
    """Write `content` durably to `path` as UTF-8; returns `path`."""
    return write_bytes(path, content.encode())


def numbered(path: Path, number: int) -> Path:
    """Return the name of the copy of that number: the first is `NAME.ending` itself, the second `NAME-2.ending`."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def write_new(path: Path, content: bytes) -> Path | None:
    """Write durably to `path` where nothing is yet, else to `NAME-2.ending` and so on; None where all are taken."""
    for number in range(1, _MOST_COPIES):
        copy = numbered(path, number)
        with refusing(copy):
            try:
                copy.open("xb").close()
            except FileExistsError:
                continue
        try:
            return write_bytes(copy, content)
        except BaseException:
            copy.unlink(missing_ok=True)  # the empty file that held the name
            raise
    return None


def make_folder(path: Path) -> Path:
    """Create `path` and the folders above it where they are missing; returns `path`."""
    with refusing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, where the system can."""
    with contextlib.suppress(OSError):  # not every file system syncs folders; the file itself is safe by then
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
