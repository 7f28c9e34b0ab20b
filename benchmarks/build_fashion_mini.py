"""Rebuild the packaged fashion-mini from the original Fashion-MNIST files, bit for bit.

    python benchmarks/build_fashion_mini.py /usr/share/datasets/fashion-mnist

Takes the first 1,000 training and 200 test pictures of each class, in the order in which the files have them.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import torch

from conviction.data.idx import format_idx, read_idx

PACKAGED = Path(__file__).parent.parent / "src/conviction/data/fashion_mini"
PER_CLASS = {"train": 1000, "t10k": 200}


def choose(labels: torch.Tensor, per_class: int) -> torch.Tensor:
    """Return the indices of the first `per_class` members of each class, in file order."""
    chosen = [(labels == label).nonzero().flatten()[:per_class] for label in range(10)]
    return torch.cat(chosen).sort().values


def compress(content: bytes) -> bytes:
    """Gzip without a time stamp, so that the same pictures always give the same file."""
    return gzip.compress(content, 9, mtime=0)


def main() -> None:
    """Write the four files and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("originals", type=Path, help="folder with the four original .gz files")
    parser.add_argument("--out", type=Path, default=PACKAGED)
    arguments = parser.parse_args()
    for part, per_class in PER_CLASS.items():
        pictures = read_idx(arguments.originals / f"{part}-images-idx3-ubyte.gz", 3)
        labels = read_idx(arguments.originals / f"{part}-labels-idx1-ubyte.gz", 1)
        chosen = choose(labels, per_class)
        for kind, values in (("images-idx3", pictures[chosen]), ("labels-idx1", labels[chosen])):
            target = arguments.out / f"{part}-{kind}-ubyte.gz"
            target.write_bytes(compress(format_idx(values)))
            print(f"{target.name}: {tuple(values.shape)}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
