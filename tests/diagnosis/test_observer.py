"""The observer leaves programs as they were: the same numbers to the bit, everything put back, whatever happens."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import programs_seen as programs
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import clip_grad
from torch.optim import lr_scheduler, optimizer
from torch.utils.data import DataLoader, dataloader

from conviction.diagnosis.observer import Enough, Observer
from conviction.diagnosis.seen import clock, passes
from conviction.diagnosis.seen.losses import LOSSES


def _seeded(program: Callable[[], Any]) -> tuple[Any, tuple[Any, ...]]:
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    result = program()
    return result, (random.random(), np.random.rand(), torch.rand(1).item())


BIT_FOR_BIT = {
    "quiet steps": lambda: programs.plain(200),
    "plain": programs.plain,
    "loaders, batch norm, dropout, noise": programs.loaded,
    "two workers, Adam": lambda: programs.loaded(workers=2, epochs=1, adam=True),
    "graphs kept": programs.keeping_graphs,
}


@pytest.mark.parametrize("name", BIT_FOR_BIT)
def test_numbers_are_the_same_to_the_bit(name: str) -> None:
    alone, after = _seeded(BIT_FOR_BIT[name])
    with Observer() as observer:
        seen, drawn = _seeded(BIT_FOR_BIT[name])
    assert torch.equal(*(torch.cat([torch.as_tensor(p).double().flatten() for p in _flat(r)]) for r in (alone, seen)))
    assert after == drawn
    before = torch.rand(1), torch.get_rng_state()
    assert observer.observation().steps >= 5
    assert torch.equal(before[1], torch.get_rng_state())  # the experiments afterwards draw nothing of the program's
    assert observer.troubles == ()


def _flat(result: Any) -> list[Any]:
    return [part for one in result for part in _flat(one)] if isinstance(result, (tuple, list)) else [result]


def _everything() -> dict[str, Any]:
    """All that the observer replaces, by where it is."""
    held = {f"F.{name}": getattr(F, name) for name in LOSSES}
    held |= {f"Module.{name}": vars(nn.Module)[name] for name in ("__init__", "load_state_dict", "zero_grad")}
    held["call"] = vars(nn.Module)["__call__"]
    held |= {f"autograd.{name}": vars(torch.autograd)[name] for name in ("backward", "grad")}
    held |= {f"Optimizer.{name}": vars(optimizer.Optimizer)[name] for name in ("__init__", "zero_grad")}
    held |= {f"loader.{name}": vars(DataLoader)[name] for name in ("__init__", "__iter__")}
    held["next"] = vars(dataloader._BaseDataLoaderIter)["__next__"]
    held |= {f"{name}.step": vars(kind)["step"] for name, kind in vars(lr_scheduler).items()
             if isinstance(kind, type) and "step" in vars(kind)}  # fmt: skip
    held |= {"clip": nn.utils.clip_grad_norm_, "clip's": clip_grad.clip_grad_norm_, "scale": torch.amp.GradScaler.scale}
    hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks,
             torch_module._global_forward_hooks_always_called, optimizer._global_optimizer_pre_hooks,
             optimizer._global_optimizer_post_hooks)  # fmt: skip
    held |= {f"hooks {number}": tuple(hook) for number, hook in enumerate(hooks)}
    return held | {"out": sys.stdout.__dict__.get("write"), "err": sys.stderr.__dict__.get("write")}


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit, Enough])
def test_everything_is_put_back(error: type[BaseException] | None) -> None:
    before = _everything()
    try:
        with Observer() as observer:
            changed = [name for name, value in _everything().items() if value is not before[name]]
            programs.plain(2)
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt, SystemExit) as caught:
        assert type(caught) is error
    after = _everything()
    assert all(after[name] is before[name] or after[name] == before[name] for name in before)
    assert len(changed) > 30
    hows = {None: "finished", ValueError: "error", KeyboardInterrupt: "killed", SystemExit: "exit", Enough: "budget"}
    assert observer.observation().ending.how == hows[error]


def test_functions_that_the_user_imported_by_name_are_seen_too() -> None:
    globals()["cross_entropy"] = original = F.cross_entropy
    with Observer(is_users=lambda file: file == __file__) as observer:
        assert globals()["cross_entropy"] is not original
        weights = torch.zeros(4, 3, requires_grad=True)
        globals()["cross_entropy"](weights, torch.zeros(4).long()).backward()
    assert globals().pop("cross_entropy") is original
    assert [loss.kind for loss in observer.observation().losses] == ["cross_entropy"]


def test_observers_nest() -> None:
    with Observer() as outer:
        programs.plain(3)
        with Observer() as inner:
            programs.plain(4)
        programs.plain(2)
    assert (inner.observation().steps, outer.observation().steps) == (4, 9)
    assert len(outer.observation().nets) == 3
    assert inner.captured is not None and len(inner.captured.batches) == 4


def test_an_observer_that_breaks_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = _seeded(programs.plain)
    with Observer() as observer:
        for name in ("enter_net", "note_loss", "begin_backward", "end_backward", "begin_step", "end_step"):
            monkeypatch.setattr(observer._events, name, _broken)
        seen, _ = _seeded(programs.plain)
    assert seen == alone
    assert any("out of order" in trouble for trouble in observer.troubles)
    assert observer.observation().steps == 0


def _broken(*arguments: Any) -> None:
    raise RuntimeError("out of order")


@pytest.mark.parametrize(("budget", "program"), [
    ({"steps": 5}, lambda: programs.plain(10**9)),
    ({"seconds": 0.2}, lambda: programs.plain(10**9)),
    ({"seconds": 0.2}, lambda: [programs.without_step() for _ in range(10**9)]),
    ({"steps": 4}, lambda: [programs.net_by_hand() for _ in range(10**9)]),
])  # fmt: skip
def test_budget_stops_a_program_for_ever(budget: dict[str, Any], program: Callable[[], Any]) -> None:
    with Observer(stop=True, **budget) as observer:
        program()
    seen = observer.observation()
    assert seen.ending.how == "budget"
    assert seen.steps == budget.get("steps", seen.steps)
    assert seen.seconds < 10


def test_without_stop_the_budget_ends_the_looking_only() -> None:
    with Observer(steps=5) as observer:
        assert len(programs.plain(12)) == 12
    assert observer.observation().steps == 5
    assert observer.observation().ending.how == "finished"


def test_what_the_user_replaces_meanwhile_stays_replaced() -> None:
    original = F.mse_loss
    with Observer():
        F.mse_loss = mine = lambda *args: original(*args)
    try:
        assert F.mse_loss is mine
    finally:
        F.mse_loss = original


def test_a_crash_is_told_with_its_line_and_layer() -> None:
    observer = Observer()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), observer:
        programs.breaking()
    ending = observer.observation().ending
    assert ending.how == "error" and ending.layer == "head"
    assert ending.error.startswith("RuntimeError: mat1 and mat2")
    assert ending.at is not None and "self.head(self.body(x))" in _line(ending.at)


def _line(place: Any) -> str:
    return Path(place.file).read_text().splitlines()[place.line - 1]


@pytest.mark.parametrize("backend", ["eager"])
def test_compiled_nets_train_as_they_do_alone(backend: str) -> None:
    def program() -> list[float]:
        x, y = programs.images()
        net = torch.compile(programs.Net(), backend=backend)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    alone, _ = _seeded(program)
    torch._dynamo.reset()
    with Observer() as observer:
        seen, _ = _seeded(program)
    torch._dynamo.reset()
    assert seen == alone
    assert [net.kind for net in observer.observation().nets] == ["Net"]
    assert observer.observation().nets[0].moved > 0


QUIET = {name: getattr(programs, name) for name in (
    "plain", "loaded", "with_older_net", "without_step", "without_zero_grad", "always_eval", "tested_in_train",
    "accumulating", "with_closure", "by_hand", "net_by_hand", "clipped_and_scheduled", "adversarial",
    "student_of_teacher", "forward_by_name", "with_dictionaries", "recurrent", "leaking", "fine_tuning",
)}  # fmt: skip


@pytest.mark.parametrize("name", QUIET)
def test_what_is_only_counted_is_counted_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps that are not noted nothing but counts is kept: they are those of a run in which all is noted."""
    told = []
    for share in (1000.0, 0.0):
        monkeypatch.setattr(clock, "_FIRST", 2)
        monkeypatch.setattr(clock, "_FREE_SECONDS", 0.0)
        monkeypatch.setattr(passes, "_LOOK_AT_TESTS", 2)
        torch.manual_seed(0)
        with Observer(share=share) as observer:
            QUIET[name]()
        told.append(observer.observation())
        assert observer.troubles == ()
    loud, quiet = told
    assert (quiet.steps, quiet.backwards) == (loud.steps, loud.backwards)
    assert [replace(net, moved=0) for net in quiet.nets] == [replace(net, moved=0) for net in loud.nets]
    assert [net.moved > 0 for net in quiet.nets] == [net.moved > 0 for net in loud.nets]
    assert [(o.steps, o.zero_grads, o.carried) for o in quiet.optimizers] == [
        (o.steps, o.zero_grads, o.carried) for o in loud.optimizers]  # fmt: skip
    assert {(o.kind, o.at) for o in quiet.losses} == {(o.kind, o.at) for o in loud.losses}
    if len(loud.losses) == 1 and loud.losses[0].calls == loud.backwards:
        assert quiet.losses[0].calls == loud.losses[0].calls
    assert [(o.batches, o.trains) for o in quiet.loaders if o.made_at] == [
        (o.batches, o.trains) for o in loud.loaders if o.made_at]  # fmt: skip
    by_hand = any(o.kind == "by hand" for o in loud.optimizers)
    assert len(quiet.measured) < len(loud.measured) or loud.steps <= 4 or by_hand


def test_quiet_steps_give_way_to_a_smaller_batch_and_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_FIRST", 1)
    monkeypatch.setattr(clock, "_FREE_SECONDS", 0.0)
    before = _everything()
    with Observer(share=0.0) as observer:
        net = programs.batch_norm_net()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        x, y = programs.images()
        for n in (16, 16, 16, 2, 16):
            optimizer.zero_grad()
            F.cross_entropy(net(x[:n]), y[:n]).backward()
            optimizer.step()
        assert observer._events.quiet and vars(nn.Module)["__call__"] is not before["call"]
        with Observer():
            assert not observer._events.quiet and vars(nn.Module)["__call__"] is before["call"]
    assert observer.observation().nets[0].smallest_statistics == 2 * 36
    after = _everything()
    assert all(after[name] is before[name] or after[name] == before[name] for name in before)
