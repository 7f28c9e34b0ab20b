"""Diagnoses of runs, of nets with their data and of one's own loop, and what each refuses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import conviction
from conviction.data.records import Data
from conviction.diagnosing import is_program
from conviction.errors import UsageError, WeightsError
from conviction.recipe import Recipe
from conviction.run_diagnosis import diagnose_run, observe_history, read_finding
from conviction.runs import Epoch, Run


def with_history(run: Run, *rows: tuple[float, float, float], **result: object) -> Run:
    """A run with another history: train loss, train top-1 and validation top-1 by epoch."""
    history = tuple(
        Epoch(number, 0.01, loss, right, loss, valid, 1.0, 480.0) for number, (loss, right, valid) in enumerate(rows, 1)
    )
    return dataclasses.replace(run, history=history, result=run.result | {"findings": [], "batch_size": 32} | result)


def test_a_run_that_learnt_is_healthy(finished: Run) -> None:
    rows = [(1.0, 0.6, 0.7), (0.6, 0.8, 0.78), (0.55, 0.81, 0.79), (0.54, 0.815, 0.79), (0.54, 0.816, 0.79)]
    seen = conviction.diagnose(with_history(finished, *rows))
    assert not seen.findings and seen.verdict == "healthy" and seen.steps == 5 * 15
    assert "79.00 % in epoch 3 of 5" in str(seen)


def test_what_a_run_wrote_down_is_told_again(finished: Run) -> None:
    told = {"seen": "a", "expected": "b", "try": "c", "confidence": None, "experiment": None}
    written = {"cause": "lr-too-high", "where": {"file": None, "line": None, "layer": "0"}, **told}
    seen = conviction.diagnose(with_history(finished, (1.0, 0.6, 0.7), (0.6, 0.8, 0.78), findings=[written]))
    assert seen.findings[0] == read_finding(written)
    assert seen.findings[0].to_dict() == written | {"confidence": 1.0}


def test_a_gap_is_a_note_and_no_finding(finished: Run) -> None:
    rows = [(0.5, 0.8, 0.7), (0.01, 0.999, 0.7), (0.01, 0.999, 0.7), (0.01, 0.999, 0.7)]
    assert "by heart: 99.90 % of them are right against 70.00 %" in str(
        diagnose_run(with_history(finished, *rows), seconds=9)
    )
    assert "by heart" not in str(diagnose_run(with_history(finished, (0.5, 0.8, 0.7)), seconds=9))


def test_a_run_that_never_learnt_is_tried_anew(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from conviction import run_diagnosis
    from conviction.diagnosis.records import Diagnosis

    guessing = with_history(finished, (2.3, 0.1, 0.1), (2.3, 0.1, 0.1))
    found = read_finding({"cause": "init-collapse", "seen": "a", "expected": "b", "try": "c"})
    asked: list[tuple[object, ...]] = []

    def diagnose_net(net: object, data: object, recipe: Recipe, **_: object) -> Diagnosis:
        asked.append((net, data, recipe))
        return Diagnosis("x", (found,), 60, 1.0)

    monkeypatch.setattr(run_diagnosis, "diagnose_net", diagnose_net)
    monkeypatch.setattr(run_diagnosis, "ask", lambda observation: ())
    from_python = diagnose_run(guessing, seconds=9)
    assert not asked and "diagnose(net, data) looks closer" in str(from_python)
    sources = dataclasses.replace(guessing.sources, net="lenet", data="fashion-mini")
    assert diagnose_run(dataclasses.replace(guessing, sources=sources), seconds=9).findings == (found,)
    assert asked == [("lenet", "fashion-mini", guessing.recipe)]
    diagnose_run(dataclasses.replace(with_history(finished, (1.0, 0.6, 0.6)), sources=sources), seconds=9)
    assert len(asked) == 1, "a run that learnt is left alone"


def test_history_is_one_step_an_epoch(finished: Run) -> None:
    seen = observe_history(with_history(finished, (2.0, 0.3, 0.4), (math.nan, 0.2, 0.1)))
    assert [row.index for row in seen.measured] == [14, 29] and seen.steps == 30
    assert seen.ending.how == "finished" and seen.measured[0].loss == 2.0


@pytest.fixture(scope="module")
def healthy_data(small_data: Data) -> Data:
    return small_data


def test_a_healthy_net_is_let_go_and_left_as_it_was(healthy_data: Data) -> None:
    net = conviction.build("lenet-bn/2", 10, healthy_data.image)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = conviction.diagnose(net, healthy_data, Recipe(batch_size=32, lr=0.01), seconds=30, steps=30)
    assert not seen.findings, str(seen)
    assert seen.steps == 30 and seen.curves.layers and "lenet-bn/2 on small" in seen.subject
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_sick_net_is_named(healthy_data: Data) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.01)
    seen = conviction.diagnose(net, healthy_data, Recipe(batch_size=32, lr=0.01), seconds=30)
    assert seen.findings[0].cause == "init-symmetric" and seen.verdict == "sick"


def make_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    labels = [torch.randint(0, 4, (32,), generator=generator) for _ in range(40)]
    return [(torch.randn(32, 1, 8, 8, generator=generator) + 2 * y[:, None, None, None], y) for y in labels]


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: bool = True) -> list[float]:
    losses = []
    for images, labels in make_batches():
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if steps:
            optimizer.step()
        losses.append(loss.item())
    return losses


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))


def test_watching_ones_own_loop() -> None:
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    with conviction.watch(net, optimizer, seconds=5) as seen:
        losses = train(net, optimizer)
    assert not seen.findings, str(seen)
    assert seen.diagnosis.steps == seen.observation.steps == 40
    plain = make_net()
    assert losses == train(plain, torch.optim.Adam(plain.parameters(), lr=1e-3)), "the numbers are what they were"


def test_watching_names_what_is_missing() -> None:
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    with conviction.watch(net, optimizer, seconds=0) as seen:
        train(net, optimizer, steps=False)
    assert [finding.cause for finding in seen.findings][:1] == ["step-missing"]


def test_watching_knows_an_optimizer_that_is_never_touched() -> None:
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    with conviction.watch(net, optimizer, seconds=0) as seen:
        for images, labels in make_batches():
            nn.functional.cross_entropy(net(images), labels).backward()
    assert [finding.cause for finding in seen.findings][:1] == ["step-missing"]


def test_watching_passes_errors_on() -> None:
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    with pytest.raises(ZeroDivisionError), conviction.watch(net, optimizer, seconds=0) as seen:
        train(net, optimizer)
        raise ZeroDivisionError("mine")
    assert seen.diagnosis.ending.error == "ZeroDivisionError: mine"


def test_what_cannot_be_diagnosed_is_refused(finished: Run, small_data: Data, tmp_path: Path) -> None:
    for kind, match, words in (
        (UsageError, "a net alone", (nn.Linear(1, 1),)),
        (UsageError, "give its data too", ("lenet",)),
        (UsageError, "own data", (finished, small_data)),
        (WeightsError, "no such run", (tmp_path / "nowhere",)),
        (WeightsError, "no run", (tmp_path,)),
        (UsageError, "cannot be read", (tmp_path / "nowhere.py",)),
    ):
        with pytest.raises(kind, match=match):
            conviction.diagnose(*words)
    for options in ({"seconds": 1.0}, {"seconds": math.nan}, {"steps": 0}, {"arguments": ["x"]}):
        with pytest.raises(UsageError, match=r" - (give|leave)"):
            conviction.diagnose(finished, **options)
    assert not conviction.diagnose(finished, fix=True).fixed, "a healthy run needs no other recipe"
    empty = dataclasses.replace(finished, history=())
    with pytest.raises(WeightsError, match="nothing was trained"):
        conviction.diagnose(empty)


def test_what_is_a_program(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("")
    (tmp_path / "odd.py").mkdir()
    for word, told in (("a.py", True), ("a.ipynb", True), (tmp_path / "train", True), (tmp_path / "odd.py", False),
                       (tmp_path, False), ("lenet", False), (nn.Linear(1, 1), False), ("x" * 400, False)):  # fmt: skip
        assert is_program(word) == told
