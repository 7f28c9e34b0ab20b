"""Recalled answers: the same as worked out anew, and only where nothing of the arguments comes back."""

import pytest
import torch
from torch import Tensor

from conviction.nets import sketch
from conviction.planning import recalling, watching
from conviction.planning.recalling import answer
from conviction.planning.step_trace import Setting, trace_step

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> dict[object, object]:
    kept: dict[object, object] = {}
    monkeypatch.setattr(recalling, "_kept", kept)
    return kept


def ghost(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("name", ["densenet-book/2", "googlenet-small/2", "resnet18/4", "inception-bn/4"])
@pytest.mark.parametrize("setting", [Setting(), Setting(precision="bf16", channels_last=True)])
def test_a_trace_is_the_same_event_by_event(name: str, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    image = (3, 64, 64)
    net = sketch(name, 10, image)
    first, again = trace_step(net, image, 2, setting), trace_step(net, image, 2, setting)
    monkeypatch.setattr(watching, "answer", lambda func, args, kwargs: func(*args, **kwargs))
    plain = trace_step(net, image, 2, setting)
    for told in (first, again):
        assert told.events == plain.events
        assert told.slots == plain.slots
        assert told.work == plain.work
        assert told.layers == plain.layers


def test_an_answer_is_made_anew_each_time_and_of_the_same_form(nothing_kept: dict[object, object]) -> None:
    images = ghost(2, 3, 4, 4).to(memory_format=torch.channels_last)
    one, two = (answer(aten.relu.default, (images,), {}) for _ in range(2))
    assert len(nothing_kept) == 1
    assert one is not two and one.untyped_storage()._cdata != two.untyped_storage()._cdata
    assert (one.shape, one.stride(), one.dtype) == (two.shape, two.stride(), two.dtype) == (
        images.shape, images.stride(), images.dtype)  # fmt: skip


def test_what_comes_back_as_it_is_is_passed_on() -> None:
    images = ghost(2, 3)
    for _ in range(2):
        assert answer(aten.contiguous.default, (images,), {}) is images
        assert answer(aten.view.default, (images, [6]), {}).untyped_storage()._cdata == images.untyped_storage()._cdata
        assert answer(aten.add_.Tensor, (images, images), {}) is images


def test_values_that_are_equal_are_not_the_same() -> None:
    images = ghost(2, 3, dtype=torch.int64)
    assert answer(aten.mul.Scalar, (images, 1), {}).dtype == torch.int64
    assert answer(aten.mul.Scalar, (images, 1.0), {}).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert answer(aten.mul.Scalar, (images, 1.0), {}).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert answer(aten.sum.dim_IntList, (images, [0], False), {}).shape == (3,)
    assert answer(aten.sum.dim_IntList, (images, [0], True), {}).shape == (1, 3)


def test_numbers_are_computed(nothing_kept: dict[object, object]) -> None:
    assert answer(aten.relu.default, (torch.tensor([-1.0, 2.0]),), {}).tolist() == [0, 2]
    assert answer(aten.relu.default, (torch.tensor([3.0, -2.0]),), {}).tolist() == [3, 0]
    assert not nothing_kept


def test_what_is_kept_has_an_end(monkeypatch: pytest.MonkeyPatch, nothing_kept: dict[object, object]) -> None:
    monkeypatch.setattr(recalling, "_MOST", 3)
    for size in range(1, 9):
        assert answer(aten.relu.default, (ghost(size),), {}).shape == (size,)
        assert len(nothing_kept) <= 3
