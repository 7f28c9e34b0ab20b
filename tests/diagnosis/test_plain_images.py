"""The trial without augmentation: test images in place of training images, where they look different."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conviction.diagnosis.observer import Observer
from conviction.diagnosis.trials.answers import Batch
from conviction.diagnosis.trials.experiments import try_out
from conviction.diagnosis.trials.plain_images import are_of_another_kind, learn_from_tests, look_different
from conviction.diagnosis.trials.setups import Setup
from conviction.findings import trials
from conviction.findings.data_seen import augmentation_destroys
from conviction.findings.doctoring import ask


def pictures(count: int, seed: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    """A bright square in the corner that is the class, on the same noisy ground."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    images = 0.3 * torch.randn(count, 1, 8, 8, generator=generator)
    images[:, :, 3:5] += 1.0
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 1.0
    return images, labels


def batches(count: int, seed: int, size: int = 32) -> list[Batch]:
    images, labels = pictures(count, seed)
    return list(zip(images.split(size), labels.split(size), strict=True))


def rolled(made: list[Batch]) -> list[Batch]:
    generator = torch.Generator().manual_seed(9)
    shifts = [torch.randint(0, 8, (2,), generator=generator).tolist() for _ in range(sum(len(x) for x, _ in made))]
    turn = iter(shifts)
    return [(torch.stack([x.roll(next(turn), (1, 2)) for x in images]), labels) for images, labels in made]


def shaded(made: list[Batch]) -> list[Batch]:
    """Brighter to the right, so that mirrored ones look different and are of the same kind."""
    return [(images + torch.linspace(0, 2, images.shape[3]), labels) for images, labels in made]


def mirrored(made: list[Batch]) -> list[Batch]:
    return [(images.flip(3), labels) for images, labels in made]


def test_images_of_one_kind_look_alike_and_destroyed_ones_do_not() -> None:
    plain, tests = batches(512, 0), batches(256, 1)
    assert not look_different(plain, tests) and look_different(rolled(plain), tests)
    flipped = [(torch.cat([images[:16].flip(3), images[16:]]), labels) for images, labels in plain]
    assert not look_different(flipped, tests), "half of them mirrored: the mean image stays"


def test_noise_and_cuts_make_images_of_another_kind_moves_do_not() -> None:
    plain, tests = shaded(batches(512, 0)), shaded(batches(256, 1))
    assert not are_of_another_kind(plain, tests) and not are_of_another_kind(mirrored(plain), tests)
    assert look_different(mirrored(plain), tests)
    assert are_of_another_kind([(x + 3 * torch.randn_like(x), y) for x, y in plain], tests)
    assert are_of_another_kind([(x.clone().index_fill_(3, torch.arange(7), 0.0), y) for x, y in plain], tests)
    assert not are_of_another_kind(plain, [])


@pytest.mark.parametrize("wrong", ["labels", "images"])
def test_wrong_labels_are_not_taken_for_destroyed_images(wrong: str) -> None:
    """Images that were mirrored differ from those of the test, too; what of them can be learned tells which it is."""
    training, tests, order = (
        mirrored(shaded(batches(768, 0))),
        shaded(batches(256, 1)),
        torch.Generator().manual_seed(3),
    )
    if wrong == "labels":
        training = [(x, y[torch.randperm(len(y), generator=order)]) for x, y in training]
    else:
        training = [(x + 9 * torch.randn(x.shape, generator=order), y) for x, y in training]
    observer = train(training, tests)
    captured = observer.captured
    assert captured is not None
    captured.test_batches = list(tests)
    found = ask(try_out(observer.observation(), captured, 30))
    assert found and found[0].cause == {"labels": "labels-shuffled", "images": "augmentation-destroys"}[wrong]


@pytest.mark.parametrize(
    "tests",
    [
        [],
        batches(96, 1),
        [(images, labels * 0) for images, labels in batches(256, 1)],  # other classes: the images differ as these do
        [(images[..., :4], labels) for images, labels in batches(256, 1)],
        [(images, labels.float() + 0.5) for images, labels in batches(256, 1)],
    ],
    ids=["none", "few", "other labels", "other shape", "no classes"],
)
def test_tests_that_tell_nothing(tests: list[Batch]) -> None:
    assert not look_different(rolled(batches(512, 0)), tests)


def test_the_trial_learns_and_judges_on_other_images() -> None:
    tests = batches(256, 1, size=64)
    setup = Setup(
        nn.Linear(1, 1), batches(512, 0), [], lambda out, y: out, lambda p, s: torch.optim.SGD(p), tests=tests
    )
    changed = learn_from_tests(setup)
    assert changed is not None and "192 of its test images" in changed.words
    assert {len(images) for images, _ in changed.batches} == {32} and len(changed.judged[0][0]) == 64
    seen = {tuple(image.flatten().tolist()) for images, _ in changed.batches for image in images}
    judged = {tuple(image.flatten().tolist()) for image in changed.judged[0][0]}
    everything = {tuple(image.flatten().tolist()) for images, _ in tests for image in images}
    assert not seen & judged and seen | judged == everything


def train(training: list[Batch], tests: list[Batch]) -> Observer:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    with Observer(share=1000.0) as observer:
        for _ in range(2):
            for images, labels in training:
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(images), labels).backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                for images, labels in tests:
                    (net(images).argmax(1) == labels).float().mean()
            net.train()
    return observer


@pytest.mark.parametrize("destroyed", [True, False])
def test_destroying_augmentation_is_found_by_the_trial(destroyed: bool) -> None:
    training = [(torch.randn_like(x) + 0.5, y) for x, y in batches(768, 0)] if destroyed else batches(768, 0)
    observer = train(training, batches(256, 1))
    captured = observer.captured
    assert captured is not None
    captured.test_batches = [(images, labels) for images, labels in batches(256, 1)]  # as loaders give them
    observation = try_out(observer.observation(), captured, 30)
    tried = [trial.change for trial in observation.trials]
    found = augmentation_destroys(observation)
    if destroyed:
        assert trials.NO_AUGMENTATION in tried and found is not None and found.cause == "augmentation-destroys"
    else:
        assert trials.NO_AUGMENTATION not in tried and found is None
