"""Downloads: a pinned file arrives whole and verified by its sha256, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from conviction.errors import ConvictionError, DataError, ResourceError, TemporaryError
from conviction.storage import explain_os_error, make_folder, replacing
from conviction.text import format_bytes, printable

Progress = Callable[[str, int, int], None]

_CHUNK_BYTES = 2**18
_TIMEOUT_SECONDS = 30.0
_PAUSES_SECONDS = (1.0, 4.0)  # before the second and the third attempt at an address
_WORTH_A_RETRY = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class PinnedFile:
    """A file on the network: its name here, the addresses that serve it, its length in bytes and its full sha256."""

    name: str
    urls: tuple[str, ...]
    size_bytes: int
    sha256: str


class _RefusingRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to the same host, and never from https to anything else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.hostname != old.hostname or new.scheme not in {old.scheme, "https"}:
            raise DataError(f"redirected elsewhere, to {printable(newurl)}", printable(req.full_url))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(file: PinnedFile, folder: Path, progress: Progress | None = None) -> Path:
    """Fetch `file` into `folder`, trying its addresses in turn, and return its path.

    What has arrived is kept beside the target as `.part`, and the next attempt or call goes on from there.
    `progress(name, done_bytes, total_bytes)` is called as bytes arrive.

    Raises `TemporaryError` if a later try may succeed, `DataError` if every address refused or served another file,
    `ResourceError` if the folder cannot be written to. Each message says what was tried.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    with _explaining(folder):
        make_folder(folder)
    troubles: list[ConvictionError] = []
    with _alone(folder / f"{file.name}.lock"):
        if is_whole(target, file):  # another process may have fetched it while this one waited
            return target
        for url in file.urls:
            try:
                _obtain(url, file, part, target, progress)
                return target
            except (DataError, TemporaryError) as error:
                troubles.append(error)
    kind = TemporaryError if any(isinstance(trouble, TemporaryError) for trouble in troubles) else DataError
    raise kind(f"{file.name} could not be downloaded ({'; '.join(map(str, troubles))})")


def is_whole(path: Path, file: PinnedFile) -> bool:
    """Whether the file at `path` has the length and the sha256 of `file`."""
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _obtain(url: str, file: PinnedFile, part: Path, target: Path, progress: Progress | None) -> None:
    resumed = part.exists()
    try:
        _fetch_with_retries(url, file, part, progress)
        _place(part, target, file, url)
    except DataError:
        if not resumed or part.exists():
            raise
        _fetch_with_retries(url, file, part, progress)  # the fault lay in what an earlier call had left
        _place(part, target, file, url)


def _fetch_with_retries(url: str, file: PinnedFile, part: Path, progress: Progress | None) -> None:
    for pause in (*_PAUSES_SECONDS, None):
        try:
            _fetch(url, file, part, progress)
            return
        except TemporaryError:
            if pause is None:
                raise
            time.sleep(pause)


def _fetch(url: str, file: PinnedFile, part: Path, progress: Progress | None) -> None:
    """Bring `part` to the full length, going on where it ends."""
    have = part.stat().st_size if part.exists() else 0
    if have == file.size_bytes:
        return
    if have > file.size_bytes:
        have = 0
    with _told(url), _open(url, have) as response:
        if not _goes_on_at(response, have):
            have = 0
        with _explaining(part), part.open("ab" if have else "wb") as output:
            _copy(response, output, file, have, progress)


def _copy(
    response: http.client.HTTPResponse, output: IO[bytes], file: PinnedFile, done: int, progress: Progress | None
) -> None:
    while chunk := _read(response):
        done += len(chunk)
        if done > file.size_bytes:
            output.truncate(0)
            raise DataError(f"the server sends more than the {format_bytes(file.size_bytes)} of {file.name}")
        output.write(chunk)
        if progress:
            progress(file.name, done, file.size_bytes)
    if done < file.size_bytes:
        raise TemporaryError(f"the connection ended after {done} of {file.size_bytes} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """Read what has arrived; a fault of the network must not look like one of the disk."""
    try:
        return response.read1(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise TemporaryError(f"the connection broke: {_in_words(error)}") from error


def _open(url: str, have: int) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
    if urlsplit(url).scheme not in {"http", "https"}:
        raise DataError("not an address on the web", printable(url))
    headers = {"User-Agent": "conviction", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme was checked above
    return urllib.request.build_opener(_RefusingRedirects).open(request, timeout=_TIMEOUT_SECONDS)


def _goes_on_at(response: http.client.HTTPResponse, have: int) -> bool:
    """Whether the server answered a request for the rest with just that; else it starts from the beginning."""
    return response.status == 206 and (response.headers["Content-Range"] or "").startswith(f"bytes {have}-")


@contextlib.contextmanager
def _told(url: str) -> Generator[None]:
    """Turn the faults of one attempt into refusals that name the address."""
    where = printable(url)
    try:
        yield
    except urllib.error.HTTPError as error:
        kind = TemporaryError if error.code in _WORTH_A_RETRY else DataError
        raise kind(f"the server answers {error.code} {printable(error.reason)}", where) from error
    except (DataError, TemporaryError) as error:
        raise type(error)(error.what, error.where or where) from error
    except (OSError, http.client.HTTPException) as error:
        raise TemporaryError(_in_words(error), where) from error


@contextlib.contextmanager
def _explaining(path: Path) -> Generator[None]:
    """Turn a fault of the disk into a refusal with a remedy that fits the cache."""
    try:
        yield
    except (OSError, ResourceError) as error:
        what = error.what if isinstance(error, ResourceError) else explain_os_error(error, path).what
        remedy = "free some space or set XDG_CACHE_HOME to a folder that you may write to"
        raise ResourceError(what, printable(path), remedy) from error


def _place(part: Path, target: Path, file: PinnedFile, url: str) -> None:
    """Copy `part` to its place while computing its sha256; what differs is thrown away."""
    digest = hashlib.sha256()
    try:
        with _explaining(target), part.open("rb") as source, replacing(target) as output:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                output.write(chunk)
            if digest.hexdigest() != file.sha256:
                raise DataError("what the server sends is not the published file: its sha256 differs", printable(url))
    except DataError:
        part.unlink()
        raise
    part.unlink()


@contextlib.contextmanager
def _alone(lock: Path) -> Generator[None]:
    """Let one process at a time download a file; the system frees the lock if the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: a second process at the same time would only cost a retry
        yield
        return
    with _explaining(lock):
        handle = lock.open("ab")
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _in_words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return printable(reason) or type(error).__name__
