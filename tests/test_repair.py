"""Repair of a run: the recipe is mended for what was found, tried anew, and written beside the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import conviction
from conviction.data.records import Data
from conviction.diagnosis.records import Diagnosis
from conviction.findings.doctoring import TOPICS
from conviction.findings.records import Finding
from conviction.recipe import Recipe, read_recipe
from conviction.repair import MENDS, repair, write_recipe


def sick(cause: str) -> Diagnosis:
    return Diagnosis("x", (Finding(cause, "seen", "expected", "remedy"),), 1, 0.1)


def test_every_mended_cause_is_a_cause_and_every_change_a_knob() -> None:
    causes = {check.__name__.replace("_", "-") for _, checks in TOPICS for check in checks}
    assert set(MENDS) <= causes
    for changes in MENDS.values():
        for change in changes:
            Recipe(**{name: value for name, value in change.items() if value != "find"})


def test_an_absurd_rate_is_mended_and_the_recipe_written_once_for_each_time(
    small_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(lr=30.0, batch_size=32)
    found = conviction.diagnose("lenet-relu", small_data, recipe, seconds=20, fix=True)
    assert found.findings[0].cause.startswith("lr-") and found.fixed == "lenet-relu.fixed.toml"
    assert any("lr 30.0 -> decided anew" in note for note in found.notes)
    mended = read_recipe(Path(found.fixed))
    assert mended.lr is None and mended.batch_size == 32, "what was not at fault stays"
    assert not conviction.diagnose("lenet-relu", small_data, mended, seconds=20).findings
    before = Path(found.fixed).read_bytes()
    assert write_recipe(mended, Path("lenet-relu")) == Path("lenet-relu.fixed-2.toml")
    assert Path(found.fixed).read_bytes() == before


def test_what_no_knob_mends_is_left_and_said(small_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.01)
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = conviction.diagnose(net, small_data, Recipe(batch_size=32, lr=0.01), seconds=20, fix=True)
    assert found.findings[0].cause == "init-symmetric" and not found.fixed
    assert any("No change of the recipe" in note for note in found.notes) and not list(tmp_path.iterdir())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


def test_a_healthy_net_is_given_no_other_recipe(
    small_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = conviction.diagnose("lenet-relu", small_data, Recipe(batch_size=32), seconds=20, fix=True)
    assert not found.findings and not found.fixed and not list(tmp_path.iterdir())


def test_changes_are_tried_one_after_another_until_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [sick("lr-too-high"), Diagnosis("x", (), 60, 1.0)]
    asked: list[Recipe] = []

    def diagnose_net(net: str, data: str, recipe: Recipe, **_: object) -> Diagnosis:
        asked.append(recipe)
        return answers[len(asked) - 1]

    monkeypatch.setattr("conviction.repair.diagnose_net", diagnose_net)
    tried = repair("lenet", "fashion-mini", Recipe(lr=3.0, init="pytorch"), sick("init-collapse"), seconds=10)
    assert tried.mended and len(tried.notes) == 2
    assert [(recipe.init, recipe.lr) for recipe in asked] == [("auto", 3.0), ("auto", None)]
    assert tried.recipe.lr is None and tried.recipe.init == "auto"


def test_a_cause_that_stays_ends_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Recipe] = []

    def diagnose_net(net: str, data: str, recipe: Recipe, **_: object) -> Diagnosis:
        asked.append(recipe)
        return sick("clip-too-low")

    monkeypatch.setattr("conviction.repair.diagnose_net", diagnose_net)
    tried = repair("lenet", "fashion-mini", Recipe(clip_norm=1e-4), sick("clip-too-low"), seconds=10)
    assert not tried.mended and len(asked) == 1
