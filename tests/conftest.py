"""What several rooms' tests share: small real data, and a finished run on it."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import conviction
from conviction.data.held import Held, Pixels, held_data
from conviction.data.records import Data

os.environ.pop("CONVICTION_DATA", None)
# The same examples every time, so that a suite that is green here is green elsewhere; `search` looks further.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("CONVICTION_PROFILE", "fixed"))
torch.set_num_threads(int(os.environ.get("CONVICTION_TEST_THREADS", "1")))


def part_of(split: object, count: int) -> Pixels:
    source, labels = split.source, split.labels
    assert isinstance(source, Held)
    return Pixels(source.pictures[:count], labels[:count])


@pytest.fixture(scope="session")
def small_data() -> Data:
    """600 + 200 real pictures of Fashion-MNIST."""
    mini = conviction.dataset("fashion-mini")
    train, test = part_of(mini.train, 600), part_of(mini.test, 200)
    return held_data("small", mini.classes, train, test, mirrors=True, valid_share=0.2, seed=0)(None)


@pytest.fixture(scope="session")
def finished(small_data: Data, tmp_path_factory: pytest.TempPathFactory) -> conviction.Run:
    """A run of three epochs on the small data."""
    recipe = conviction.Recipe(epochs=3, batch_size=32, lr=0.01)
    return conviction.fit("lenet-bn", small_data, recipe, tmp_path_factory.mktemp("runs") / "lenet")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 24 small colour pictures in two classes, `bright` and `dark`."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for number in range(12):
        for label, level in (("bright", 180), ("dark", 20)):
            folder = tmp_path / "photos" / label
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (torch.randint(0, 60, (32, 32, 3), generator=generator) + level).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return tmp_path / "photos"
