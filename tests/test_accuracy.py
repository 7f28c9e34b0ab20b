"""What a user gets from the defaults on real data: the promises of the README, one seed each."""

from pathlib import Path

import pytest

import conviction
from conviction.data.named import read_named
from conviction.errors import ConvictionError


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_reaches_what_it_promises(tmp_path: Path) -> None:
    run = conviction.fit("vgg7-bn/2", "fashion-mini", out=tmp_path / "demo")
    assert run.result["top1"] >= 0.88  # mean of 5 seeds .89 and more, less the noise of one


@pytest.mark.data
@pytest.mark.timeout(1200)
def test_lenet_with_batch_norm_beats_the_book_on_the_full_set(tmp_path: Path) -> None:
    try:
        data = read_named("fashion-mnist", offline=True)
    except ConvictionError:
        pytest.skip("the full Fashion-MNIST is not on this machine")
    run = conviction.fit("lenet-bn", data, conviction.Recipe(epochs=10), tmp_path / "lenet")
    assert run.result["top1"] > 0.885  # the book's median of 78 builds is .867, its worst .518
