"""Downloads against a server with scripted faults: whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from conviction.data import downloading
from conviction.data.downloading import PinnedFile, download, is_whole
from conviction.errors import ConvictionError, DataError, ResourceError, TemporaryError

CONTENT = np.random.default_rng(0).bytes(700_001)
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers each request with the next of its script, the last one for ever; keeps what was asked."""

    def __init__(self, *script: Answer) -> None:
        self.script, self.ranges = list(script), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers.get("Range"))
                answer = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                answer(self)

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/set.bin"

    def file(self, **changes: object) -> PinnedFile:
        facts = {"name": "set.bin", "urls": (self.url,), "size_bytes": len(CONTENT)}
        return PinnedFile(**(facts | {"sha256": hashlib.sha256(CONTENT).hexdigest()} | changes))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[..., Server]]:
    monkeypatch.setattr(downloading, "_PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(downloading, "_TIMEOUT_SECONDS", 0.5)
    servers = []

    def start(*script: Answer) -> Server:
        servers.append(Server(*script))
        return servers[-1]

    yield start
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


def send(handler: BaseHTTPRequestHandler, content: bytes, length: int | None = None, code: int = 200) -> None:
    handler.send_response(code)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def whole(handler: BaseHTTPRequestHandler) -> None:
    """Serve the file, or the rest of it where that is asked for."""
    asked = handler.headers.get("Range")
    if not asked:
        return send(handler, CONTENT)
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
    handler.send_header("Content-Length", str(len(CONTENT) - start))
    handler.end_headers()
    handler.wfile.write(CONTENT[start:])
    return None


def without_ranges(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT)


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT[:300_000], length=len(CONTENT))


def short(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT[:300_000])


def stall(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT[:300_000], length=len(CONTENT))
    handler.wfile.flush()
    time.sleep(1.0)


def wrong_bytes(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))


def too_long(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT + b"more")


def login_page(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"<html>log in</html>")


def error(code: int) -> Answer:
    return lambda handler: send(handler, b"no", code=code)


def redirect(target: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target.format(port=handler.server.server_address[1]))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def check_arrived(server: Server, folder: Path) -> None:
    path = download(server.file(), folder)
    assert path == folder / "set.bin"
    assert path.read_bytes() == CONTENT
    assert not (folder / "set.bin.part").exists()


# Each is overcome within the three attempts.
RECOVERED = {
    "plain": (whole,),
    "cut off": (cut_off, whole),
    "cut off twice": (cut_off, cut_off, whole),
    "short and said to be whole": (short, whole),
    "stalled": (stall, whole),
    "server without ranges": (cut_off, without_ranges),
    "busy": (error(503), error(429), whole),
    "redirected on the same host": (redirect("http://127.0.0.1:{port}/elsewhere"), whole),
}


@pytest.mark.parametrize("script", RECOVERED.values(), ids=RECOVERED)
def test_a_passing_fault_is_overcome(serve, tmp_path: Path, script: tuple[Answer, ...]) -> None:
    check_arrived(serve(*script), tmp_path / "new" / "cache")


def test_a_cut_download_goes_on_where_it_ended(serve, tmp_path: Path) -> None:
    server = serve(cut_off, whole)
    check_arrived(server, tmp_path)
    assert server.ranges == [None, "bytes=300000-"]


def test_a_killed_download_goes_on_at_the_next_call(serve, tmp_path: Path) -> None:
    server = serve(whole)

    def killed(name: str, done: int, total: int) -> None:
        if done > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.file(), tmp_path, killed)
    kept = (tmp_path / "set.bin.part").stat().st_size
    assert 200_000 < kept < len(CONTENT)
    assert not (tmp_path / "set.bin").exists()
    check_arrived(server, tmp_path)
    assert server.ranges == [None, f"bytes={kept}-"]


@pytest.mark.parametrize("size", [1000, len(CONTENT), len(CONTENT) + 1])
def test_a_spoilt_part_is_thrown_away(serve, tmp_path: Path, size: int) -> None:
    (tmp_path / "set.bin.part").write_bytes(b"x" * size)
    server = serve(whole)
    check_arrived(server, tmp_path)
    assert server.ranges[-1] is None


REFUSED = {
    "not found": (error(404), DataError, "answers 404"),
    "forbidden": (error(403), DataError, "answers 403"),
    "down": (error(500), TemporaryError, "answers 500"),
    "cut off for ever": (lambda handler: send(handler, b"", length=10), TemporaryError, "connection"),
    "wrong bytes": (wrong_bytes, DataError, "its sha256 differs"),
    "too long": (too_long, DataError, "sends more than"),
    "login page": (login_page, TemporaryError, "connection ended after 19 of 700001"),
    "to another host": (redirect("http://localhost:{port}/set.bin"), DataError, "redirected elsewhere"),
    "to a file": (redirect("file:///etc/passwd"), DataError, "not allowed"),
    "round and round": (redirect("http://127.0.0.1:{port}/set.bin"), ConvictionError, "302"),
}


@pytest.mark.parametrize(("answer", "kind", "said"), REFUSED.values(), ids=REFUSED)
def test_a_lasting_fault_leaves_nothing(
    serve, tmp_path: Path, answer: Answer, kind: type[ConvictionError], said: str
) -> None:
    server = serve(answer)
    with pytest.raises(kind, match=said) as caught:
        download(server.file(), tmp_path)
    assert not (tmp_path / "set.bin").exists()
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_does_not_resolve_and_a_closed_port_are_temporary(serve, tmp_path: Path) -> None:
    urls = ("http://nowhere.invalid/set.bin", "http://127.0.0.1:9/set.bin")
    with pytest.raises(TemporaryError, match=r"nowhere\.invalid.*127\.0\.0\.1:9"):
        download(serve(whole).file(urls=urls), tmp_path)


def test_the_next_address_is_tried(serve, tmp_path: Path) -> None:
    good, bad = serve(whole), serve(wrong_bytes)
    path = download(good.file(urls=(bad.url, "ftp://127.0.0.1/x", good.url)), tmp_path)
    assert path.read_bytes() == CONTENT


def test_what_is_there_is_not_fetched_again(serve, tmp_path: Path) -> None:
    server = serve(whole)
    check_arrived(server, tmp_path)
    check_arrived(server, tmp_path)
    assert len(server.ranges) == 1
    (tmp_path / "set.bin").write_bytes(CONTENT[:-1] + b"?")
    assert not is_whole(tmp_path / "set.bin", server.file())
    check_arrived(server, tmp_path)
    assert len(server.ranges) == 2


def test_progress_rises_to_the_whole(serve, tmp_path: Path) -> None:
    seen = []
    download(serve(cut_off, whole).file(), tmp_path, lambda *facts: seen.append(facts))
    done = [facts[1] for facts in seen]
    assert done == sorted(done)
    assert seen[-1] == ("set.bin", len(CONTENT), len(CONTENT))


def test_two_at_once_fetch_once(serve, tmp_path: Path) -> None:
    server = serve(whole)
    threads = [threading.Thread(target=check_arrived, args=(server, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert len(server.ranges) == 1


def test_a_cache_that_cannot_be_made_says_so(serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="XDG_CACHE_HOME") as caught:
        download(serve(whole).file(), tmp_path / "file" / "cache")
    assert caught.value.exit_code == 5


def test_a_full_disk_is_no_fault_of_the_network(serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*parts: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloading, "_copy", full)
    with pytest.raises(ResourceError, match=r"no space left on device.*free some space"):
        download(serve(whole).file(), tmp_path)
