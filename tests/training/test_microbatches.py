"""Micro-batches: the gradient, the loss and the counts of the whole batch, in less memory, and one update a step."""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import weakref
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conviction.errors import UsageError
from conviction.nets.batchnorm import BatchNorm
from conviction.recipe import Recipe
from conviction.training.loop import Training
from conviction.training.microbatches import split_batch

COUNT, CLASSES = 7, 3
RECIPE = Recipe(epochs=1, optimizer="sgd", lr=0.05, weight_decay=1e-3, schedule="constant", warmup_epochs=0.0,
                device="cpu", precision="fp32", batch_size=COUNT)  # fmt: skip


class TwoHeads(nn.Module):
    """Logits and those of an auxiliary head in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten())
        self.head, self.auxiliary = nn.Linear(64, CLASSES), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.Sigmoid(),
                         nn.Flatten(), nn.Linear(16, CLASSES))  # fmt: skip


def drawn(seed: int = 0, count: int = COUNT, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 6, 6, generator=generator, dtype=dtype)
    return images + torch.arange(count).view(-1, 1, 1, 1), torch.randint(CLASSES, (count,), generator=generator)


def soft(labels: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    sure = F.one_hot(labels, CLASSES).to(dtype)
    return 0.7 * sure + 0.3 * sure.roll(1, 0)


def learnt(net: nn.Module, recipe: Recipe, images: Tensor, targets: Tensor) -> tuple[Training, Tensor, Tensor]:
    """A training of a copy of `net` after one update, with the update's loss and count."""
    training = Training(copy.deepcopy(net).train(), recipe, steps_per_epoch=1)
    return training, *training.update(images, targets, 0.05)


def gradients(training: Training) -> Tensor:
    told = [p.grad for p in training.net.parameters()]
    assert all(gradient is not None for gradient in told)
    return torch.cat([gradient.flatten() for gradient in told if gradient is not None])


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 7, 19, 20, 50, None])
def test_parts_are_views_as_equal_as_can_be(most: int | None) -> None:
    for count in range(1, 21):
        images, targets = torch.randn(count, 2), torch.arange(count)
        parts = split_batch(images, targets, most)
        sizes = [len(part) for part, _ in parts]
        assert len(parts) == math.ceil(count / (most or count))
        assert max(sizes) <= (most or count) and max(sizes) - min(sizes) <= 1
        assert torch.equal(torch.cat([part for part, _ in parts]), images)
        assert torch.equal(torch.cat([labels for _, labels in parts]), targets)
        assert all(part.untyped_storage().data_ptr() == images.untyped_storage().data_ptr() for part, _ in parts)
    assert [len(part) for part, _ in split_batch(torch.zeros(9, 1), torch.zeros(9), 4)] == [3, 3, 3]


CASES: dict[str, tuple[type | Any, dict[str, Any], bool]] = {
    "labels": (plain, {}, False),
    "smoothed": (plain, {"label_smoothing": 0.2}, False),
    "probabilities": (plain, {}, True),
    "probabilities, smoothed": (plain, {"label_smoothing": 0.1}, True),
    "auxiliary": (TwoHeads, {}, False),
    "auxiliary, smoothed, probabilities": (TwoHeads, {"label_smoothing": 0.1, "aux_weight": 0.7}, True),
    "channels last": (plain, {"channels_last": True}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_whole_batch(case: str) -> None:
    make, changes, is_soft = CASES[case]
    torch.manual_seed(1)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        net = make().to(dtype)
        images, labels = drawn(dtype=dtype)
        targets = soft(labels, dtype) if is_soft else labels
        whole, loss, correct = learnt(net, RECIPE.replace(**changes), images, targets)
        # Autograd alone, without the loop.
        ours = copy.deepcopy(net).train()
        outputs = ours(images)
        smoothing = changes.get("label_smoothing", 0.0)
        logits, *heads = outputs if isinstance(outputs, tuple) else (outputs,)
        by_hand = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        for head in heads:
            by_hand = by_hand + changes.get("aux_weight", 0.3) * F.cross_entropy(
                head, targets, label_smoothing=smoothing
            )
        by_hand.backward()
        expected = torch.cat([p.grad.flatten() for p in ours.parameters() if p.grad is not None])
        assert float(loss) == pytest.approx(by_hand.item(), rel=1e-6 if dtype == torch.float32 else 1e-12)
        assert torch.equal(gradients(whole), expected)
        for most in range(1, COUNT + 1):
            parted, its_loss, its_correct = learnt(net, RECIPE.replace(micro_batch=most, **changes), images, targets)
            assert (gradients(parted) - expected).abs().max() <= bound, most
            assert (its_loss - loss).abs() <= bound and its_loss.ndim == 0 and not its_loss.requires_grad
            assert (
                int(its_correct)
                == int(correct)
                == int((logits.argmax(1) == (labels if not is_soft else targets.argmax(1))).sum())
            )
            assert parted.guessing_loss == whole.guessing_loss


def test_steps_order_and_counts_are_the_same() -> None:
    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return (drawn(seed, dtype=torch.float32) for seed in range(3))

    torch.manual_seed(0)
    start = plain()
    told = {}
    for most in (None, 3):
        recipe = RECIPE.replace(epochs=2, micro_batch=most, optimizer="adamw", ema=0.9, lr=0.001)
        training = Training(copy.deepcopy(start), recipe, 3)
        steps = [(s.index, s.epoch, s.in_epoch, s.images, s.lr, int(s.correct)) for s in training.run(batches)]
        made = {int(state["step"]) for state in training.optimizer.state.values()}
        assert training.average is not None
        told[most] = steps, made, training.average.updates
        assert (made, training.average.updates) == ({6}, 6)
    assert told[None] == told[3]


def test_the_gradient_is_clipped_once_as_a_whole() -> None:
    torch.manual_seed(0)
    net, (images, labels) = plain(), drawn(dtype=torch.float32)
    recipe = RECIPE.replace(clip_norm=0.01, momentum=0.0, weight_decay=0.0, micro_batch=2)
    parted, *_ = learnt(net, recipe, images, labels)
    moved = [(a - b).flatten() for a, b in zip(parted.net.parameters(), net.parameters(), strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_fp16_unscales_once() -> None:
    torch.manual_seed(0)
    net, (images, labels) = plain(), drawn(dtype=torch.float32)
    scaled = [learnt(net, RECIPE.replace(precision="fp16", clip_norm=1e9, micro_batch=most), images, labels)[0]
              for most in (None, 2)]  # fmt: skip
    expected, *_ = learnt(net, RECIPE, images, labels)
    for training in scaled:  # 65536 times as large where it is not unscaled, or unscaled twice
        assert torch.allclose(gradients(training), gradients(expected), atol=5e-3)
    # A gradient that overflows in one part stops the whole step, as it does in the whole batch.
    images[-1] = math.inf
    stopped, *_ = learnt(net, RECIPE.replace(precision="fp16", micro_batch=2), images, labels)
    assert all(torch.equal(a, b) for a, b in zip(stopped.net.parameters(), net.parameters(), strict=True))
    assert stopped.scaler.get_scale() == 2.0**15


class Log(TorchDispatchMode):
    """The operations that run, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("most", [None, COUNT, COUNT + 1])
def test_the_whole_batch_runs_the_same_operations_in_the_same_order(most: int | None) -> None:
    recipe = RECIPE.replace(clip_norm=1.0, ema=0.9, label_smoothing=0.1, channels_last=True, micro_batch=most)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(64, 3))
    images, labels = drawn(dtype=torch.float32)
    by_hand, ours = Training(copy.deepcopy(net), recipe, 1), Training(net, recipe, 1)
    torch.manual_seed(5)
    with Log() as expected:
        by_hand.optimizer.zero_grad(set_to_none=True)
        logits = by_hand.net(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(by_hand.net.parameters(), 1.0)
        by_hand.optimizer.step()
        assert by_hand.average is not None
        by_hand.average.update(by_hand.net)
        loss, correct = loss.detach(), (logits.detach().argmax(1) == labels).sum()
    torch.manual_seed(5)
    with Log() as log:
        told = ours.update(images, labels, 0.05)
    assert [name for name in log.seen if "detach" not in name] == [n for n in expected.seen if "detach" not in n]
    assert torch.equal(told[0], loss) and torch.equal(told[1], correct)
    for a, b in zip(ours.net.state_dict().values(), by_hand.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class TheOtherWayRound(BatchNorm):
    """A layer from scratch whose momentum is the share that is kept, as in other frameworks."""

    def forward(self, x: Tensor) -> Tensor:
        mine, self.momentum = self.momentum, 1 - self.momentum
        try:
            return super().forward(x)
        finally:
            self.momentum = mine


NORMS = {
    "torch's": nn.BatchNorm2d(2),
    "momentum 0.5": nn.BatchNorm2d(2, momentum=0.5),
    "momentum 1": nn.BatchNorm2d(2, momentum=1.0),
    "momentum 0": nn.BatchNorm2d(2, momentum=0.0),
    "cumulative": nn.BatchNorm2d(2, momentum=None),
    "from scratch": BatchNorm(2),
    "the other way round": TheOtherWayRound(2, momentum=0.9),
    "instance norm": nn.InstanceNorm2d(2, track_running_stats=True),
}


@pytest.mark.parametrize("most", [2, 3, 4])
@pytest.mark.parametrize("kind", NORMS)
def test_running_statistics_move_once_a_step(kind: str, most: int) -> None:
    """Against the whole batch; and the variance against its formula, share by share."""
    torch.manual_seed(0)
    norm = copy.deepcopy(NORMS[kind]).double()
    norm.running_mean.fill_(0.3)
    net = nn.Sequential(norm, nn.Flatten(), nn.Linear(72, CLASSES)).double()
    images = torch.randn(COUNT, 2, 6, 6, dtype=torch.float64) + torch.arange(COUNT).view(-1, 1, 1, 1)
    labels = torch.arange(COUNT) % CLASSES
    whole, parted = (Training(copy.deepcopy(net).train(), RECIPE.replace(micro_batch=n), 9) for n in (None, most))
    for _ in range(3):
        before = copy.deepcopy(parted.net[0])
        variances = []
        for part, _ in split_batch(images, labels, most):
            alone = copy.deepcopy(before)
            alone(part)
            variances.append(len(part) / COUNT * alone.running_var)
        for training in (whole, parted):
            training.update(images, labels, 0.0)
        assert torch.allclose(parted.net[0].running_mean, whole.net[0].running_mean, atol=1e-12)
        assert torch.allclose(parted.net[0].running_var, torch.stack(variances).sum(0), atol=1e-12)
        if kind != "from scratch" and kind != "the other way round":
            assert int(parted.net[0].num_batches_tracked) == int(whole.net[0].num_batches_tracked)
        assert parted.net[0].momentum == norm.momentum
    moved = not torch.equal(parted.net[0].running_mean, norm.running_mean)
    assert moved == (kind != "momentum 0")


def test_what_is_frozen_stays_as_it_is_to_the_bit() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    torch.manual_seed(0)
    net = nn.Sequential(Frozen(1), nn.BatchNorm2d(1, momentum=0.0), nn.Flatten(), nn.Linear(36, CLASSES))
    for norm in net[:2]:
        norm.running_mean.uniform_()
        norm.running_var.uniform_(1, 2)
    images, labels = drawn(dtype=torch.float32)
    training = Training(copy.deepcopy(net).train(), RECIPE.replace(micro_batch=2), 9)
    for _ in range(5):
        training.update(images, labels, 0.05)
    for name in ("0.running_mean", "0.running_var", "0.num_batches_tracked", "1.running_mean", "1.running_var"):
        assert torch.equal(training.net.state_dict()[name], net.state_dict()[name]), name


def points() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, CLASSES))


def test_a_part_of_one_image_whose_maps_are_points_is_refused() -> None:
    for count, most in ((3, 2), (5, 1)):
        with pytest.raises(UsageError) as refusal:
            learnt(points(), RECIPE.replace(micro_batch=most), *drawn(count=count, dtype=torch.float32))
        assert str(refusal.value) == (
            "batch norm cannot train on a batch of 1 whose maps are a single point, micro_batch"
            " - make it so large that no part is a single image"
        )
    with pytest.raises(UsageError, match="single point, batch_size - use 2 or more"):
        learnt(points(), RECIPE.replace(micro_batch=4), *drawn(count=1, dtype=torch.float32))
    for count, most in ((9, 4), (5, 3), (4, 2)):  # 4 + 4 + 1 where parts are filled one after another
        learnt(points(), RECIPE.replace(micro_batch=most), *drawn(count=count, dtype=torch.float32))


@pytest.mark.parametrize("make", [plain, TwoHeads])
@pytest.mark.parametrize("training", [True, False])
def test_answers_are_given_in_parts_and_joined(make: Any, training: bool) -> None:
    torch.manual_seed(0)
    net, (images, labels) = make().double().train(training), drawn()
    with torch.no_grad():
        expected, loss = Training(net, RECIPE, 1).answer(images, labels)
        outputs, its_loss = Training(net, RECIPE.replace(micro_batch=3), 1).answer(images, labels)
    assert type(outputs) is type(expected)
    for a, b in zip(tree_leaves(outputs), tree_leaves(expected), strict=True):
        assert torch.allclose(a, b, atol=1e-12) and a.shape == (COUNT, CLASSES)
    assert its_loss.item() == pytest.approx(loss.item(), rel=1e-12)


class Live(TorchDispatchMode):
    """The bytes of all storages that operations have made and that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak_bytes = 0
        self.alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        known = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.note(tensor.untyped_storage(), known)
        return made

    def note(self, storage: Any, known: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive or key in known:
            return
        self.alive[key] = weakref.ref(storage, lambda _: self.drop(key, size))
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def drop(self, key: int, size: int) -> None:
        del self.alive[key]
        self.bytes -= size


@contextlib.contextmanager
def without_collecting() -> Generator[None]:
    gc.disable()  # memory that only the collector frees would count as held
    try:
        yield
    finally:
        gc.enable()


def peak_of(most: int | None, count: int = 8) -> int:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid())]
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    training = Training(net.train(), RECIPE.replace(micro_batch=most, momentum=0.0), 9)
    with without_collecting(), Live() as live:
        training.update(torch.zeros(count, 1, 64, 64), torch.zeros(count, dtype=torch.int64), 0.0)
    return live.peak_bytes


def test_memory_is_that_of_one_part() -> None:
    """Nothing of a part's graph is left when the next begins: the peak is that of a batch of its size."""
    for most in (1, 2, 4):
        other_images_bytes = (8 - most) * 64 * 64 * 4
        assert peak_of(most) == pytest.approx(peak_of(None, count=most) + other_images_bytes, rel=0.01)
    assert peak_of(1) < 0.2 * peak_of(None)
