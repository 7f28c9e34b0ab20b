"""Named sets: fashion-mini is a true excerpt, sets are found where the docs say, and damage never passes."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import sys
import threading
from collections.abc import Generator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from conviction.data import named
from conviction.data.downloading import PinnedFile
from conviction.data.held import channel_statistics, hold_out
from conviction.data.idx import format_idx, read_idx
from conviction.data.named import read_named
from conviction.errors import DataError, TemporaryError, UsageError

ORIGINALS = Path("/usr/share/datasets/fashion-mnist")
PACKAGED = Path(named.__file__).parent / "fashion_mini"
needs_originals = pytest.mark.skipif(not ORIGINALS.is_dir(), reason="needs Debian's dataset-fashion-mnist")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache, no system copy and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CONVICTION_DATA", raising=False)
    rows = {
        name: named.NamedSet(
            row.name, row.classes,
            tuple(PinnedFile(f.name, ("http://127.0.0.1:9/nothing",), f.size_bytes, f.sha256) for f in row.files),
            row.read, row.layouts, None,
        )
        for name, row in named.SETS.items()
    }  # fmt: skip
    monkeypatch.setattr(named, "SETS", rows)
    monkeypatch.setattr("conviction.data.downloading._PAUSES_SECONDS", (0.0,))
    return tmp_path


def write_fashion(folder: Path, count: int = 40) -> dict[str, bytes]:
    """Write a small set in the files of Fashion-MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part in ("train", "t10k"):
        pictures = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8)
        labels = (torch.arange(count) % 10).to(torch.uint8)
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(format_idx(pictures), mtime=0)
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(format_idx(labels), mtime=0)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def test_fashion_mini_is_whole_balanced_and_split() -> None:
    data = read_named("fashion-mini")
    assert {kind: len(split) for kind, split in data.splits.items()} == {"train": 9000, "valid": 1000, "test": 2000}
    assert data.image == (1, 28, 28)
    assert data.classes[0] == "t-shirt/top"
    assert data.classes[9] == "ankle boot"
    assert data.mirrors
    for split, each in ((data.train, 900), (data.valid, 100), (data.test, 200)):
        assert split is not None
        assert split.labels is not None
        assert split.labels.bincount().tolist() == [each] * 10
    assert sum(file.stat().st_size for file in PACKAGED.iterdir()) < 6e6
    assert "Zalando SE" in (PACKAGED / "LICENSE").read_text(encoding="utf-8")


@needs_originals
def test_fashion_mini_is_the_start_of_the_originals_bit_for_bit() -> None:
    for part, per_class in (("train", 1000), ("t10k", 200)):
        with gzip.open(ORIGINALS / f"{part}-images-idx3-ubyte.gz") as file:
            pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(ORIGINALS / f"{part}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        seen = [0] * 10
        chosen = []
        for index, label in enumerate(labels):
            seen[label] += 1
            if seen[label] <= per_class:
                chosen.append(index)
        ours = read_idx(PACKAGED / f"{part}-images-idx3-ubyte.gz", 3)
        assert np.array_equal(ours.numpy(), pictures[chosen])
        assert np.array_equal(read_idx(PACKAGED / f"{part}-labels-idx1-ubyte.gz", 1).numpy(), labels[chosen])


@pytest.mark.slow
@needs_originals
def test_the_builder_writes_the_packaged_files_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmarks = Path(__file__).parent.parent.parent / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    import build_fashion_mini

    monkeypatch.setattr(sys, "argv", ["build", str(ORIGINALS), "--out", str(tmp_path)])
    build_fashion_mini.main()
    for name in ("train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        # The pictures, not the gzip stream: another zlib may pack them otherwise.
        packed, packaged = (tmp_path / name).read_bytes(), (PACKAGED / name).read_bytes()
        assert gzip.decompress(packed) == gzip.decompress(packaged)


def test_no_picture_is_in_two_splits() -> None:
    data = read_named("fashion-mini")
    whole = read_idx(PACKAGED / "train-images-idx3-ubyte.gz", 3).unsqueeze(1)
    parts = [split.source.fetch(torch.arange(len(split))) for split in (data.train, data.valid)]
    together = torch.cat(parts).flatten(1).numpy()
    assert sorted(map(bytes, together)) == sorted(map(bytes, whole.flatten(1).numpy()))


def test_the_split_follows_its_seed_and_share() -> None:
    labels = torch.arange(100) % 4
    kept, held_out = hold_out(labels, 0.2, seed=0)
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(100))
    assert labels[held_out].bincount().tolist() == [5] * 4
    assert torch.equal(hold_out(labels, 0.2, seed=0)[1], held_out)
    assert not torch.equal(hold_out(labels, 0.2, seed=1)[1], held_out)
    assert hold_out(torch.tensor([0, 0, 1]), 0.01, seed=0)[1].tolist() in ([0], [1])
    with pytest.raises(UsageError, match="valid_share = 0 is not a share"):
        hold_out(labels, 0, seed=0)


def test_standardised_pictures_have_mean_0_and_deviation_1() -> None:
    data = read_named("fashion-mini")
    images = data.preprocessing.apply(data.train.source.fetch(torch.arange(len(data.train))))
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-4)
    colours = torch.randint(0, 256, (50, 3, 9, 7), dtype=torch.uint8)
    mean, std = channel_statistics(colours)
    assert mean == pytest.approx((colours / 255).mean((0, 2, 3)).tolist(), rel=1e-4)
    assert std == pytest.approx((colours / 255).std((0, 2, 3), correction=0).tolist(), rel=1e-4)
    assert channel_statistics(torch.zeros(4, 1, 3, 3)) == ((0.0,), (1.0,))


def test_another_image_size_is_made_on_the_way_to_the_net() -> None:
    data = read_named("fashion-mini", image_size=40)
    pictures = data.train.source.fetch(torch.arange(3))
    assert pictures.shape == (3, 1, 28, 28)
    assert data.preprocessing.apply(pictures).shape == (3, 1, 40, 40)
    assert data.resized(64).image == (1, 64, 64)
    assert data.resized(64).classes == data.classes
    with pytest.raises(UsageError, match="image_size = 0 is not a size"):
        data.resized(0)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match="unknown data set 'fashion-mnst' \\(did you mean fashion-mnist"):
        read_named("fashion-mnst")


@pytest.mark.parametrize("place", ["", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("given", ["argument", "environment"])
def test_a_set_is_found_under_the_data_root(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, place: str, given: str
) -> None:
    write_fashion(nowhere / "mine" / place)
    if given == "environment":
        monkeypatch.setenv("CONVICTION_DATA", str(nowhere / "mine"))
    data = read_named("fashion-mnist", data_root=nowhere / "mine" if given == "argument" else None)
    assert {kind: len(split) for kind, split in data.splits.items()} == {"train": 30, "valid": 10, "test": 40}
    assert str(nowhere / "mine") in data.notes[0]


def test_unpacked_files_are_found_too(nowhere: Path) -> None:
    for name, content in write_fashion(nowhere / "mine").items():
        (nowhere / "mine" / name).unlink()
        (nowhere / "mine" / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    assert len(read_named("fashion-mnist", data_root=nowhere / "mine").train) == 30


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


DAMAGES = {
    "cut": cut,
    "bit": flip_a_bit,
    "empty": lambda content: b"",
    "html": lambda content: b"<html>log in</html>",
    "short": lambda content: gzip.compress(gzip.decompress(content)[:-1]),
    "long": lambda content: gzip.compress(gzip.decompress(content) + b"x"),
    "labels": lambda content: gzip.compress(format_idx(torch.zeros(40, dtype=torch.uint8))),
    "claims": lambda content: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12),
    "header": lambda content: gzip.compress(b"\0\0\x08\x03\0\0"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_in_the_users_own_file_names_it(nowhere: Path, damage) -> None:
    files = write_fashion(nowhere / "mine")
    broken = nowhere / "mine" / "t10k-images-idx3-ubyte.gz"
    broken.write_bytes(damage(files[broken.name]))
    with pytest.raises(DataError) as caught:
        read_named("fashion-mnist", data_root=nowhere / "mine")
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nowhere_and_offline_says_what_was_tried(nowhere: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_named("fashion-mnist", data_root=nowhere / "mine", offline=True)
    for part in (str(nowhere / "mine"), str(nowhere / "cache"), "downloads are off", "use fashion-mini"):
        assert part in str(caught.value)


def test_no_network_is_temporary_and_says_what_works(nowhere: Path) -> None:
    with pytest.raises(TemporaryError) as caught:
        read_named("cifar10", data_root=nowhere / "mine")
    for part in (str(nowhere / "mine"), "http://127.0.0.1:9/nothing", "refused", "use fashion-mini"):
        assert part in str(caught.value)
    assert caught.value.exit_code == 75


def test_a_damaged_cache_is_not_read_and_is_told(nowhere: Path) -> None:
    write_fashion(nowhere / "cache" / "conviction" / "fashion-mnist")  # not the published files
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz in the cache is damaged"):
        read_named("fashion-mnist", offline=True)


@pytest.fixture
def published(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A small fashion-mnist that a server on this machine publishes, and the folder that it serves."""
    folder = nowhere / "published"
    files = write_fashion(folder)
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    pinned = tuple(
        PinnedFile(
            name, (f"http://127.0.0.1:{server.server_port}/{name}",), len(content), hashlib.sha256(content).hexdigest()
        )
        for name, content in files.items()
    )
    monkeypatch.setitem(named.SETS, "fashion-mnist", dataclasses.replace(named.SETS["fashion-mnist"], files=pinned))
    yield folder
    server.shutdown()
    server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


def test_a_set_is_downloaded_once_and_then_read_offline(nowhere: Path, published: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    first = read_named("fashion-mnist", progress=lambda *facts: seen.append(facts))
    assert "downloaded" in first.notes[0]
    assert {name for name, _, _ in seen} == {file.name for file in published.iterdir()}
    again = read_named("fashion-mnist", offline=True)
    assert str(nowhere / "cache" / "conviction" / "fashion-mnist") in again.notes[0]
    everything = torch.arange(len(first.train))
    assert torch.equal(first.train.source.fetch(everything), again.train.source.fetch(everything))


def test_a_damaged_cache_is_told_and_fetched_again(nowhere: Path, published: Path) -> None:
    read_named("fashion-mnist")
    cached = nowhere / "cache" / "conviction" / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
    cached.write_bytes(flip_a_bit(cached.read_bytes()))
    assert (
        "t10k-images-idx3-ubyte.gz in the cache was damaged and was fetched again" in read_named("fashion-mnist").notes
    )
    assert cached.read_bytes() == (published / cached.name).read_bytes()
