"""The finder: rates that train, refusals that are true, and a net that is left as it was."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import conviction
from conviction.assembly import assemble
from conviction.data.held import Held
from conviction.data.records import Data
from conviction.errors import UsageError
from conviction.feeding import Feed
from conviction.lr_finding import LRSweep, _probe, lr_events, plan_budget
from conviction.lr_range import Budget, Found, Point, Trial, _looking, _Sweep, sweep
from conviction.lr_refusal import explain, linear_top1
from conviction.recipe import Recipe
from conviction.sweep_figure import draw_sweep
from conviction.training.loop import Training

PROBE = 128
RECIPE = Recipe(epochs=2, optimizer="sgd", lr=1.0, weight_decay=1e-3, schedule="onecycle", warmup_epochs=0.0,
                device="cpu", precision="fp32", batch_size=32, clip_norm=0.0)  # fmt: skip
SMALL = Budget(range_steps=30, first_steps=6)


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    places = torch.eye(4).repeat_interleave(4, 1)[labels].view(-1, 1, 4, 4)
    return torch.randn(count, 1, 4, 4, generator=generator) + 2 * places, labels


def feed(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = blobs(320, epoch)
    return zip(images.split(32), labels.split(32), strict=True)


def net(dropout: float = 0.3) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(),
                         nn.Linear(8 * 16, 4))  # fmt: skip


def looked(module: nn.Module, recipe: Recipe = RECIPE, budget: Budget = SMALL, **other: Any) -> tuple[list, Found]:
    events = sweep(module, recipe, other.get("feed", feed), other.get("probe", blobs(PROBE, 99)), budget)
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            return seen, stop.value


def states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_rate_trains_and_its_proof_is_true(optimizer: str) -> None:
    recipe = RECIPE.replace(optimizer=optimizer)
    seen, found = looked(net(), recipe)
    assert found.lr is not None
    assert found.loss_end < found.loss_start - found.least_fall
    assert [*found.curve, *found.trials] == seen
    # The proof again, by hand.
    ours = net()
    stream = itertools.chain.from_iterable(map(feed, itertools.count()))
    short = recipe.replace(lr=found.lr, epochs=1)
    list(Training(ours, short, found.steps).run(lambda epoch: stream))
    with _looking(ours), torch.no_grad():
        images, labels = blobs(PROBE, 99)
        assert float(nn.functional.cross_entropy(ours(images), labels)) == pytest.approx(found.loss_end, rel=1e-5)


def test_the_net_and_every_random_state_are_left_to_the_bit() -> None:
    ours = net()
    ours[1].eval()
    (ours(torch.randn(4, 1, 4, 4)).sum()).backward()
    before = copy.deepcopy(ours.state_dict()), [p.grad.clone() for p in ours.parameters()], states()
    modes = [module.training for module in ours.modules()]
    looked(ours)
    assert all(torch.equal(a, b) for a, b in zip(before[0].values(), ours.state_dict().values(), strict=True))
    assert all(torch.equal(a, p.grad) for a, p in zip(before[1], ours.parameters(), strict=True))
    assert states() == before[2]
    assert [module.training for module in ours.modules()] == modes
    assert ours[1].momentum == 0.1


def test_the_same_sweep_twice_is_the_same_and_another_seed_differs() -> None:
    assert looked(net()) == looked(net())
    assert looked(net())[1].trials != looked(net(), RECIPE.replace(seed=5))[1].trials


def test_candidates_start_above_the_explosion_and_each_round_is_longer_and_smaller() -> None:
    found = looked(net())[1]
    rounds = [list(group) for _, group in itertools.groupby(found.trials, key=lambda trial: trial.steps)]
    assert [len(group) for group in rounds][:2] == [7, 4]
    assert [group[0].steps for group in rounds] == [6, 12, 24]
    rates = [trial.lr for trial in rounds[0]]
    assert rates[0] == pytest.approx(2.5 * found.high)
    assert all(a == pytest.approx(2.5 * b) for a, b in itertools.pairwise(rates))
    for earlier, later in itertools.pairwise(rounds[:2]):
        best = sorted(earlier, key=lambda trial: trial.probe_loss)[: len(later)]
        assert [trial.lr for trial in later] == [trial.lr for trial in best]


def test_a_net_that_sees_nothing_is_refused_after_a_longer_look() -> None:
    blind = nn.Sequential(nn.Flatten(), nn.Threshold(1e9, 0.0), nn.Linear(16, 4))
    found = looked(blind)[1]
    assert found.lr is None
    assert {trial.steps for trial in found.trials} == {6, SMALL.patience}, "a second, much longer look"


def test_a_slow_start_is_no_refusal() -> None:
    ours = net()
    with torch.no_grad():
        ours[-1].weight.mul_(1e-4)
        ours[0].weight.mul_(1e-3)
    assert looked(ours, RECIPE.replace(optimizer="adamw"))[1].lr is not None


def test_a_rate_that_explodes_is_a_trial_without_end() -> None:
    found = looked(nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Linear(64, 4)))[1]
    assert any(trial.probe_loss == math.inf or trial.probe_loss > found.loss_start for trial in found.trials)
    assert found.lr is not None
    assert found.low <= found.lr


def staged(losses: dict[tuple[float, int], float], spread: float = 0.0) -> _Sweep:
    """A sweep whose trials are given: (rate, steps) -> loss; `spread` is the deviation from image to image."""
    ours = _Sweep(net(), RECIPE, feed, blobs(100, 1))
    wave = spread * torch.tensor([1.0, -1.0]).repeat(50)
    for number, ((lr, steps), loss) in enumerate(losses.items()):
        ours.trials.append(Trial(lr, steps, loss))
        ours.answers[ours.trials[-1]] = torch.full((100,), loss) + wave * (1 if number % 2 else -1)
    return ours


def stepped_back(ours: _Sweep, winner: Trial) -> Trial:
    events = ours._step_back(winner, 2.3)
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return stop.value


def test_the_largest_within_noise_wins() -> None:
    for spread, wins in ((0.0, 0.1), (2.0, 0.25)):
        ours = staged({(0.1, 40): 1.0, (0.25, 40): 1.1, (0.625, 40): 2.0}, spread)
        assert ours._largest_within_noise(ours.trials[0]).lr == wins


@pytest.mark.parametrize(
    ("larger", "smaller", "wins"),
    [
        (1.2, 1.05, 0.25),  # the next larger rate trains: no edge
        (2.3, 1.05, 0.1),  # an edge, and the smaller rate is almost as good
        (2.3, 1.6, 0.25),  # an edge, but the smaller rate is clearly worse
    ],
)
def test_next_to_an_edge_the_smaller_rate_is_taken_where_it_is_almost_as_good(
    larger: float, smaller: float, wins: float
) -> None:
    ours = staged({(0.625, 10): larger, (0.25, 10): 1.2, (0.1, 10): 1.3, (0.25, 40): 1.0, (0.1, 40): smaller})
    assert stepped_back(ours, ours.trials[3]).lr == pytest.approx(wins)


def test_the_smaller_rate_is_tried_where_it_was_not() -> None:
    ours = staged({(0.625, 10): 2.3, (0.25, 10): 1.2, (0.25, 12): 1.0})
    stepped_back(ours, ours.trials[-1])
    assert [(trial.lr, trial.steps) for trial in ours.trials[3:]] == [(pytest.approx(0.1), 12)]


def test_looking_uses_batch_statistics_without_moving_them() -> None:
    ours = net().eval()
    before = copy.deepcopy(ours.state_dict())
    images = 5 + torch.randn(64, 1, 4, 4)
    with _looking(ours), torch.no_grad():
        one, two = ours(images), ours(images)
        inside = ours[1](ours[0](images))
    assert torch.equal(one, two), "dropout is off"
    assert float(inside.mean()) == pytest.approx(0, abs=1e-4)
    moved = [name for name, value in ours.state_dict().items() if not torch.equal(value, before[name])]
    assert moved in ([], ["1.num_batches_tracked"])


def find(net_name: str | nn.Module, data: Data, **knobs: Any) -> LRSweep:
    return conviction.find_lr(net_name, data, Recipe(batch_size=32, **knobs))


def test_find_lr_on_real_pictures(small_data: Data) -> None:
    torch.manual_seed(11)
    before = states()
    one = find("lenet-relu/2", small_data, optimizer="sgd")
    two = find("lenet-relu/2", small_data, optimizer="sgd")
    assert states() == before
    assert one.lr is not None
    assert 0.005 < one.lr < 1
    assert one.refused is None
    assert one.proved == {"lr": one.lr, "loss_start": one.proved["loss_start"], "loss_end": one.proved["loss_end"]}
    assert one.proved["loss_end"] < 1.6 < 2.2 < one.proved["loss_start"]
    assert (one.optimizer, one.batch_size, one.schedule) == ("sgd", 32, "onecycle")
    fields = one.to_dict()
    assert {key for key in fields if fields[key] != two.to_dict()[key]} <= {"seconds"}
    assert {"lr", "low", "high", "proved", "refused", "optimizer", "seconds"} <= set(fields)
    assert f"lr {one.lr:g}" in str(one)
    assert json.loads(json.dumps(fields))["lr"] == one.lr


def test_a_module_of_the_users_own_stays_as_it_is(small_data: Data) -> None:
    ours = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    before = copy.deepcopy(ours.state_dict())
    assert find(ours, small_data).lr is not None
    assert all(torch.equal(a, b) for a, b in zip(before.values(), ours.state_dict().values(), strict=True))


def test_a_collapsed_start_is_refused_with_its_cause(small_data: Data) -> None:
    swept = find("nin-small/8", small_data, optimizer="sgd", init="pytorch")
    assert swept.lr is None
    assert swept.proved is None
    assert swept.refused is not None
    assert swept.refused["cause"] == "init-collapse"
    assert "short runs" in swept.refused["why"]
    assert "no learning rate helps" in str(swept)


def test_shuffled_labels_are_named(small_data: Data) -> None:
    labels = small_data.train.labels
    assert labels is not None
    mixed = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    data = replace(small_data, train=replace(small_data.train, labels=mixed))
    swept = find("lenet-relu/2", data)
    assert swept.refused is not None
    assert swept.refused["cause"] == "labels-shuffled"


def test_a_net_without_anything_to_train_is_refused(small_data: Data) -> None:
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).requires_grad_(False)
    with pytest.raises(UsageError, match="no trainable parameter"):
        find(frozen, small_data)


def test_a_heavy_net_gets_fewer_steps_and_never_too_few(small_data: Data) -> None:
    totals = []
    for name in ("lenet", "vgg7", "vgg11"):
        made = assemble(name, small_data, Recipe(batch_size=32))
        totals.append(plan_budget(made.net, made, Feed(made.data, made.recipe)).total_steps)
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > 500
    assert totals[-1] >= 130


def test_progress_goes_up_to_the_whole(small_data: Data) -> None:
    shares = [look.done for look in lr_events("lenet-relu/4", small_data, Recipe(batch_size=32))]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.1
    assert 0.9 < shares[-1] <= 1


def test_the_picture_is_well_formed_and_escapes_names(tmp_path: Path) -> None:
    points = [Point(10.0**-k, 2.3, 2.3 - 0.1 * k if k else math.inf) for k in range(4, -1, -1)]
    rows = [(point.lr, point.train_loss, point.probe_loss) for point in points]
    picture = draw_sweep("<script>&", rows, [(0.1, 1.2), (1.0, math.inf)], 0.1)
    root = ET.fromstring(picture)
    text = "".join(root.itertext())
    assert "<script>&" in text
    assert "lr 0.1" in text
    assert "nan" not in picture
    assert "inf" not in picture.replace("infinite", "").replace("lr 1: loss inf", "")


def test_the_probe_is_in_no_order(small_data: Data) -> None:
    """Folders are read class by class: a probe in that order would hold a few classes in each of its parts."""
    labels = small_data.valid.labels
    assert labels is not None
    order = labels.argsort(stable=True)
    pictures = small_data.valid.source.fetch(order)
    ordered = replace(small_data.valid, source=Held(pictures), labels=labels[order])
    assert ordered.labels is not None
    made = assemble("lenet-bn", replace(small_data, valid=ordered), Recipe(batch_size=32))
    told = _probe(made.data, made.recipe, Feed(made.data, made.recipe))[1]
    assert len(told[: len(told) // 4].unique()) >= 8
    assert told.bincount().tolist() == labels.bincount().tolist()


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_tiny_validation_split_is_helped_out_by_training_images(small_data: Data, count: int) -> None:
    labels = small_data.valid.labels
    assert labels is not None
    few = replace(
        small_data.valid, source=Held(small_data.valid.source.fetch(torch.arange(count))), labels=labels[:count]
    )
    assert find("lenet-bn/4", replace(small_data, valid=few)).lr is not None


def test_a_single_image_to_judge_by_is_no_crash() -> None:
    assert looked(net(), probe=blobs(1, 5))[1].trials


def test_a_loader_with_a_generator_of_its_own_gives_the_same_answer_twice(small_data: Data) -> None:
    from torch.utils.data import DataLoader, TensorDataset

    def pairs(split: Any) -> TensorDataset:
        return TensorDataset(split.source.fetch(torch.arange(len(split))).float() / 255, split.labels)

    generator = torch.Generator().manual_seed(4)
    train = DataLoader(pairs(small_data.train), batch_size=32, shuffle=True, generator=generator)
    data = conviction.from_loaders(train, DataLoader(pairs(small_data.valid), batch_size=32))
    before = generator.get_state()
    one, two = find("lenet-relu/4", data), find("lenet-relu/4", data)
    assert one.trials == two.trials
    assert torch.equal(generator.get_state(), before)


def test_nets_that_fit_trains_are_not_refused_for_the_budget(small_data: Data) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))

        def forward(self, images: Tensor) -> Tensor:
            return self.layers(images) if images.sum().item() > -1e9 else images

    assert find(Own(), small_data).lr is not None


def test_a_net_that_cannot_be_copied_is_one_line(small_data: Data) -> None:
    ours = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    ours.lock = (each for each in ())
    with pytest.raises(UsageError, match="cannot be copied"):
        find(ours, small_data)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_net_is_one_line(small_data: Data) -> None:
    with pytest.raises(UsageError, match="scripted"):
        find(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))), small_data)


def test_a_net_that_needs_longer_does_not_blame_the_labels(small_data: Data) -> None:
    made = assemble("nin-small/4", small_data, Recipe(optimizer="sgd", batch_size=16))
    feed_ = Feed(made.data, made.recipe)
    probe = _probe(made.data, made.recipe, feed_)
    trials = (Trial(0.1, 20, 2.3),)
    found = Found(None, 0.1, 1.0, True, 2.303, 2.3, 0.05, 20, (), trials)
    assert explain(made.net, made, feed_, probe, found)["cause"] == "too-few-steps"


def test_a_linear_classifier_tells_real_labels_from_shuffled_ones(small_data: Data) -> None:
    made = assemble("lenet", small_data, Recipe(batch_size=32))
    feed_ = Feed(made.data, made.recipe)
    probe, (images, labels) = _probe(made.data, made.recipe, feed_), feed_.plain(400)
    right, guessing = linear_top1((images, labels), probe, 10)
    assert right > 0.6 > guessing
    mixed = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    right, guessing = linear_top1((images, mixed), probe, 10)
    assert right < guessing


def test_a_range_test_that_never_exploded_says_so() -> None:
    quiet = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh())
    found = looked(quiet, RECIPE.replace(optimizer="adamw"))[1]
    assert not found.exploded
    assert found.high == pytest.approx(1.0)
    assert looked(nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Linear(64, 4)))[1].exploded
