"""Durable writes: all or nothing, no litter, modes as the umask says, operating system errors in one line."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from conviction import storage
from conviction.errors import ResourceError
from conviction.storage import existing_parent, explain_os_error, make_folder, replacing, write_bytes, write_text


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    assert write_text(path, "grüße") == path
    assert path.read_bytes() == "grüße".encode()
    assert write_bytes(path, b"\0new") == path
    assert path.read_bytes() == b"\0new"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with replacing(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_text() == "old"
        assert len(names_in(tmp_path)) == 2  # the temporary file lies in the same folder, so a rename is enough
    assert path.read_text() == "half"


@pytest.mark.parametrize("error", [ValueError("mid-way"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_leaves_the_old_file_and_no_litter(tmp_path: Path, error: BaseException) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(type(error)), replacing(path) as file:
        file.write(b"half")
        raise error
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


FAILURES = {
    errno.ENOSPC: r"cannot write: no space left on device \([0-9.]+ [KMGT]?i?B free\), {} - free some space",
    errno.EDQUOT: r"cannot write: disk quota exceeded \(.* free\), {} - free some of the quota",
    errno.EACCES: "cannot write: permission denied, {} - choose a folder that you may write to",
    errno.EROFS: "cannot write: read-only file system, {} - choose a folder on a writable disk",
    errno.EFBIG: "cannot write: file too large, {} - raise the limit on file sizes",
    errno.EIO: "cannot write: input/output error, {} - check the disk",
}


@pytest.mark.parametrize("number", FAILURES)
@pytest.mark.parametrize("call", ["fsync", "fdopen"])
def test_a_failing_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def fail(handle: int, *args: Any) -> None:
        if call == "fdopen":
            os.close(handle)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.os, call, fail)
    with pytest.raises(ResourceError, match=FAILURES[number].format(path)) as refusal:
        write_text(path, "new")
    monkeypatch.undo()
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 5
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_disk_that_fills_up_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    real = os.fdopen
    monkeypatch.setattr(storage.os, "fdopen", lambda handle, mode: _full(real(handle, mode)))
    with pytest.raises(ResourceError, match="no space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def _full(file: Any) -> Any:
    class Full:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            file.close()

        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    return Full()


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fail_on_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(storage.os, "fsync", fail_on_folders)
    assert write_text(tmp_path / "a.txt", "new").read_text() == "new"


def test_file_and_folder_are_flushed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls = tmp_path / "a.txt", []
    real = os.fsync

    def note(handle: int) -> None:
        calls.append(("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file", path.exists()))
        real(handle)

    monkeypatch.setattr(storage.os, "fsync", note)
    write_text(path, "new")
    assert calls == [("file", False), ("folder", True)]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_mode_honours_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = write_text(tmp_path / "a.txt", "x")
        assert os.umask(umask) == umask  # and it is still the process's own
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_text(tmp_path / "file", "x")
    for path, why in [
        (tmp_path / "none" / "a.txt", "no such file or directory"),
        (tmp_path / "folder", "is a directory"),
        (tmp_path / "file" / "a.txt", "not a directory"),
        (tmp_path / ("n" * 300), "file name too long"),
    ]:
        with pytest.raises(ResourceError, match=f"cannot write: {why}"):
            write_text(path, "x")
    assert names_in(tmp_path) == ["file", "folder"]
    with pytest.raises(ResourceError, match="cannot write: file exists"):
        make_folder(tmp_path / "file")


def test_names_are_made_safe() -> None:
    refusal = explain_os_error(OSError(errno.EACCES, "x"), Path("/tmp/\x1b[31m"))
    assert "\x1b" not in str(refusal)
    assert str(explain_os_error(OSError("no number"), Path("a"))) == "cannot write: no number, a - check the disk"


def test_make_folder_and_existing_parent(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    assert existing_parent(deep / "c") == tmp_path
    assert make_folder(deep) == deep
    assert make_folder(deep).is_dir()
    assert existing_parent(deep / "c" / "d") == deep
