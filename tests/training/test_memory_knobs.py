"""Micro-batches and activation checkpointing through the whole house: preflight, finder, fit and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import conviction
from conviction.data.records import Data
from conviction.feeding import Feed
from conviction.fitting import fit_events
from conviction.lr_range import Budget, Point, sweep
from conviction.preflight import preflight
from conviction.runs import Epoch
from conviction.training.deciding import Circumstances, decide
from conviction.training.loop import Training

BUDGET = Budget(range_steps=20, first_steps=3, kept=(3, 2), patience=8)
KNOBS: dict[str, Any] = {"micro_batch": 6, "checkpointing": True}


@pytest.fixture
def parts_seen(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of images that have passed through nets with gradients, under a training's hands."""
    seen: set[int] = set()
    forward = Training._forward

    def noting(self: Training, images: torch.Tensor, share: float) -> object:
        if torch.is_grad_enabled():
            seen.add(len(images))
        return forward(self, images, share)

    monkeypatch.setattr(Training, "_forward", noting)
    return seen


def weights(run: conviction.Run) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in run.net.state_dict().values()])


def test_the_preflight_sees_the_same_net(small_data: Data, parts_seen: set[int]) -> None:
    net = conviction.build("vgg7-bn/8", 10, small_data.image)
    recipe, _ = decide(conviction.Recipe(batch_size=32), net, Circumstances(600, True, False, 28))
    images, labels = Feed(small_data, recipe).plain(32)
    told = []
    for changes in ({}, KNOBS, {"checkpointing": True}):
        found = preflight(net, images, labels, recipe.replace(**changes), 10)
        assert found.healthy and found.overfit is not None and found.update_ratio is not None, found.unseen
        told.append((found.first_loss, found.overfit))
    assert told[0] == told[2] and told[0][0] == told[1][0]
    assert parts_seen == {16, 5, 6}  # the preflight's batches are 16 images


def test_the_finder_works_in_parts(small_data: Data, parts_seen: set[int]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    around = Circumstances(600, True, False, 28)
    found = []
    for changes in ({}, KNOBS):
        recipe, _ = decide(conviction.Recipe(batch_size=12, epochs=1, **changes), net, around)
        events = sweep(net, recipe, Feed(small_data, recipe), Feed(small_data, recipe).plain(64), BUDGET)
        curve = [event for event in events if isinstance(event, Point)]
        found.append([point.probe_loss for point in curve][:10])
    assert parts_seen == {12, 6}
    assert found[1] == pytest.approx(found[0], rel=1e-3)  # before rounding has grown
    assert not [module for module in net.modules() if "forward" in vars(module)]


def test_a_run_in_parts_resumes_to_the_same_bits(small_data: Data, tmp_path: Path, parts_seen: set[int]) -> None:
    changes = {**KNOBS, "micro_batch": 30}
    recipe = conviction.Recipe(epochs=2, batch_size=64, lr=0.005, ema=0.9, preflight="off", **changes)
    whole = conviction.fit("lenet-bn", small_data, recipe, tmp_path / "whole")
    assert parts_seen == {21, 22}
    events = fit_events("lenet-bn", small_data, recipe, tmp_path / "cut")
    next(event for event in events if isinstance(event, Epoch))
    events.close()
    resumed = conviction.fit("lenet-bn", small_data, recipe, tmp_path / "cut", resume=True)
    assert (resumed.recipe.micro_batch, resumed.recipe.checkpointing) == (30, True)
    assert torch.equal(weights(whole), weights(resumed))
    assert [row.train_loss for row in whole.history] == [row.train_loss for row in resumed.history]
