"""The loop: one update a step, the same every time, losses as their formulas say."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conviction.recipe import Recipe
from conviction.training.loop import Training, autocasting, total_loss

STEPS_PER_EPOCH = 3
RECIPE = Recipe(epochs=2, optimizer="sgd", lr=0.05, weight_decay=1e-3, schedule="cosine", warmup_epochs=0.5,
                device="cpu", precision="fp32", batch_size=8)  # fmt: skip


def small_net(dropout: float = 0.5) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout),
                         nn.Linear(4 * 16, 3))  # fmt: skip


def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(STEPS_PER_EPOCH):
        labels = torch.randint(3, (8,), generator=generator)
        yield torch.randn(8, 1, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1), labels


def state(net: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in net.state_dict().values()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def trained(recipe: Recipe = RECIPE, most: int | None = None, net: nn.Module | None = None) -> tuple[nn.Module, list]:
    net = net or small_net()
    return net, list(itertools.islice(Training(net, recipe, STEPS_PER_EPOCH).run(batches), most))


def test_steps_are_numbered() -> None:
    _, steps = trained()
    assert [(s.index, s.epoch, s.in_epoch, s.ends_epoch) for s in steps] == [
        (0, 0, 0, False), (1, 0, 1, False), (2, 0, 2, True), (3, 1, 0, False), (4, 1, 1, False), (5, 1, 2, True),
    ]  # fmt: skip
    assert {(s.steps_per_epoch, s.images) for s in steps} == {(3, 8)}
    assert all(s.loss.ndim == 0 and not s.loss.requires_grad and 0 <= int(s.correct) <= 8 for s in steps)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_whoever_stops_reading_has_made_exactly_those_steps(most: int) -> None:
    stopped, steps = trained(most=most)
    assert len(steps) == most
    assert stopped[1].num_batches_tracked.item() == most
    reading = small_net()
    for step in Training(reading, RECIPE, STEPS_PER_EPOCH).run(batches):
        if step.index == most - 1:
            assert equal(state(reading), state(stopped))
    assert not equal(state(reading), state(stopped))


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "ema": 0.9}, {"channels_last": True, "clip_norm": 0.1}])
def test_one_seed_one_training_to_the_bit(changes: dict[str, Any]) -> None:
    first, steps = trained(RECIPE.replace(**changes))
    torch.manual_seed(123)  # what ran before does not matter
    again, same = trained(RECIPE.replace(**changes))
    assert equal(state(first), state(again))
    assert [float(s.loss) for s in steps] == [float(s.loss) for s in same]
    other, _ = trained(RECIPE.replace(seed=1, **changes))
    assert not equal(state(first), state(other))  # dropout draws from the seed


def test_a_step_is_plain_torch() -> None:
    """The loop against the few lines that a person would write."""
    ours, steps = trained(net=small_net(dropout=0.0))
    net = small_net(dropout=0.0).train()
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9, nesterov=True)
    for group_of in (optimizer.param_groups,):
        group_of[0]["weight_decay"] = 0.0
    kernels = [p for p in net.parameters() if p.ndim > 1]
    losses = []
    for step, (images, labels) in zip(steps, [*batches(0), *batches(1)], strict=True):
        optimizer.param_groups[0]["lr"] = step.lr
        loss = -net(images).log_softmax(1)[range(8), labels].mean()
        optimizer.zero_grad()
        loss.backward()
        for kernel in kernels:
            kernel.grad += 1e-3 * kernel.detach()
        optimizer.step()
        losses.append(loss.item())
    assert [float(s.loss) for s in steps] == pytest.approx(losses, rel=1e-5)
    for a, b in zip(state(ours), state(net), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_rates_follow_the_schedule() -> None:
    _, steps = trained()
    falling = [0.05 * (1 + math.cos(math.pi * done / 4)) / 2 for done in range(4)]
    # half of an epoch of three steps is rounded to two
    assert [s.lr for s in steps] == pytest.approx([0.05 / 3, 0.1 / 3, *falling])


def test_a_reader_may_evaluate_between_steps() -> None:
    expected, _ = trained()
    net = small_net()
    for _ in Training(net, RECIPE, STEPS_PER_EPOCH).run(batches):
        net.eval()
        net(torch.zeros(1, 1, 6, 6))
    assert equal(state(net), state(expected))


def test_going_on_at_an_epoch_repeats_it() -> None:
    whole, _ = trained()
    net = small_net()
    training = Training(net, RECIPE, STEPS_PER_EPOCH)
    list(itertools.islice(training.run(batches), STEPS_PER_EPOCH))
    torch.rand(99)
    later = list(training.run(batches, first_epoch=1))
    assert [s.index for s in later] == [3, 4, 5]
    assert equal(state(net), state(whole))


def test_more_batches_than_steps_are_left() -> None:
    def endless(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from batches(epoch)

    assert len(list(Training(small_net(), RECIPE, STEPS_PER_EPOCH).run(endless))) == 6


def test_soft_targets_equal_labels_where_they_are_sure() -> None:
    logits = torch.randn(8, 3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    sure = nn.functional.one_hot(labels, 3).float()
    assert torch.allclose(total_loss(logits, sure, 0.0, 0.3), total_loss(logits, labels, 0.0, 0.3))
    mixed = 0.3 * sure + 0.7 * sure.roll(1, 0)
    by_hand = -(mixed * logits.log_softmax(1)).sum(1).mean()
    assert torch.allclose(total_loss(logits, mixed, 0.0, 0.3), by_hand)

    def soft(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((images, nn.functional.one_hot(labels, 3).float()) for images, labels in batches(epoch))

    hard_net, hard_steps = trained()
    soft_net = small_net()
    soft_steps = list(Training(soft_net, RECIPE, STEPS_PER_EPOCH).run(soft))
    assert [int(s.correct) for s in soft_steps] == [int(s.correct) for s in hard_steps]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(state(soft_net), state(hard_net), strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_its_formula(smoothing: float) -> None:
    """Szegedy et al. 2015, section 7: q'(k) = (1 - e) [k = y] + e / K."""
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    q = (1 - smoothing) * nn.functional.one_hot(labels, 4) + smoothing / 4
    by_hand = -(q * logits.log_softmax(1)).sum(1).mean()
    assert torch.allclose(total_loss(logits, labels, smoothing, 0.3), by_hand)


def test_auxiliary_heads_weigh_what_the_recipe_says() -> None:
    logits, first, second = torch.randn(3, 8, 5)
    labels = torch.arange(8) % 5
    one = [total_loss(head, labels, 0.1, 0.3).item() for head in (logits, first, second)]
    both = total_loss((logits, first, second), labels, 0.1, 0.3)
    assert both.item() == pytest.approx(one[0] + 0.3 * (one[1] + one[2]), rel=1e-6)


def test_a_net_with_auxiliary_outputs_trains_them() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = small_net(), small_net()

        def forward(self, x: Tensor) -> Any:
            return (self.first(x), self.second(x)) if self.training else self.first(x)

    before = state(TwoHeads().second)
    for weight, moved in ((0.3, True), (0.0, False)):
        net = TwoHeads()
        step = next(Training(net, RECIPE.replace(aux_weight=weight, weight_decay=0.0), 3).run(batches))
        parameters = [p for p in net.second.parameters() if p.ndim > 1]
        assert (not equal([p.detach() for p in parameters], [t for t in before if t.ndim > 1])) == moved
        assert 0 <= int(step.correct) <= 8


def test_clipping_bounds_the_whole_gradient() -> None:
    net = small_net()
    start = copy.deepcopy(net)
    recipe = RECIPE.replace(clip_norm=0.01, momentum=0.0, weight_decay=0.0)
    step = next(Training(net, recipe, STEPS_PER_EPOCH).run(batches))
    moved = [(a - b).flatten() for a, b in zip(net.parameters(), start.parameters(), strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(step.lr * 0.01, rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", None])
def test_gradients_are_scaled_for_fp16_only(precision: str | None) -> None:
    training = Training(small_net(), RECIPE.replace(precision=precision), STEPS_PER_EPOCH)
    assert not training.scaler.is_enabled()
    assert training.scaler.state_dict() == {}


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_layers_compute_in_the_precision_and_weights_stay_fp32(precision: str, dtype: torch.dtype) -> None:
    seen = []
    net = small_net()
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    start = [p.detach().clone() for p in net.parameters()]
    training = Training(net, RECIPE.replace(precision=precision, channels_last=True), STEPS_PER_EPOCH)
    steps = list(training.run(batches))
    assert set(seen) == {dtype}
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(step.loss.dtype == torch.float32 and math.isfinite(step.loss) for step in steps)
    assert not equal([p.detach() for p in net.parameters()], start)
    assert training.scaler.is_enabled() == (precision == "fp16")


def test_fp32_is_no_autocast() -> None:
    for precision in ("fp32", None):
        with autocasting(torch.device("cpu"), precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_the_averaged_net_is_the_one_that_counts() -> None:
    net = small_net()
    assert Training(net, RECIPE, 3).evaluated is net
    training = Training(net, RECIPE.replace(ema=0.9), 3)
    list(training.run(batches))
    assert training.average is not None
    assert training.evaluated is training.average.net
    assert training.average.updates == 6
    assert not equal(state(training.evaluated), state(net))


def test_it_learns() -> None:
    training = Training(small_net(dropout=0.0), RECIPE.replace(epochs=15), STEPS_PER_EPOCH)
    correct = [int(step.correct) for step in training.run(lambda epoch: batches(0))]
    assert sum(correct[:3]) < 20
    assert sum(correct[-3:]) == 24  # the same 24 images every epoch, known by heart
