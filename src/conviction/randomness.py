"""Random states: whoever looks at a net draws from them and puts them back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator

import numpy as np
import torch


@contextlib.contextmanager
def random_state_kept(device: torch.device) -> Generator[None]:
    """Put every random state that a forward may draw from back: Python's, NumPy's, torch's and the device's."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    backend = None if device.type == "cpu" else getattr(torch, device.type)
    where = (device,) if device.type == "cuda" else ()
    accelerator = None if backend is None else backend.get_rng_state(*where)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if backend is not None:
            backend.set_rng_state(accelerator, *where)
