"""Clearance: a fit that cannot work is stopped before it begins; what another start mends is mended and said."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
    with monkeypatch.context() as patch:  # stands for a start of ours that fails on some data
        patch.setattr(init, "_FOR_ACTIVATION", {nn.ReLU: lambda weight: nn.init.normal_(weight, std=1e-3)})
        made = clear(assemble("nin-small/8", small_data, Recipe(preflight="stop", **SICK)))
    assert any("start by LSUV instead" in note for note in made.notes)
    assert made.findings == () and made.preflight is not None
    assert made.preflight["first_loss"] == pytest.approx(math.log(10), abs=0.1), "the logits start small"
    # The recipe tells the truth: by it alone the net starts the same, to the bit.
    assert made.recipe.init == "lsuv"
    again = assemble("nin-small/8", small_data, made.recipe)
    assert all(torch.equal(a, b) for a, b in zip(made.net.parameters(), again.net.parameters(), strict=True))


def test_weights_of_the_users_own_are_never_replaced(small_data: Data) -> None:
    torch.manual_seed(0)
    own = conviction.build("nin-small/8", small_data.num_classes, small_data.image, init="pytorch")
    before = [parameter.clone() for parameter in own.parameters()]
    with pytest.raises(DivergedError, match="init-collapse"):
        clear(assemble(own, small_data, Recipe(**SICK)))
    assert all(torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))


def test_labels_of_one_class_stop_the_fit(small_data: Data) -> None:
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


class Own(nn.Module):
    """A net of the user's own, with what keeps others from looking into it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(784, 32)), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


class Shy(Own):
    """A net whose forward does not stand a dispatcher above it, as some compiled ones do."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise NotImplementedError("not while\nsomebody looks")
        return super().forward(x)


class Greedy(Own):
    """A net for which there is no room while gradients are kept of more than two images."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB and much more")
        return super().forward(x)


def test_a_net_that_cannot_be_looked_into_trains_all_the_same(small_data: Data, tmp_path: Path) -> None:
    run = conviction.fit(Shy(), small_data, Recipe(epochs=1, batch_size=32), tmp_path / "run")
    assert run.finished
    assert "preflight: cannot look into this net: not while somebody looks" in run.notes
    assert run.result["findings"] == []
    assert run.result["preflight"]["unseen"] == "not while somebody looks"
    assert not run.result["preflight"]["healthy"]


def test_lack_of_memory_in_the_preflight_is_a_note(small_data: Data) -> None:
    made = clear(assemble(Greedy(), small_data, Recipe(batch_size=32)))
    assert made.notes[-1] == "preflight: cannot look into this net: out of memory"


@pytest.mark.parametrize("knobs", [{"batch_size": 2}, {"batch_size": 4, "precision": "bf16"}])
def test_the_preflight_takes_no_more_memory_than_training(small_data: Data, knobs: dict[str, Any]) -> None:
    made = clear(assemble(Greedy(), small_data, Recipe(**knobs)))
    assert made.notes[-1].startswith("preflight: healthy"), "2 images in fp32 are as large as 4 in bf16"


def test_a_scripted_net_is_looked_into_and_trains(small_data: Data, tmp_path: Path) -> None:
    run = conviction.fit(torch.jit.script(Own()), small_data, Recipe(epochs=1, batch_size=32), tmp_path / "run")
    assert run.finished and run.result["preflight"]["healthy"]


def test_labels_of_one_class_stop_a_net_that_cannot_be_looked_into(small_data: Data) -> None:
    assert small_data.train.labels is not None
    alike = replace(small_data, train=replace(small_data.train, labels=torch.zeros_like(small_data.train.labels)))
    with pytest.raises(DivergedError, match="labels-malformed"):
        clear(assemble(Shy(), alike, Recipe(batch_size=32)))


def test_a_refused_net_stays_where_it_was(small_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    own = conviction.build("nin-small/8", small_data.num_classes, small_data.image, init="pytorch")
    moved: list[nn.Module] = []
    whole = nn.Module.to

    def to(self: nn.Module, *where: Any, **how: Any) -> nn.Module:
        moved.append(self)
        return whole(self, *where, **how)

    monkeypatch.setattr(nn.Module, "to", to)
    with pytest.raises(DivergedError, match="init-collapse"):
        clear(assemble(own, small_data, Recipe(**SICK)))
    assert moved and all(net is not own for net in moved)


def test_what_was_measured_stands_in_the_result(finished: conviction.Run) -> None:
    told = json.loads(json.dumps(finished.result["preflight"], allow_nan=False))
    assert told["healthy"] and told["unseen"] is None
    assert told["first_loss"] == pytest.approx(told["expected_loss"], abs=0.1)
    assert told["overfit"]["loss_end"] < told["overfit"]["loss_start"]
    assert "layers" not in told and "findings" not in told
