"""What a recipe leaves open, decided for a net and its data; every decision comes with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from conviction.errors import UsageError
from conviction.recipe import Recipe
from conviction.text import printable
from conviction.training.recipes import NetRecipe, find_recipe

# In fewer epochs a net sees each image too seldom to learn it by heart, and shifted images only take longer to learn:
# ten epochs of Fashion-MNIST gain up to a point of validation accuracy without (benchmarks/recipe_grid.py).
_SHIFTING_EPOCHS = 12


@dataclass(frozen=True)
class Circumstances:
    """What a decision depends on, beside the net itself. `side` is None where the images are not square.

    `batch_size` is that of a loader of the user's own, which settles it.
    """

    train_images: int
    mirrors: bool
    cropped: bool
    side: int | None
    batch_size: int | None = None


def decide(
    recipe: Recipe, net: nn.Module, around: Circumstances, name: str | None = None
) -> tuple[Recipe, tuple[str, ...]]:
    """Fill every open knob, for a net that `build` knows by `name` from its recipe; returns the decisions in words.

    But for `micro_batch`, which is left open where batches stay whole: written down, it would split the larger batches
    of whoever takes the recipe up again. Where they do not fit, the plan of a fit settles it.
    """
    row = find_recipe(net, name)
    batch_size = around.batch_size or recipe.batch_size or min(128, max(2, around.train_images // 4))
    device = find_device(recipe.device)
    epochs = _epochs(around.train_images) if recipe.epochs is None else recipe.epochs
    shifts = around.mirrors and epochs >= _SHIFTING_EPOCHS
    decided = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": "adamw",
        "lr": _rate(recipe.optimizer or "adamw", row, min(batch_size, max(1, around.train_images))),
        "weight_decay": 0.05 if (recipe.optimizer or "adamw") == "adamw" else 5e-4,
        "schedule": "onecycle",
        "warmup_epochs": 0.0 if (recipe.schedule or "onecycle") == "onecycle" else 0.5,
        "clip_norm": row.clip_norm,
        "label_smoothing": row.label_smoothing,
        "flip": around.mirrors,
        "crop": "resized" if around.cropped else "shift" if shifts else "none",
        "erase": 0.0,
        "ema": 0.0,
        "precision": _precision(device),
        "channels_last": device.type in ("cpu", "cuda"),
        "workers": 2,
        "image_size": around.side,
    }
    changes = {name: value for name, value in decided.items() if getattr(recipe, name) is None}
    if around.batch_size is not None:
        changes["batch_size"] = around.batch_size
    filled = recipe.replace(**changes, **({} if recipe.device == str(device) else {"device": str(device)}))
    told = ("epochs", "optimizer", "lr", "batch_size", "schedule", "precision")
    note = ", ".join(f"{name} {getattr(filled, name)}" for name in told if name in changes)
    return filled, (f"decided: {note}",) if note else ()


def find_device(wanted: str | None) -> torch.device:
    """Return the device of that name, by default the accelerator where there is one, else the CPU."""
    if wanted in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    try:
        device = torch.device(str(wanted))
    except RuntimeError as error:
        raise UsageError(f"unknown device {printable(wanted)!r}", "--device", "use cpu, cuda, cuda:1 or mps") from error
    number = device.index or 0  # a large one wraps below zero
    there = {"cpu": True, "cuda": 0 <= number < torch.cuda.device_count(), "mps": _has_mps()}
    if not there.get(device.type, False):
        raise UsageError(f"device {printable(wanted)!r} is not on this machine", "--device", "use --device cpu")
    return device


def _rate(optimizer: str, row: NetRecipe, batch_size: int) -> float:
    """AdamW's rate grows with the root of the batch size, SGD's in proportion to it."""
    share = batch_size / 128
    return float(f"{row.adamw * share**0.5 if optimizer == 'adamw' else row.sgd * share:.3g}")


def _epochs(train_images: int) -> int:
    """10 epochs of 50,000 images; fewer images are seen more often, though not as often as would make up for it."""
    return round(min(40, max(10, 10 * (50_000 / max(1, train_images)) ** 0.25)))


def _precision(device: torch.device) -> str:
    if device.type != "cuda":
        return "fp32"
    return low_precision(torch.cuda.get_device_capability(device))


def low_precision(compute_capability: tuple[int, int]) -> str:
    """Return the number format for a CUDA card: bf16 from Ampere on; older cards only imitate it."""
    return "bf16" if compute_capability >= (8, 0) else "fp16"


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
