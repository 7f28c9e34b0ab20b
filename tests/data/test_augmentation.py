"""Augmentation: off it does nothing, on it does what its words say, and each sample's chances are its own."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from conviction.data.augmentation import Augmentation, augment
from conviction.data.draws import draw, draw_beta, mixed
from conviction.data.records import Batch, Preprocessing, Scale

EVERYTHING = [
    Augmentation(flip=True, crop="shift", erase=0.5),
    Augmentation(flip=True, crop="resized", erase=0.5),
    Augmentation(crop="shift", crop_pad=3),
    Augmentation(flip=True),
]
# As they are, enlarged, photos stored larger than cut, shrunk, and not square.
FRAMES = {
    "same": Preprocessing((1, 12, 12), (12, 12), (12, 12), (0.3,), (0.2,)),
    "enlarged": Preprocessing((1, 30, 30), (12, 12), (30, 30), (0.3,), (0.2,)),
    "enlarged and cut": Preprocessing((1, 12, 12), (12, 12), (14, 14), (0.3,), (0.2,)),
    "photos": Preprocessing((3, 14, 14), (16, 16), (16, 16), (0.3, 0.4, 0.5), (0.2, 0.2, 0.3)),
    "shrunk": Preprocessing((3, 8, 8), (20, 20), (8, 8), (0.3, 0.4, 0.5), (0.2, 0.2, 0.3)),
    "wide": Preprocessing((1, 8, 8), (8, 14), (8, 14), (0.3,), (0.2,)),
}


def make_batch(frame: Preprocessing, count: int = 32, dtype: torch.dtype = torch.uint8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (count, frame.image[0], *frame.stored)
    pictures = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    if dtype != torch.uint8:
        pictures = pictures.to(dtype) / 100 - 1
    return Batch(pictures, torch.arange(count) % 5, torch.arange(count) * 7 + 100)


def run(
    batch: Batch, frame: Preprocessing, augmentation: Augmentation, seed: int = 0, epoch: int = 0
) -> tuple[Tensor, Tensor]:
    return augment(batch, frame, augmentation, seed=seed, epoch=epoch, num_classes=5)


def plain(size: int = 12, scale: Scale = "uint8") -> Preprocessing:
    """No standardisation, so that pixels can be compared."""
    return Preprocessing((1, size, size), (size, size), (size, size), (0.0,), (1.0,), scale)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_off_is_the_preprocessing_bit_for_bit(frame: Preprocessing, dtype: torch.dtype) -> None:
    frame = dataclasses.replace(frame, scale="uint8" if dtype == torch.uint8 else "own")
    batch = make_batch(frame, dtype=dtype)
    images, targets = run(batch, frame, Augmentation())
    assert torch.equal(images, frame.apply(batch.pictures))
    assert torch.equal(targets, batch.labels)


@pytest.mark.parametrize("augmentation", EVERYTHING, ids=str)
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_sample_does_not_see_its_batch(frame: Preprocessing, augmentation: Augmentation) -> None:
    batch = make_batch(frame)
    images, _ = run(batch, frame, augmentation)
    assert images.shape == (32, *frame.image)
    assert images.dtype == torch.float32
    chosen = torch.tensor([17, 3, 30])
    few = Batch(batch.pictures[chosen], batch.labels[chosen], batch.indices[chosen])
    torch.testing.assert_close(run(few, frame, augmentation)[0], images[chosen], rtol=0, atol=1e-6)


@pytest.mark.parametrize("augmentation", EVERYTHING, ids=str)
def test_epoch_and_seed_change_it_and_repeating_does_not(augmentation: Augmentation) -> None:
    frame = FRAMES["same"]
    batch = make_batch(frame)
    first = run(batch, frame, augmentation, seed=1, epoch=1)[0]
    assert torch.equal(first, run(batch, frame, augmentation, seed=1, epoch=1)[0])
    assert not torch.equal(first, run(batch, frame, augmentation, seed=1, epoch=2)[0])
    assert not torch.equal(first, run(batch, frame, augmentation, seed=2, epoch=1)[0])


@pytest.mark.parametrize("augmentation", EVERYTHING, ids=str)
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_values_stay_in_range(frame: Preprocessing, augmentation: Augmentation) -> None:
    images, _ = run(make_batch(frame), frame, augmentation)
    mean, std = torch.tensor(frame.mean).view(1, -1, 1, 1), torch.tensor(frame.std).view(1, -1, 1, 1)
    pixels = images * std + mean
    assert pixels.min() >= -1e-5
    assert pixels.max() <= 1 + 1e-5


def test_flip_mirrors_half_and_leaves_the_other_half() -> None:
    batch = make_batch(plain(), 1000)
    images, _ = run(batch, plain(), Augmentation(flip=True))
    kept = (images == plain().apply(batch.pictures)).flatten(1).all(1)
    mirrored = (images == plain().apply(batch.pictures.flip(-1))).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 450 < mirrored.sum() < 550


def test_shift_moves_by_whole_pixels_up_to_the_pad() -> None:
    batch = make_batch(plain(), 400)
    images, _ = run(batch, plain(), Augmentation(crop="shift", crop_pad=2))
    padded = torch.nn.functional.pad(plain().apply(batch.pictures), (2, 2, 2, 2), mode="reflect")
    found = torch.zeros(400, dtype=torch.bool)
    for top, left in itertools.product(range(5), range(5)):
        same = (images == padded[:, :, top : top + 12, left : left + 12]).flatten(1).all(1)
        assert same.sum() > 3, f"no picture was moved by {top - 2}, {left - 2}"
        found |= same
    assert found.all()


def test_shift_takes_photos_from_anywhere_in_the_stored_picture() -> None:
    frame = Preprocessing((1, 14, 14), (16, 16), (16, 16), (0.0,), (1.0,))
    batch = make_batch(frame, 200)
    images, _ = run(batch, frame, Augmentation(crop="shift"))
    stored = batch.pictures.float() / 255
    found = torch.zeros(200, dtype=torch.bool)
    for top, left in itertools.product(range(3), range(3)):
        same = (images == stored[:, :, top : top + 14, left : left + 14]).flatten(1).all(1)
        assert same.any()
        found |= same
    assert found.all()


def test_enlarged_pictures_are_moved_by_stored_pixels() -> None:
    frame = Preprocessing((1, 24, 24), (12, 12), (24, 24), (0.0,), (1.0,))
    batch = make_batch(frame, 8)
    moved, _ = run(batch, plain(), Augmentation(flip=True, crop="shift"))
    enlarged, _ = run(batch, frame, Augmentation(flip=True, crop="shift"))
    # The same chances choose the same pixels; only then is the picture enlarged.
    as_bytes = (moved * 255).round().to(torch.uint8)
    torch.testing.assert_close(enlarged, frame.apply(as_bytes))


def test_resized_crop_keeps_at_least_its_share_of_the_area() -> None:
    rows = torch.arange(64.0).view(1, 1, 64, 1).expand(500, 1, 64, 64)
    ramps = torch.cat([rows, rows.transpose(2, 3)], 1).contiguous()
    batch = Batch(ramps, torch.zeros(500, dtype=torch.long), torch.arange(500))
    frame = Preprocessing((2, 64, 64), (64, 64), (64, 64), (0.0, 0.0), (1.0, 1.0))
    images, _ = run(batch, frame, Augmentation(crop="resized", crop_scale=0.25))
    # The ramps' slopes in the result are the shares of height and width that were kept.
    height = (images[:, 0, 40, 32] - images[:, 0, 24, 32]) / 16
    width = (images[:, 1, 32, 40] - images[:, 1, 32, 24]) / 16
    area, aspect = height * width, width / height
    # Sides longer than the picture are cut, so a wide box can lose a little area: at most a sixth at aspect 4/3.
    assert area.min() > 0.25 * 0.95
    assert area.max() > 0.9
    assert aspect.min() > 0.74
    assert aspect.max() < 1.35
    assert 0.3 < (aspect > 1).float().mean() < 0.7


def test_erase_puts_the_mean_into_a_rectangle_of_some() -> None:
    frame = Preprocessing((1, 20, 20), (20, 20), (20, 20), (0.5,), (0.25,))
    white = Batch(torch.full((600, 1, 20, 20), 255, dtype=torch.uint8), torch.zeros(600).long(), torch.arange(600))
    images, _ = run(white, frame, Augmentation(erase=0.25))
    gone = images[:, 0] == 0
    erased = gone.flatten(1).any(1)
    assert 0.19 < erased.float().mean() < 0.31
    for hole in gone[erased]:
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns
        assert 0.01 < rows * columns / 400 < 0.37
    assert images[~erased].unique().tolist() == [2.0]


@pytest.mark.parametrize("mix", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}], ids=str)
def test_mixed_targets_tell_what_was_mixed(mix: dict[str, float]) -> None:
    # A picture's pixels are its class / 4, so the mean of a mixture is the mean of its target.
    labels = torch.arange(64) % 5
    pictures = (labels.float() / 4).view(-1, 1, 1, 1).expand(-1, 1, 16, 16).contiguous()
    frame = plain(16, "own")
    images, targets = run(Batch(pictures, labels, torch.arange(64)), frame, Augmentation(**mix))
    assert targets.shape == (64, 5)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    assert targets.min() >= 0
    torch.testing.assert_close(images.mean((1, 2, 3)), targets @ (torch.arange(5.0) / 4), atol=1e-5, rtol=0)
    partners = labels.roll(1)
    assert ((targets > 0).sum(1) <= 2).all()
    assert all(targets[i, [labels[i], partners[i]]].sum() > 0.999 for i in range(64))
    assert (targets.max(1).values < 0.99).any()


def test_cutmix_patches_whole_pixels_and_mixup_blends() -> None:
    labels = torch.arange(40) % 2
    pictures = labels.float().view(-1, 1, 1, 1).expand(-1, 1, 16, 16).contiguous()
    batch = Batch(pictures, labels, torch.arange(40))
    patched, _ = run(batch, plain(16, "own"), Augmentation(cutmix=1.0))
    blended, _ = run(batch, plain(16, "own"), Augmentation(mixup=1.0))
    assert set(patched.unique().tolist()) == {0.0, 1.0}
    assert (blended.flatten(1).std(1) == 0).all()


def test_one_chance_does_not_disturb_another() -> None:
    batch = make_batch(plain())
    flipped, _ = run(batch, plain(), Augmentation(flip=True))
    both, _ = run(batch, plain(), Augmentation(flip=True, erase=1.0))
    assert torch.equal(torch.where(both == 0, 0, flipped), both)


def test_splitmix_agrees_with_whole_numbers_of_python() -> None:
    def finalised(value: int) -> int:
        mask = 2**64 - 1
        value = (value ^ (value & mask) >> 30) * 0xBF58476D1CE4E5B9 & mask
        value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
        return value ^ value >> 31

    numbers = draw(5, 9, torch.tensor([0, 1, 59_999, 2**40]), 3)
    golden = 0x9E3779B97F4A7C15
    for row, index in enumerate([0, 1, 59_999, 2**40]):
        own = finalised((index * golden + mixed(5, 9)) % 2**64)
        for column in range(3):
            bits = finalised((own + (column + 1) * golden) % 2**64)
            assert numbers[row, column].item() == (bits >> 40) / 2**24


def test_draws_are_even_and_unrelated() -> None:
    numbers = draw(0, 0, torch.arange(20_000), 6).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.stack([torch.histc(column, 20, 0, 1) for column in numbers.T])
    assert ((counts - 1000).square() / 1000).sum(1).max() < 45  # chi-square, 19 degrees of freedom, p < 0.001
    neighbours = torch.cat([numbers, draw(0, 1, torch.arange(20_000), 6).double(), numbers.roll(1, 0)], 1)
    correlation = torch.corrcoef(neighbours.T) - torch.eye(18)
    assert correlation.abs().max() < 0.035  # five times 1 / sqrt(20,000)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0, 60.0])
def test_beta_agrees_with_numpys(alpha: float) -> None:
    ours = draw_beta(torch.linspace(0, 1 - 2**-24, 200_001), alpha).double().numpy()
    theirs = np.random.default_rng(0).beta(alpha, alpha, 200_000)
    levels = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(np.quantile(ours, levels), np.quantile(theirs, levels), atol=0.012)
    # The outermost of 4,096 cells is a straight line to 0 or 1, which widens the narrowest ones a little.
    assert ours.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.01 if alpha < 10 else 0.03)
    assert ours.min() >= 0
    assert ours.max() <= 1
