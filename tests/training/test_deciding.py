"""What a recipe leaves open is decided, all of it; what it gives is kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from conviction.errors import UsageError
from conviction.nets import names, sketch
from conviction.recipe import Recipe, format_toml, parse_toml
from conviction.training.deciding import Circumstances, decide, find_device
from conviction.training.recipes import RECIPES, find_recipe, kind_of

AROUND = Circumstances(train_images=1000, mirrors=True, cropped=False, side=28)
PLAIN = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
NORMED = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
SQUASHING = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(2, 2))
SQUASHING_NORMED = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sigmoid(), nn.Flatten(), nn.Linear(2, 2))
DEEP = nn.Sequential(*[nn.Conv2d(1, 1, 3) for _ in range(11)])
WIDE = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2048), nn.ReLU(), nn.Linear(2048, 2))

GIVEN: dict[str, Any] = {
    "epochs": 3, "batch_size": 7, "micro_batch": 3, "image_size": 64, "optimizer": "sgd", "lr": 0.123,
    "weight_decay": 0.01, "schedule": "linear", "warmup_epochs": 2.5, "clip_norm": 3.0, "label_smoothing": 0.2,
    "flip": False, "crop": "shift", "erase": 0.25, "ema": 0.99, "precision": "bf16", "channels_last": False,
    "device": "cpu", "workers": 5,
}  # fmt: skip
OPEN = [field.name for field in dataclasses.fields(Recipe) if field.default is None]


@pytest.mark.parametrize("net", [PLAIN, NORMED, SQUASHING, SQUASHING_NORMED, DEEP, WIDE])
@pytest.mark.parametrize("images", [1, 3, 600, 1_000_000])
def test_nothing_stays_open(net: nn.Module, images: int) -> None:
    for optimizer in (None, "sgd", "adamw"):
        around = dataclasses.replace(AROUND, train_images=images, mirrors=images > 3, cropped=images > 600)
        decided, notes = decide(Recipe(optimizer=optimizer), net, around)
        # A batch stays whole unless it does not fit: the plan of a fit knows.
        assert [name for name, value in decided.to_dict().items() if value is None] == ["micro_batch"]
        assert decided.lr is not None
        assert 0 < decided.lr <= 5
        assert Recipe(**parse_toml(format_toml(decided))) == decided
        assert len(notes) == 1
        assert f"lr {decided.lr}" in notes[0]


def test_a_net_of_ones_own_is_known_by_what_step_it_stands() -> None:
    nets = {"shallow": PLAIN, "normed": NORMED, "squashing": SQUASHING, "squashing, normed": SQUASHING_NORMED,
            "deep": DEEP, "wide": WIDE}  # fmt: skip
    assert {kind: kind_of(net) for kind, net in nets.items()} == {kind: kind for kind in nets}
    assert kind_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 5000))) == "shallow", "many classes are no wide layer"
    for ours, theirs in (("vgg16-bn", "wide"), ("alexnet", "wide"), ("resnet18", "normed"), ("vgg7-bn/4", "normed")):
        assert kind_of(sketch(ours, 10, (3, 64, 64))) == theirs, ours
    assert find_recipe(nn.Identity(), "vgg16-bn").adamw == find_recipe(WIDE).adamw


def test_every_open_knob_is_tried() -> None:
    assert sorted(GIVEN) == sorted(OPEN)


@pytest.mark.parametrize("name", OPEN)
def test_a_given_knob_is_kept(name: str) -> None:
    decided, notes = decide(Recipe(**{name: GIVEN[name]}), NORMED, AROUND)
    assert getattr(decided, name) == GIVEN[name]
    assert f" {name} " not in f" {notes[0]}"


@pytest.mark.parametrize(
    "name", ["flip", "clip_norm", "label_smoothing", "erase", "ema", "warmup_epochs", "lr", "workers"]
)
def test_zero_and_false_are_answers(name: str) -> None:
    off = False if name == "flip" else 0
    decided, _ = decide(Recipe(**{name: off}), PLAIN, AROUND)
    assert getattr(decided, name) == off


def test_a_decided_recipe_is_final() -> None:
    decided, _ = decide(Recipe(), PLAIN, AROUND)
    assert decide(decided, DEEP, Circumstances(5, False, True, 9)) == (decided, ())
    given, notes = decide(Recipe(**GIVEN), PLAIN, AROUND)
    assert (given, notes) == (Recipe(**GIVEN), ())


def test_decisions_follow_the_circumstances() -> None:
    assert decide(Recipe(), PLAIN, AROUND)[0].flip is True
    assert decide(Recipe(), PLAIN, dataclasses.replace(AROUND, mirrors=False))[0].flip is False
    assert decide(Recipe(epochs=12), PLAIN, AROUND)[0].crop == "shift"
    assert decide(Recipe(epochs=11), PLAIN, AROUND)[0].crop == "none", "too short to learn images by heart"
    assert decide(Recipe(), PLAIN, dataclasses.replace(AROUND, train_images=9_000))[0].crop == "shift"
    assert decide(Recipe(), PLAIN, dataclasses.replace(AROUND, train_images=54_000))[0].crop == "none"
    assert decide(Recipe(), PLAIN, dataclasses.replace(AROUND, mirrors=False))[0].crop == "none"
    assert decide(Recipe(), PLAIN, dataclasses.replace(AROUND, cropped=True))[0].crop == "resized"
    assert decide(Recipe(), PLAIN, AROUND)[0].image_size == 28
    assert decide(Recipe(), PLAIN, AROUND)[0].batch_size == 128
    assert decide(Recipe(), PLAIN, dataclasses.replace(AROUND, train_images=40))[0].batch_size == 10
    assert decide(Recipe(), PLAIN, dataclasses.replace(AROUND, train_images=5))[0].batch_size == 2  # batch norm needs 2
    loader = decide(Recipe(batch_size=64), PLAIN, dataclasses.replace(AROUND, batch_size=10))[0]
    assert loader.batch_size == 10, "a loader's own batch size settles it"
    assert loader.micro_batch is None
    again = decide(Recipe(**parse_toml(format_toml(loader))).replace(batch_size=256), PLAIN, AROUND)[0]
    assert (again.batch_size, again.micro_batch) == (256, None), "a recipe taken up again splits no larger batch"


def test_images_that_are_not_square_keep_their_shape() -> None:
    assert decide(Recipe(), PLAIN, dataclasses.replace(AROUND, side=None))[0].image_size is None


def test_fewer_images_are_seen_more_often() -> None:
    epochs = [decide(Recipe(), PLAIN, dataclasses.replace(AROUND, train_images=n))[0].epochs for n in (10, 9000, 10**6)]
    assert epochs == [40, 15, 10]


def test_rates_follow_the_net_and_the_batch() -> None:
    def rate(net: nn.Module, **given: Any) -> float:
        lr = decide(Recipe(**given), net, AROUND)[0].lr
        assert lr is not None
        return lr

    assert rate(SQUASHING_NORMED) > rate(SQUASHING) > rate(NORMED) > rate(PLAIN) > rate(DEEP)
    assert rate(nn.Sequential(*NORMED, nn.SiLU(), nn.Sigmoid())) == rate(NORMED), "beside rectifiers it is a gate"
    assert rate(PLAIN, batch_size=32) == pytest.approx(rate(PLAIN) / 2, rel=1e-2)
    assert rate(PLAIN, batch_size=32, optimizer="sgd") == pytest.approx(rate(PLAIN, optimizer="sgd") / 4, rel=1e-2)
    # A batch cannot be larger than the split, and the rate is that of the batch which is really made.
    assert rate(PLAIN, batch_size=1_000_000, optimizer="sgd") == rate(PLAIN, batch_size=1000, optimizer="sgd")


def test_weight_decay_and_warmup_follow_the_optimizer_and_the_schedule() -> None:
    sgd, adamw = (decide(Recipe(optimizer=name), PLAIN, AROUND)[0] for name in ("sgd", "adamw"))
    assert (sgd.weight_decay, adamw.weight_decay) == (5e-4, 0.05)
    assert (sgd.schedule, sgd.warmup_epochs) == ("onecycle", 0.0)
    assert decide(Recipe(schedule="cosine"), PLAIN, AROUND)[0].warmup_epochs == 0.5


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device(None) == find_device("auto")
    for unknown in ("gpu", "cuda:x", "", "cpu cpu", "\x1b[31m", "cuda:-1"):
        with pytest.raises(UsageError, match="unknown device") as refusal:
            find_device(unknown)
        assert "use cpu, cuda, cuda:1 or mps" in str(refusal.value)
        assert "\x1b" not in str(refusal.value)
    for absent in ("cuda:99", "meta", "xpu"):
        with pytest.raises(UsageError, match=f"device '{absent}' is not on this machine, --device - use"):
            find_device(absent)


def test_an_accelerator_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for capability, precision in (((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        decided, _ = decide(Recipe(), PLAIN, AROUND)
        assert (decided.device, decided.precision, decided.channels_last) == ("cuda", precision, True)
    assert find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="cuda:2"):
        find_device("cuda:2")
    assert decide(Recipe(device="cpu"), PLAIN, AROUND)[0].precision == "fp32"


def test_every_net_has_a_row_of_its_own_and_every_row_is_used() -> None:
    used = {find_recipe(PLAIN, name).nets for name in names()}
    assert "" not in used, "a net falls through to the kinds"
    assert used == {row.nets for row in RECIPES}
    assert find_recipe(PLAIN, "vgg11/4") is find_recipe(NORMED, "vgg11")
    assert find_recipe(PLAIN, "vgg11-bn/4") is not find_recipe(PLAIN, "vgg11")


def test_label_smoothing_is_that_of_the_inception_paper_where_it_helps() -> None:
    smoothed = {name for name in names() if find_recipe(PLAIN, name).label_smoothing}
    assert smoothed == {name for name in names() if name.startswith(("inception-v", "inception-resnet", "resnet9"))}
    assert decide(Recipe(), PLAIN, AROUND, "inception-v3")[0].label_smoothing == 0.1
