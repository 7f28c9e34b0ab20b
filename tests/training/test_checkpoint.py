"""Checkpoints: round trips to the bit, 3 + 2 epochs equal 5, and files that do not fit refused in one line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from conviction.errors import WeightsError
from conviction.recipe import Recipe
from conviction.training.checkpoint import load_state, load_training, read_tensors, save_tensors, save_training
from conviction.training.loop import Training

RECIPE = Recipe(epochs=5, optimizer="sgd", lr=0.05, weight_decay=1e-3, schedule="onecycle", warmup_epochs=0.0,
                device="cpu", precision="fp32", batch_size=4)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "sgd, no momentum": {"momentum": 0.0},
    "sgd with average": {"ema": 0.9},
    "adamw with average": {"optimizer": "adamw", "lr": 0.01, "ema": 0.99},
    "channels last": {"channels_last": True, "optimizer": "adamw"},
    "fp16": {"precision": "fp16"},
    "clipped": {"clip_norm": 0.5, "schedule": "cosine"},
    "in parts, recomputed": {"micro_batch": 3, "checkpointing": True},
}


def training(recipe: Recipe, seed: int = 0) -> Training:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(),
                        nn.Dropout(), nn.Linear(64, 3))  # fmt: skip
    layout = torch.channels_last if recipe.channels_last else torch.preserve_format
    return Training(net.to(memory_format=layout), recipe, 2)


def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(2):
        yield torch.randn(4, 2, 6, 6, generator=generator), torch.randint(3, (4,), generator=generator)


def everything(trained: Training) -> dict[str, Any]:
    """All that a training moves, by name."""
    told: dict[str, Any] = {f"net.{name}": tensor for name, tensor in trained.net.state_dict().items()}
    if trained.average is not None:
        told |= {f"average.{name}": tensor for name, tensor in trained.average.net.state_dict().items()}
        told["updates"] = trained.average.updates
    for index, slots in trained.optimizer.state_dict()["state"].items():
        told |= {f"{index}.{name}": value for name, value in slots.items()}
    return {**told, "groups": trained.optimizer.state_dict()["param_groups"], "scaler": trained.scaler.state_dict()}


def assert_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        same = torch.equal(value, right[name]) if isinstance(value, Tensor) else value == right[name]
        assert same, name
        if isinstance(value, Tensor):
            assert value.dtype == right[name].dtype, name


@pytest.mark.parametrize("kind", KINDS)
def test_three_epochs_and_two_are_five(kind: str, tmp_path: Path) -> None:
    recipe = RECIPE.replace(**KINDS[kind])
    whole = training(recipe)
    losses = [float(step.loss) for step in whole.run(batches)]
    first = training(recipe)
    list(itertools.islice(first.run(batches), 6))
    save_training(tmp_path / "last.safetensors", first, {"epochs": 3})
    list(itertools.islice(first.run(batches, first_epoch=3), 1))  # goes on after saving: the file must not follow
    second = training(recipe, seed=99)
    torch.rand(5)
    assert load_training(tmp_path / "last.safetensors", second)["epochs"] == 3
    later = [float(step.loss) for step in second.run(batches, first_epoch=3)]
    assert later == losses[6:]
    assert_equal(everything(second), everything(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_saving_changes_nothing_and_loading_gives_it_back(kind: str, tmp_path: Path) -> None:
    trained = training(RECIPE.replace(**KINDS[kind]))
    list(itertools.islice(trained.run(batches), 3))
    before = {
        name: value.clone() if isinstance(value, Tensor) else value for name, value in everything(trained).items()
    }
    save_training(tmp_path / "a", trained, {})
    assert_equal(everything(trained), before)
    fresh = training(RECIPE.replace(**KINDS[kind]), seed=1)
    load_training(tmp_path / "a", fresh)
    told = everything(fresh)
    told["groups"] = before["groups"]  # the rate of the last step is set anew at every step
    assert_equal(told, before)


def test_a_training_that_has_not_begun(tmp_path: Path) -> None:
    begun = training(RECIPE)
    save_training(tmp_path / "a", begun, {})
    fresh = training(RECIPE, seed=1)
    load_training(tmp_path / "a", fresh)
    list(fresh.run(batches))
    list(begun.run(batches))
    assert_equal(everything(fresh), everything(begun))


TENSORS = {
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
    "half": torch.randn(4).half(),
    "brain": torch.randn(4).bfloat16(),
    "count": torch.tensor(2**40),
    "flags": torch.tensor([True, False]),
    "odd": torch.tensor([math.nan, -math.inf, -0.0, 1e-45]),
    "turned": torch.randn(3, 4).T,
    "part": torch.randn(10)[2:5],
    "last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    "grad": torch.randn(2, requires_grad=True),
}


def test_tensors_and_facts_come_back_to_the_bit(tmp_path: Path) -> None:
    facts = {"history": [{"loss": 0.1 + 0.2, "valid_loss": math.inf}], "text": "grün\n", "none": None}
    path = save_tensors(tmp_path / "a.safetensors", TENSORS, facts)
    tensors, told = read_tensors(path)
    assert told == facts
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        same = tensors[name]
        assert (same.shape, same.dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(same.nan_to_num(7.0), tensor.nan_to_num(7.0)), name
    assert math.isnan(tensors["odd"][0])
    assert torch.signbit(tensors["odd"][2])


def test_nan_among_the_facts(tmp_path: Path) -> None:
    """A validation loss may leave the numbers while training goes on; saving must not fail then."""
    _, facts = read_tensors(save_tensors(tmp_path / "a", {}, {"valid_loss": math.nan}))
    assert math.isnan(facts["valid_loss"])


def test_tied_weights(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    first, second = tied(), tied()
    tensors, _ = read_tensors(save_tensors(tmp_path / "a", first.state_dict(), {}))
    load_state(second, tensors, tmp_path / "a")
    assert torch.equal(second[0].weight, first[0].weight)
    assert second[1].weight is second[0].weight


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = save_tensors(tmp_path / "a", {"x": torch.ones(2)}, {"epoch": 1})
    with pytest.raises(TypeError):
        save_tensors(path, {"x": torch.zeros(2)}, {"epoch": object()})
    tensors, facts = read_tensors(path)
    assert (tensors["x"].tolist(), facts) == ([1.0, 1.0], {"epoch": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def _foreign(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.ones(2)}, path)


def _headless(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.ones(2)}, path, metadata={"format": "conviction-1"})


def _garbled(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.ones(2)}, path, metadata={"format": "conviction-1", "facts": "{"})


def _pickled(path: Path) -> None:
    torch.save({"x": torch.ones(2)}, path)


def _torn(path: Path) -> None:
    save_tensors(path, {"x": torch.ones(200)}, {})
    path.write_bytes(path.read_bytes()[:-9])


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "the checkpoint is missing"),
    "empty": (Path.touch, "the checkpoint cannot be read"),
    "text": (lambda path: path.write_text("no weights at all\n" * 9), "the checkpoint cannot be read"),
    "folder": (Path.mkdir, "the checkpoint cannot be read"),
    "torn": (_torn, "the checkpoint cannot be read"),
    "pickle": (_pickled, "the checkpoint cannot be read"),
    "garbled facts": (_garbled, "the checkpoint cannot be read"),
    "no facts": (_headless, "the checkpoint cannot be read"),
    "another program's": (_foreign, "not a checkpoint of this program"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("torn_at", [None, 4])
def test_bad_files_are_refused_in_one_line(kind: str, torn_at: int | None, tmp_path: Path) -> None:
    make, message = BAD_FILES[kind]
    path = tmp_path / "a\x1b.safetensors"
    make(path)
    if torn_at is not None and path.is_file():
        path.write_bytes(path.read_bytes()[:torn_at])
        message = "the checkpoint cannot be read"
    with pytest.raises(WeightsError, match=message) as refusal:
        read_tensors(path)
    assert "a\\x1b.safetensors - give a run folder" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "\x1b" not in str(refusal.value)


@pytest.mark.parametrize("cut", range(0, 2000, 97))
def test_a_checkpoint_cut_anywhere_is_refused(cut: int, tmp_path: Path) -> None:
    path = save_training(tmp_path / "a", training(RECIPE), {})
    content = path.read_bytes()
    assert len(content) > 2000
    path.write_bytes(content[:cut])
    with pytest.raises(WeightsError):
        read_tensors(path)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), "they lack 1.weight, 1.bias"),
        (nn.Sequential(nn.Linear(3, 2, bias=False)), "they have no place for 0.bias"),
        (nn.Sequential(nn.Linear(4, 2)), "they differ in shape at 0.weight"),
        (nn.Sequential(*[nn.Linear(3, 2)] * 9), "they lack 1.weight, 1.bias, 2.weight, 2.bias, 3.weight and 11 more"),
    ],
)
def test_weights_of_another_net_are_refused_and_nothing_is_loaded(net: nn.Module, message: str) -> None:
    tensors = nn.Sequential(nn.Linear(3, 2)).state_dict()
    before = [tensor.clone() for tensor in net.state_dict().values()]
    with pytest.raises(WeightsError, match=message) as refusal:
        load_state(net, tensors, Path("best.safetensors"))
    assert "best.safetensors - load them into the net that they were trained with" in str(refusal.value)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before, strict=True))


@pytest.mark.parametrize(
    ("saved", "into"),
    [
        ({}, {"ema": 0.9}),
        ({"ema": 0.9}, {}),
        ({}, {"optimizer": "adamw"}),
        ({"optimizer": "adamw"}, {}),
        ({}, {"precision": "fp16"}),
    ],
    ids=str,
)
def test_a_training_of_another_recipe_is_refused(saved: dict[str, Any], into: dict[str, Any], tmp_path: Path) -> None:
    trained = training(RECIPE.replace(**saved))
    next(trained.run(batches))
    path = save_training(tmp_path / "last.safetensors", trained, {})
    other = training(RECIPE.replace(**into))
    before = everything(other)
    with pytest.raises(WeightsError, match="with another optimizer, precision or averaging") as refusal:
        load_training(path, other)
    assert f"{path} - go on with the recipe" in str(refusal.value)
    assert_equal(everything(other), before)


def test_weights_alone_are_no_training(tmp_path: Path) -> None:
    one = training(RECIPE)
    path = save_tensors(tmp_path / "best.safetensors", one.net.state_dict(), {})
    with pytest.raises(WeightsError, match="not the checkpoint of a training"):
        load_training(path, one)
