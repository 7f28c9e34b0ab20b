"""A fit's plan: settled before it, in micro-batches where memory is short, and held against what was measured."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import conviction
from conviction import fit_cost
from conviction.assembly import Assembly, assemble
from conviction.data.records import Data
from conviction.errors import ResourceError
from conviction.fit_cost import settle_cost
from conviction.fitting import Note, fit_events
from conviction.planning.devices import find_device
from conviction.planning.layers import layer_table, total
from conviction.planning.planner import make_plan
from conviction.recipe import Recipe, read_recipe
from conviction.runs import Epoch
from conviction.text import format_bytes
from conviction.training.loop import Step

MIB = 1 << 20


@pytest.fixture
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What this processor has free, to be set."""
    free = [8 << 30]
    cpu = find_device("cpu")
    monkeypatch.setattr(fit_cost, "find_device", lambda word: dataclasses.replace(cpu, free_bytes=free[0]))
    return free


def assembled(data: Data, net: Any = "vgg7-bn/4", **knobs: Any) -> Assembly:
    return assemble(net, data, Recipe(device="cpu", **knobs))


def test_a_batch_that_fits_stays_whole_and_is_told(small_data: Data, free_bytes: list[int]) -> None:
    made = assembled(small_data)
    settled, planned = settle_cost(made)
    assert planned is not None and settled.recipe == made.recipe and settled.recipe.micro_batch is None
    (note,) = settled.notes[len(made.notes) :]
    device = planned.plan.device
    peak, whole = format_bytes(planned.plan.train_peak_bytes.expected), format_bytes(device.memory_bytes)
    assert note == f"planned: {peak} of memory, of {whole} ({device.name})", "without what is free: runs are repeated"
    epochs = planned.plan.time.epoch_steps
    assert epochs is not None and 480 / 120 < epochs < 2 * 480 / 120


def test_the_largest_micro_batch_that_fits_is_settled(small_data: Data, free_bytes: list[int]) -> None:
    made = assembled(small_data, "vgg7-bn/2", batch_size=400)
    free_bytes[0] = 150 * MIB
    settled, planned = settle_cost(made)
    micro = settled.recipe.micro_batch
    assert planned is not None and micro is not None and 1 < micro < 400
    assert settled.recipe == made.recipe.replace(micro_batch=micro)
    assert any(note.startswith(f"decided: micro_batch {micro}: 400 images") for note in settled.notes)
    setting = dataclasses.replace(planned.plan.setting, parts=planned.plan.setting.parts - 1)  # one part fewer
    process_bytes = 350 * MIB  # which it holds already
    card = dataclasses.replace(find_device("cpu"), free_bytes=free_bytes[0] + process_bytes)
    more = make_plan(lambda image: made.net, small_data.image, 400, setting, card, evaluated=256)
    assert more.device.fits != planned.plan.device.fits == "likely"
    again, _ = settle_cost(dataclasses.replace(made, recipe=settled.recipe))
    assert again.recipe == settled.recipe, "what was settled stands"


def test_a_run_on_little_memory_is_split_resolved_in_its_recipe_and_goes_on_so(
    small_data: Data, free_bytes: list[int], tmp_path: Path
) -> None:
    recipe = Recipe(epochs=2, batch_size=240, device="cpu", preflight="off")
    free_bytes[0] = 110 * MIB
    events = fit_events("vgg7-bn/2", small_data, recipe, tmp_path / "run")
    next(event for event in events if isinstance(event, Epoch))
    events.close()
    micro = read_recipe(tmp_path / "run" / "recipe.toml").micro_batch
    assert micro is not None and micro < 240
    free_bytes[0] = 8 << 30
    run = conviction.fit("vgg7-bn/2", small_data, recipe, tmp_path / "run", resume=True)
    assert run.recipe.micro_batch == micro == run.result["planned"]["micro_batch"]
    assert sum(note.startswith("planned") for note in run.notes) == 1


def test_what_does_not_fit_at_all_is_refused_in_one_line_with_a_remedy(small_data: Data, free_bytes: list[int]) -> None:
    free_bytes[0] = 9 * MIB  # less than what comes with the first image
    with pytest.raises(ResourceError, match=r"even with one image at a time, and 9\.0 MiB are free") as caught:
        settle_cost(assembled(small_data, "vgg7-bn/2", batch_size=400))
    assert "\n" not in str(caught.value) and caught.value.remedy and caught.value.exit_code == 5


class Fickle(nn.Sequential):
    """A net whose forward asks for numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) > 0 else x + 1)


def test_a_net_that_cannot_be_traced_trains_all_the_same_and_says_so_once(small_data: Data, tmp_path: Path) -> None:
    net = Fickle(nn.Flatten(), nn.Linear(784, 10))
    recipe = Recipe(epochs=1, device="cpu", preflight="off")
    told, events = [], fit_events(net, small_data, recipe, tmp_path / "run")
    try:
        while True:
            told.append(next(events))
    except StopIteration as stop:
        run = stop.value
    notes = [event.text for event in told if isinstance(event, Note) and "no plan" in event.text]
    assert len(notes) == 1 and "without numbers" in notes[0] and any(isinstance(event, Step) for event in told)
    assert run.result["planned"] is None and run.result["measured"]["params"] == 7850
    assert "This run had no plan" in (run.folder / "report.html").read_text()


def test_recomputing_nothing_is_said(small_data: Data) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    for knobs, told in (({"checkpointing": True}, True), ({}, False)):
        made, _ = settle_cost(assembled(small_data, net, **knobs))
        assert any("checkpointing changes nothing" in note for note in made.notes) == told
        plan = conviction.plan(net, small_data.image, Recipe(**knobs), device="t4")
        assert any("checkpointing changes nothing" in note for note in plan.notes) == told
    made, _ = settle_cost(assembled(small_data, checkpointing=True))
    assert not any("checkpointing" in note for note in made.notes)


def test_planned_and_measured_are_in_the_results(finished: conviction.Run, small_data: Data) -> None:
    planned, measured = finished.result["planned"], finished.result["measured"]
    json.dumps(finished.result, allow_nan=False)
    whole = total(layer_table(finished.net, small_data.image, 2))
    assert planned["params"] == measured["params"] == whole.params
    assert planned["macs"] == measured["macs"] == whole.macs
    assert measured["seconds"] == pytest.approx(finished.result["seconds"], abs=0.01)
    steps = 14 * len(finished.history)
    assert measured["seconds_per_step"] == pytest.approx(sum(row.seconds for row in finished.history) / steps)
    assert 0 < planned["seconds_per_step"] < planned["seconds_per_epoch"] < planned["seconds"]
    assert 0.1 < planned["seconds"] / measured["seconds"] < 10
    assert planned["train_peak_bytes"]["low"] > 0 and planned["fits"] == "yes" and planned["planning_seconds"] < 30
    recipe = tomllib.loads((finished.folder / "recipe.toml").read_text())
    assert "micro_batch" not in recipe, "a whole batch is no limit for whoever takes the recipe up again"
    report = (finished.folder / "report.html").read_text()
    assert "What it cost: planned against measured" in report and "memory over one training step" in report
