"""What a run ran on: versions, processor, device. Nothing that tells who or where the user is."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy
import torch

from conviction.recipe import Recipe
from conviction.version import __version__


def describe_environment(recipe: Recipe) -> dict[str, Any]:
    """Return versions and hardware as plain words and numbers."""
    device = torch.device(recipe.device or "cpu")
    return {
        "conviction": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
