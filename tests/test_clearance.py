"""Clearance: a fit that cannot work is stopped before it begins; what another start mends is mended and said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import conviction
from conviction.assembly import assemble
from conviction.clearance import clear
from conviction.cli import run as command
from conviction.data.records import Data
from conviction.errors import DivergedError
from conviction.nets import init
from conviction.recipe import Recipe

SICK = {"optimizer": "sgd", "lr": 0.02, "batch_size": 32}


def test_a_healthy_net_is_cleared_with_its_figures(small_data: Data) -> None:
    made = clear(assemble("lenet-bn", small_data, Recipe(batch_size=32)))
    assert made.findings == ()
    assert "preflight: healthy; first loss 2.30" in made.notes[-1]


def test_a_collapsed_start_stops_the_fit_before_anything_is_written(small_data: Data, tmp_path: Path) -> None:
    recipe = Recipe(init="pytorch", epochs=1, **SICK)
    with pytest.raises(DivergedError, match=r"preflight: init-collapse: .* - .*--set preflight=warn") as caught:
        conviction.fit("nin-small/8", small_data, recipe, tmp_path / "run")
    assert caught.value.exit_code == 6
    assert not (tmp_path / "run").exists()


def test_the_command_exits_6_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["fit", "nin-small/8", "fashion-mini", "--set", "init=pytorch", "--optimizer", "sgd", "--lr", "0.002"]
    assert command([*words, "--out", str(tmp_path / "run")]) == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: preflight: init-collapse: ")


def test_told_to_warn_it_goes_on_and_keeps_the_finding(small_data: Data, tmp_path: Path) -> None:
    recipe = Recipe(init="pytorch", epochs=1, preflight="warn", **SICK)
    run = conviction.fit("nin-small/8", small_data, recipe, tmp_path / "run")
    assert run.finished
    assert run.result["findings"][0]["cause"] == "init-collapse"
    assert set(run.result["findings"][0]) == {"cause", "where", "seen", "expected", "try", "confidence", "experiment"}
    assert any(note.startswith("preflight: init-collapse") for note in run.notes)
    assert "init-collapse" in (tmp_path / "run" / "report.html").read_text()


def test_off_measures_nothing(small_data: Data) -> None:
    made = assemble("nin-small/8", small_data, Recipe(init="pytorch", preflight="off", **SICK))
    assert clear(made) is made


def test_lsuv_takes_the_place_of_an_automatic_start_that_fails(
    small_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A start as PyTorch has it stands for one of ours that fails on some data.
    monkeypatch.setattr("conviction.nets.init._kaiming", lambda weight: nn.init.normal_(weight, std=1e-3))
    monkeypatch.setattr(init, "_FOR_ACTIVATION", {})
    monkeypatch.setattr(init, "_LOGITS_GAIN", 1e-3)
    made = clear(assemble("nin-small/8", small_data, Recipe(preflight="stop", **SICK)))
    assert any("start by LSUV instead" in note for note in made.notes)
    assert made.findings == ()


def test_weights_of_the_users_own_are_never_replaced(small_data: Data) -> None:
    torch.manual_seed(0)
    own = conviction.build("nin-small/8", small_data.num_classes, small_data.image, init="pytorch")
    before = [parameter.clone() for parameter in own.parameters()]
    with pytest.raises(DivergedError, match="init-collapse"):
        clear(assemble(own, small_data, Recipe(**SICK)))
    assert all(torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))


def test_labels_of_one_class_stop_the_fit(small_data: Data) -> None:
    from dataclasses import replace

    assert small_data.train.labels is not None
    alike = replace(small_data, train=replace(small_data.train, labels=torch.zeros_like(small_data.train.labels)))
    with pytest.raises(DivergedError, match="labels-malformed"):
        clear(assemble("lenet-bn", alike, Recipe(batch_size=32)))


def test_the_preflight_does_not_change_the_training(small_data: Data, tmp_path: Path) -> None:
    histories = []
    for mode in ("stop", "off"):
        recipe = Recipe(epochs=1, batch_size=32, preflight=mode)
        rows = conviction.fit("lenet-relu", small_data, recipe, tmp_path / mode).history
        histories.append([(row.train_loss, row.valid_loss, row.valid_top1) for row in rows])
    assert histories[0] == histories[1]
