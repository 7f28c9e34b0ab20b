"""What a recipe leaves open, decided for a net and its data; every decision comes with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from conviction.errors import UsageError
from conviction.recipe import Recipe
from conviction.text import printable


@dataclass(frozen=True)
class Circumstances:
    """What a decision depends on, beside the net itself."""

    train_images: int
    mirrors: bool
    cropped: bool
    side: int


def decide(recipe: Recipe, net: nn.Module, around: Circumstances) -> tuple[Recipe, tuple[str, ...]]:
    """Fill every open knob; returns the decided recipe and the decisions in words."""
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
    batch_size = recipe.batch_size or min(128, max(1, around.train_images // 4))
    device = find_device(recipe.device)
    decided = {
        "epochs": 10,
        "batch_size": batch_size,
        "optimizer": "adamw",
        "lr": _rate(recipe.optimizer or "adamw", normed, len(layers), min(batch_size, max(1, around.train_images))),
        "weight_decay": 0.05 if (recipe.optimizer or "adamw") == "adamw" else 5e-4,
        "schedule": "onecycle",
        "warmup_epochs": 0.0 if (recipe.schedule or "onecycle") == "onecycle" else 0.5,
        "clip_norm": 0.0 if normed else 1.0,
        "label_smoothing": 0.0,
        "flip": around.mirrors,
        "crop": "resized" if around.cropped else "shift" if around.mirrors else "none",
        "erase": 0.0,
        "ema": 0.0,
        "precision": _precision(device),
        "channels_last": device.type in ("cpu", "cuda"),
        "workers": 2,
        "image_size": around.side,
    }
    changes = {name: value for name, value in decided.items() if getattr(recipe, name) is None}
    filled = recipe.replace(**changes, **({} if recipe.device == str(device) else {"device": str(device)}))
    told = ("optimizer", "lr", "batch_size", "schedule", "precision")
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
    there = {"cpu": True, "cuda": torch.cuda.device_count() > (device.index or 0), "mps": _has_mps()}
    if not there.get(device.type, False):
        raise UsageError(f"device {printable(wanted)!r} is not on this machine", "--device", "use --device cpu")
    return device


def _rate(optimizer: str, normed: bool, depth: int, batch_size: int) -> float:
    """A rate that is safe for the kind of net: batch norm stands a larger one, depth without it a smaller one.

    AdamW's grows with the root of the batch size, SGD's in proportion to it.
    """
    if optimizer == "adamw":
        base = 3e-3 if normed else 1e-3 if depth <= 10 else 5e-4
        return float(f"{base * (batch_size / 128) ** 0.5:.3g}")
    base = 0.05 if normed else 0.02 if depth <= 10 else 0.01
    return float(f"{base * batch_size / 128:.3g}")


def _precision(device: torch.device) -> str:
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
