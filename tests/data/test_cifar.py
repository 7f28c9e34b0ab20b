"""CIFAR-10 is read straight out of its archive, and an archive that is not it is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from conviction.data.named import read_named
from conviction.errors import ConvictionError, DataError


def write_cifar(folder: Path, members: dict[str, bytes] | None = None, link: bool = False) -> Path:
    """Write an archive like CIFAR-10's, with pictures that say their number and their planes."""
    folder.mkdir(parents=True, exist_ok=True)
    if members is None:
        records = np.zeros((10_000, 3073), np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        records[:, 1:1025], records[:, 1025:2049], records[:, 2049:] = 10, 20, 30
        content = records.tobytes()
        members = {f"cifar-10-batches-bin/data_batch_{n}.bin": content for n in range(1, 6)}
        members["cifar-10-batches-bin/test_batch.bin"] = content
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if link:
                info.type, info.size, info.linkname = tarfile.SYMTYPE, 0, "/etc/passwd"
            archive.addfile(info, None if link else io.BytesIO(content))
    return path


def test_cifar10_is_read_out_of_its_archive(tmp_path: Path) -> None:
    write_cifar(tmp_path / "mine")
    data = read_named("cifar10", data_root=tmp_path / "mine")
    assert {kind: len(split) for kind, split in data.splits.items()} == {"train": 45000, "valid": 5000, "test": 10000}
    assert data.image == (3, 32, 32)
    assert data.classes[1] == "automobile"
    assert data.train.source.fetch(torch.tensor([0]))[0].flatten(1).unique(dim=1).flatten().tolist() == [10, 20, 30]
    assert not (tmp_path / "mine" / "cifar-10-batches-bin").exists()


ARCHIVES = {
    "missing": ({"cifar-10-batches-bin/data_batch_1.bin": bytes(30_730_000)}, False, "has no data_batch_2.bin"),
    "short": ({"data_batch_1.bin": bytes(100)}, False, "has not 30730000 bytes"),
    "long": ({"data_batch_1.bin": bytes(30_730_001)}, False, "has not 30730000 bytes"),
    "link": ({"data_batch_1.bin": b""}, True, "has not 30730000 bytes"),
    "crowd": ({f"{number}": b"" for number in range(100)}, False, "too many files"),
    "label": ({"data_batch_1.bin": b"\x0b" * 30_730_000}, False, "none of 0 to 9"),
}


@pytest.mark.parametrize(("members", "link", "said"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_odd_archive_is_refused(tmp_path: Path, members: dict[str, bytes], link: bool, said: str) -> None:
    path = write_cifar(tmp_path / "mine", members, link)
    with pytest.raises(DataError, match=said) as caught:
        read_named("cifar10", data_root=tmp_path / "mine")
    assert str(path) in str(caught.value)


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    path = write_cifar(tmp_path / "mine", {"data_batch_1.bin": np.random.default_rng(0).bytes(30_730_000)})
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ConvictionError, match="damaged") as caught:
        read_named("cifar10", data_root=tmp_path / "mine")
    assert caught.value.exit_code == 3
