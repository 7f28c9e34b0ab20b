"""Recovery: a guard changes nothing while all is well; after a blow-up the last good state is back to the bit."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conviction.errors import DivergedError
from conviction.recipe import Recipe
from conviction.training.checkpoint import collect_state, load_training, save_training
from conviction.training.loop import Step, Training
from conviction.training.recovery import COPY_EVERY, Guard, Recovery

STEPS_PER_EPOCH = 30
RECIPE = Recipe(epochs=6, optimizer="sgd", lr=0.02, weight_decay=1e-3, schedule="cosine", warmup_epochs=0.0,
                device="cpu", precision="fp32", batch_size=16, channels_last=False)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "sgd, no momentum, clipped": {"momentum": 0.0, "clip_norm": 1.0},
    "adamw with average": {"optimizer": "adamw", "lr": 0.005, "ema": 0.9},
    "channels last, bf16": {"channels_last": True, "precision": "bf16"},
    "fp16": {"precision": "fp16"},
}


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(),
                         nn.Dropout(0.2), nn.Linear(24, 3))  # fmt: skip


def made(
    recipe: Recipe = RECIPE, seed: int = 0, net: nn.Module | None = None, steps: int = STEPS_PER_EPOCH
) -> Training:
    layout = torch.channels_last if recipe.channels_last else torch.preserve_format
    return Training((net or small_net(seed)).to(memory_format=layout), recipe, steps)


def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    while True:
        labels = torch.randint(3, (16,), generator=generator)
        yield torch.randn(16, 2, 6, 6, generator=generator) + 2 * labels.view(-1, 1, 1, 1), labels


def spoilt(*at: int, steps: int = STEPS_PER_EPOCH) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """The batches, with one pixel that is not a number in those of the steps `at`."""

    def fed(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for in_epoch, (images, labels) in enumerate(batches(epoch)):
            if epoch * steps + in_epoch in at:
                images[0, 0, 0, 0] = math.nan
            yield images, labels

    return fed


def guarded(
    training: Training, guard: Guard, fed: Any = batches, *, first_epoch: int = 0, ruin: dict[int, float] | None = None
) -> Iterator[tuple[Step, Recovery | None]]:
    """Train under a guard; after the step `ruin` names, all weights are multiplied by its number, as by a blow-up."""
    for step in training.run(guard.feeding(fed), first_epoch=first_epoch):
        told = guard.check(step)
        if step.index in (ruin or {}):
            with torch.no_grad():
                for parameter in training.net.parameters():
                    parameter.mul_((ruin or {})[step.index])
        yield step, told


def finished(training: Training, fed: Any = batches, **how: Any) -> tuple[Guard, list[float]]:
    guard = Guard(training, read_every=how.pop("read_every", None))
    return guard, [float(step.loss) for step, _ in guarded(training, guard, fed, **how)]


def everything(training: Training) -> dict[str, Any]:
    tensors, facts = collect_state(training)
    return {**{name: tensor.clone() for name, tensor in tensors.items()}, **facts}


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        same = torch.equal(value, right[name]) if isinstance(value, Tensor) else value == right[name]
        assert same, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_guard_changes_nothing_while_all_is_well(kind: str) -> None:
    recipe = RECIPE.replace(**KINDS[kind], epochs=2)
    alone, watched = made(recipe), made(recipe)
    losses = [float(step.loss) for step in alone.run(batches)]
    guard, told = finished(watched)
    assert told == losses and guard.recoveries == [] and watched.rate_factor == 1.0
    assert_same(everything(watched), everything(alone))


def test_nor_do_its_copies_on_the_way() -> None:
    recipe = RECIPE.replace(epochs=1)
    alone, watched = made(recipe, steps=140), made(recipe, steps=140)
    losses = [float(step.loss) for step in alone.run(batches)]
    guard, told = finished(watched)
    assert guard.good.step > 90 and told == losses, "the dropout after the copy is the same"
    assert_same(everything(watched), everything(alone))


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_good_state_is_back_to_the_bit_and_training_goes_on_from_it(kind: str) -> None:
    recipe = RECIPE.replace(**KINDS[kind], epochs=3)
    training, at = made(recipe), 2 * STEPS_PER_EPOCH + 7
    guard, states = Guard(training), {}
    steps = guarded(training, guard, ruin={at: 1e4})
    for step, told in steps:
        states[step.index] = everything(training)
        if told:
            break
    assert told is not None and told.back_to == 2 * STEPS_PER_EPOCH - 1 and at < told.step <= at + 2
    assert told.cause in ("lr-too-high", "non-finite") and told.epoch == 3
    assert_same(everything(training), states[told.back_to])
    rest = list(steps)
    assert all(math.isfinite(step.loss) for step, _ in rest) and not any(told for _, told in rest)
    assert all(step.lr == pytest.approx(told.rate_factor * Training(small_net(), recipe, 30).rate_at(step.index))
               for step, _ in rest)  # fmt: skip
    assert [step.index for step, _ in rest] == list(range(told.step + 1, 3 * STEPS_PER_EPOCH))
    assert float(rest[0][0].loss) < 1.5, "what was learnt is there"


@pytest.mark.parametrize("read_every", [1, 4])
def test_a_batch_with_a_broken_image_does_not_end_a_run_and_no_rate_is_blamed(read_every: int) -> None:
    at = STEPS_PER_EPOCH + 8
    training = made()
    guard, losses = finished(training, spoilt(at), read_every=read_every)
    (recovery,) = guard.recoveries
    assert (recovery.step, recovery.cause, recovery.back_to) == (at, "non-finite", STEPS_PER_EPOCH - 1)
    assert "its images are not finite" in recovery.seen and recovery.rate_factor == training.rate_factor == 1.0
    assert sum(not math.isfinite(loss) for loss in losses) == 1
    assert all(bool(tensor.isfinite().all()) for tensor in training.net.state_dict().values())
    assert sum(losses[-20:]) / 20 < 0.8
    (finding,) = guard.findings()
    assert set(finding) == {"cause", "where", "seen", "expected", "try", "confidence", "experiment"}
    assert finding["where"] == {"file": None, "line": None, "layer": None} and "images" in finding["try"]


def test_blow_ups_between_two_looks_are_seen_at_the_next() -> None:
    training = made()
    guard, losses = finished(training, ruin={40: math.nan}, read_every=16)
    (recovery,) = guard.recoveries
    assert recovery.step == STEPS_PER_EPOCH + 16 and recovery.back_to == STEPS_PER_EPOCH - 1
    assert sum(not math.isfinite(loss) for loss in losses) == recovery.step - 40
    assert training.rate_factor < 0.34


@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_blow_up_at_an_epochs_end_is_not_taken_for_good(last: int) -> None:
    """Nothing but the guard's own forward could see what the very last update did."""
    at = STEPS_PER_EPOCH - 1 - last

    class Ruined(Training):
        def update(self, images: Tensor, targets: Tensor, lr: float) -> tuple[Tensor, Tensor]:
            self.count = getattr(self, "count", -1) + 1
            told = super().update(images, targets, lr)
            if self.count == at:
                with torch.no_grad():
                    for parameter in self.net.parameters():
                        parameter.mul_(1e4)
            return told

    training = Ruined(small_net(), RECIPE, STEPS_PER_EPOCH)
    guard, losses = finished(training)
    (recovery,) = guard.recoveries
    assert recovery.back_to == -1 and sum(losses[-20:]) / 20 < 0.8


def test_looking_closer_keeps_every_random_state() -> None:
    """A net may draw from other generators than torch's."""

    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Gated(small_net())
            self.drawn: list[float] = []

        def forward(self, x: Tensor) -> Tensor:
            draws = random.random(), float(np.random.rand()), float(torch.rand(()))
            if not torch.is_grad_enabled():
                self.drawn.append(draws[0])
                return self.net(x)
            return self.net(x) * (1 + 0.1 * sum(draws))

    recipe = RECIPE.replace(epochs=2, lr=0.002)
    losses = []
    for watched in (False, True):
        random.seed(0)
        np.random.seed(0)
        training = made(recipe, net=Drawing())
        steps = guarded(training, Guard(training)) if watched else ((step, None) for step in training.run(batches))
        losses.append([float(step.loss) for step, _ in steps])
    assert losses[0] == losses[1] and len(training.net.drawn) > 2, "it looked"


def test_long_epochs_are_copied_on_the_way() -> None:
    training = made(RECIPE.replace(epochs=1), steps=350)
    guard = Guard(training)
    copied = []
    for _, told in guarded(training, guard, ruin={290: 1e5}):
        copied += [guard.good.step] if guard.good.step not in copied else []
        if told:
            break
    assert told is not None and told.back_to == copied[-1]
    assert [round(step / COPY_EVERY) for step in copied] == [0, 1, 2], "about every hundred, when the state is good"


def test_three_strikes_end_it_and_say_so() -> None:
    ruin = {40: 1e4, 80: 1e4, 100: math.nan, 140: 1e4}
    training = made()
    guard = Guard(training, "runs/x")
    told: list[Recovery] = []
    with pytest.raises(DivergedError, match=r"the loss .* at step 14\d, lr .* after 3 recoveries \((\w|-)+\), runs/x - "
                                            r"lower --lr below") as caught:  # fmt: skip
        told.extend(recovery for _, recovery in guarded(training, guard, ruin=ruin) if recovery)
    assert caught.value.exit_code == 6 and "\n" not in str(caught.value)
    assert len(told) == 3 and [each["experiment"] is None for each in guard.findings()] == [True, True, False]
    factors = [recovery.rate_factor for recovery in told]
    assert all(later <= earlier / 3 * 1.000001 for earlier, later in itertools.pairwise([1.0, *factors]))
    assert all("\n" not in str(recovery) and recovery.cause in str(recovery) for recovery in told)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant", "linear"])
@pytest.mark.parametrize("at", [3, 50, 170])
def test_the_rest_of_a_run_stays_below_a_third_of_the_rate_that_broke_it(schedule: str, at: int) -> None:
    training = made(RECIPE.replace(schedule=schedule, warmup_epochs=2.0))
    before = [training.rate_at(index) for index in range(training.steps)]
    guard = Guard(training)
    told = next(told for _, told in guarded(training, guard, ruin={at: math.nan}) if told)
    since = max(before[told.back_to + 1 : told.step + 1])
    assert told.lr == pytest.approx(since)
    after = [training.rate_at(index) for index in range(told.step + 1, training.steps)]
    assert max(after) <= since / 3 * 1.000001
    assert max(after) == pytest.approx(min(since, max(before[told.step + 1 :])) / 3)


def test_without_recoveries_a_broken_loss_stops_at_once_and_a_spike_is_noted_once() -> None:
    recipe = RECIPE.replace(recoveries=0)
    with pytest.raises(DivergedError, match=r"the loss became nan at step 5, lr [\d.]+ \(non-finite\)"):
        finished(made(recipe), ruin={4: math.nan})
    training = made(recipe)
    guard, losses = finished(training, ruin={90: -3.0, 130: -3.0})
    (noted,) = guard.recoveries
    assert noted.back_to is None and "noted only" in str(noted) and training.rate_factor == 1.0
    assert len(losses) == training.steps and guard.kept == {} and guard.good.tensors == {}
    assert guard.findings()[0]["experiment"] is None


def dead_net(seed: int = 0) -> nn.Sequential:
    net = small_net(seed)
    with torch.no_grad():
        net[3].weight.zero_()
        net[3].bias.fill_(-1.0)
    return net


def test_a_net_that_is_dead_from_the_start_is_refused_with_its_cause() -> None:
    with pytest.raises(DivergedError, match=r"no gradient reaches the first layer .* \(dead-relu\) - it was so from"):
        finished(made(net=dead_net()))


class Gated(nn.Module):
    """A net of a user's own: the branch that comes first is gated off, and the other learns."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.off, self.other = small_net(5), other
        self.register_buffer("gate", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x) + self.gate * self.off(x)


def pruned_net() -> nn.Sequential:
    """A net whose first convolution, beside its path, was pruned to nothing and stays so."""
    net = small_net()
    net[0].weight.register_hook(torch.zeros_like)
    return net


def deep_dead_net(bias: float = 0.5) -> nn.Sequential:
    """Dead in its second layer; those behind it have biases, so that constants flow on and give them gradients."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for width_in in (72, 8, 8, 8):
        layers += [nn.Linear(width_in, 8), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(8, 3))
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.bias.fill_(bias)
        net[3].weight.zero_()
        net[3].bias.fill_(-1.0)
    return net


# Slow, so that much of the run is no better than guessing, or fast.
LIVING: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "gated": (lambda: Gated(small_net()), {}),
    "gated, slow": (lambda: Gated(small_net()), {"lr": 1e-4}),
    "gated, at chance": (lambda: Gated(small_net()), {"lr": 1e-8}),
    "pruned": (pruned_net, {}),
    "gated, smoothed labels": (lambda: Gated(small_net()), {"label_smoothing": 0.3}),
}


@pytest.mark.parametrize("recoveries", [0, 3])
@pytest.mark.parametrize("name", LIVING)
def test_a_first_layer_without_gradient_is_no_death_while_the_logits_depend_on_the_images(
    name: str, recoveries: int
) -> None:
    made_net, changes = LIVING[name]
    recipe = RECIPE.replace(recoveries=recoveries, epochs=3, **changes)
    alone = made(recipe, net=made_net())
    losses = [float(step.loss) for step in alone.run(batches)]
    guard, told = finished(made(recipe, net=made_net()))
    assert guard.recoveries == [] and told == losses, "nor does looking closer change anything"


def test_looking_closer_ends_when_the_loss_is_answer_enough_and_leaves_the_mode() -> None:
    net, closer = Gated(small_net()), []
    net.register_forward_hook(lambda module, inputs, outputs: closer.append(not module.training))
    training = made(net=net)
    guard = Guard(training)
    for step in training.run(guard.feeding(batches)):
        guard.check(step)
        assert net.training, "as whoever reads after the guard expects"
    assert 0 < sum(closer) < 40 < training.steps


@pytest.mark.parametrize("net", [deep_dead_net, lambda: Gated(deep_dead_net()), lambda: Gated(dead_net())])
def test_biases_behind_a_dead_layer_do_not_hide_it(net: Callable[[], nn.Module]) -> None:
    with pytest.raises(DivergedError, match=r"the logits are the same for all images; .* \(dead-relu\)"):
        finished(made(net=net()))


def test_one_image_a_batch_cannot_show_that_a_net_is_dead() -> None:
    def single(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from ((images[:1], labels[:1]) for images, labels in batches(epoch))

    net = Gated(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)))
    net.off = dead_net()[3:]  # without batch norm, which cannot train on one image
    net.forward = lambda x: net.other(x) + 0 * sum(p.sum() for p in net.off.parameters())
    assert finished(made(RECIPE.replace(lr=1e-8), net=net), single)[0].recoveries == []


def test_recoveries_of_0_only_note_a_dead_net() -> None:
    training = made(RECIPE.replace(recoveries=0), net=dead_net())
    guard, losses = finished(training)
    (noted,) = guard.recoveries
    assert (noted.cause, noted.back_to) == ("dead-relu", None) and len(losses) == training.steps
    assert "noted only" in str(noted)


def test_each_cause_is_noted_once() -> None:
    training = made(RECIPE.replace(recoveries=0))
    guard = Guard(training)
    for step, _ in guarded(training, guard, ruin={70: -3.0}):
        if step.index == 110:
            training.net.load_state_dict(dead_net().state_dict())
    assert [each.cause for each in guard.recoveries] == ["lr-too-high", "dead-relu"]


def test_between_two_looks_nobody_knows_about_gradients() -> None:
    with pytest.raises(DivergedError, match=r"\(dead-relu\)") as caught:
        finished(made(net=dead_net()), read_every=8)
    assert int(str(caught.value).split("at step ")[1].split(",")[0]) > 80, "sixteen looks, not sixteen losses"


def test_a_net_that_dies_on_the_way_comes_back() -> None:
    training = made(RECIPE.replace(warmup_epochs=6.0))
    guard, died = Guard(training), None
    for step in training.run(guard.feeding(batches)):
        told = guard.check(step)
        died = died or told
        if step.index == 70:
            training.net.load_state_dict(dead_net().state_dict())
    assert died is not None and died.cause == "dead-relu" and died.back_to == 2 * STEPS_PER_EPOCH - 1
    assert guard.recoveries == [died] and float(step.loss) < 0.8
    assert died.lr < Training(small_net(), training.recipe, STEPS_PER_EPOCH).rate_at(died.step - 3), "it broke before"


def test_a_loss_that_is_broken_from_the_start_is_not_tried_again() -> None:
    net = small_net()
    with torch.no_grad():
        net[0].weight.fill_(math.inf)
    with pytest.raises(DivergedError, match=r"at step 0, .*\(non-finite\) - it was so from the first step"):
        finished(made(net=net))


def test_sorted_data_is_not_a_blow_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class is hard when it comes up; no rate helps against that."""

    def sorted_by_class(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(epoch)
        for label in range(3):
            for _ in range(40):
                yield torch.randn(16, 2, 6, 6, generator=generator) + label, torch.full((16,), label)

    def recovered() -> int:
        recipe = RECIPE.replace(epochs=1, schedule="constant", lr=0.005)
        return len(finished(made(recipe, steps=120), sorted_by_class)[0].recoveries)

    assert recovered() == 0
    monkeypatch.setattr("conviction.training.recovery._ENOUGH_IMAGES", 17)
    assert recovered() > 0, "it looks just like one"


def test_steps_that_were_taken_back_do_not_count() -> None:
    training = made()
    guard, rows = Guard(training), []
    for step, _ in guarded(training, guard, ruin={40: math.nan}):
        rows.append(step)
    (recovery,) = guard.recoveries
    kept = guard.counting(rows)
    assert {step.index for step in rows} - {step.index for step in kept} == set(range(30, recovery.step + 1))
    assert guard.counting(rows[35:42]) == rows[35:42], "where none is left all are given"


# Blow-ups before, at and after the seam behind epoch 3 (step 90), all of which a resumed run must not notice.
RUINS: dict[str, dict[int, float]] = {
    "none": {},
    "before": {40: 1e4},
    "the last step before": {88: 1e4},
    "the first step after": {90: 1e4},
    "after": {100: math.nan},
    "before and after": {40: 1e4, 100: math.nan},
    "creeping over the seam": {80: 3.0},
}


@pytest.mark.parametrize("ruin", RUINS.values(), ids=RUINS)
@pytest.mark.parametrize("kind", ["adamw with average"])
def test_a_resumed_run_is_the_same_to_the_bit(kind: str, ruin: dict[int, float], tmp_path: Path) -> None:
    recipe = RECIPE.replace(**KINDS[kind])
    whole = made(recipe)
    guard, losses = finished(whole, ruin=ruin)
    first = made(recipe)
    watching = Guard(first)
    begun = [float(step.loss) for step, _ in itertools.islice(guarded(first, watching, ruin=ruin), 90)]
    facts = json.loads(json.dumps({"guard": watching.to_dict()}))
    path = save_training(tmp_path / "last", first, facts, watching.kept)
    second = made(recipe, seed=9)
    going_on = Guard(second)
    going_on.go_on(load_training(path, second)["guard"], path)
    torch.rand(3)
    later = [float(step.loss) for step, _ in guarded(second, going_on, first_epoch=3, ruin=ruin)]
    assert list(map(repr, begun + later)) == list(map(repr, losses))
    assert going_on.recoveries == guard.recoveries and second.rate_factor == whole.rate_factor
    assert_same(everything(second), everything(whole))


def test_a_state_that_is_not_good_at_the_seam_keeps_the_good_one_beside_it(tmp_path: Path) -> None:
    training = made()
    guard = Guard(training)
    for step, _ in guarded(training, guard):
        if step.index == 2 * STEPS_PER_EPOCH - 4:
            guard.course.recent[-6:] = [1.0] * 6  # as if the last batches had been answered badly
        if step.index == 2 * STEPS_PER_EPOCH - 1:
            break
    assert guard.kept and guard.good.step == STEPS_PER_EPOCH - 1
    path = save_training(tmp_path / "last", training, {"guard": guard.to_dict()}, guard.kept)
    fresh = made(seed=3)
    again = Guard(fresh)
    again.go_on(load_training(path, fresh)["guard"], path)
    assert_same(again.kept, guard.kept)
    assert again.good.step == guard.good.step and again.course == guard.course


def test_checkpoints_from_before_there_were_guards_are_read(tmp_path: Path) -> None:
    training = made()
    list(itertools.islice(training.run(batches), STEPS_PER_EPOCH))
    path = save_training(tmp_path / "last", training, {})
    fresh = made(seed=3)
    guard = Guard(fresh)
    guard.go_on(load_training(path, fresh).get("guard"), path)
    later = [told for _, told in guarded(fresh, guard, first_epoch=1)]
    assert later == [None] * (5 * STEPS_PER_EPOCH)
