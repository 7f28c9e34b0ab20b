"""What a run takes while it runs: peak memory, the seconds of its first steps, and the MACs of a real forward."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conviction.heap import give_back_freed_memory
from conviction.probe import left_as_it_was
from conviction.training.loop import Step

# The first steps are timed for so long, or so many of them.
_SECONDS, _STEPS = 1.0, 50
_PROCESS = Path("/proc/self")


class MemoryGauge:
    """Tells the most memory that a run holds from `start` on, its net included.

    On CUDA that is what PyTorch's allocator gave out. On a processor it is the net's own tensors and by how much the
    process's resident memory grew from when the gauge was made: an upper bound of what the tensors need, as it has
    batches under way and what the C library keeps in it. Only Linux tells it. Starting resets the peak that the device
    or the process keeps.
    """

    def __init__(self, device: torch.device, net: nn.Module) -> None:
        self.device = device
        own = sum(tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *net.buffers()))
        on_device = any(parameter.device.type == device.type for parameter in net.parameters())
        if not self._on_card:
            give_back_freed_memory()  # what an earlier room left free would be used without being seen
        before = torch.cuda.memory_allocated(device) if self._on_card else resident_bytes()
        self.before_bytes = before and before - (own if on_device else 0)

    @property
    def _on_card(self) -> bool:
        return self.device.type == "cuda"

    @property
    def measures(self) -> str:
        """What the peak is one of."""
        return "PyTorch's allocator" if self._on_card else "the process's resident memory"

    def start(self) -> None:
        """Begin to look for the peak."""
        if self._on_card:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):  # 5 resets the peak of the resident memory (proc_pid_clear_refs(5))
                (_PROCESS / "clear_refs").write_text("5")

    @property
    def peak_bytes(self) -> int | None:
        """The most that was held; None where it cannot be seen."""
        highest = torch.cuda.max_memory_allocated(self.device) if self._on_card else resident_bytes("VmHWM")
        unseen = highest is None or self.before_bytes is None or self.device.type not in ("cpu", "cuda")
        return None if unseen else highest - self.before_bytes

    @property
    def reserved_bytes(self) -> int | None:
        """The most that PyTorch's allocator took from the card, all of it; None elsewhere."""
        return torch.cuda.max_memory_reserved(self.device) if self._on_card else None


class FirstSteps:
    """Tells how long a step takes, from the first second of steps but the very first, which is slower."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.count, self.since = 0, time.perf_counter()
        self.seconds_per_step: float | None = None

    def see(self, step: Step) -> bool:
        """Take note of a step; true when this one settles it."""
        if self.seconds_per_step is not None:
            return False
        self.count += 1
        timed = self.count - 1
        passed = time.perf_counter() - self.since
        if not (step.ends_epoch or timed == 0 or timed == _STEPS or passed >= _SECONDS):
            return False
        if self.device.type == "cuda":  # it works on long after the steps were asked for
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if timed or step.ends_epoch:
            self.seconds_per_step = (now - self.since) / max(1, timed)
        else:
            self.since = now
        return self.seconds_per_step is not None


def count_macs(net: nn.Module, image: tuple[int, int, int]) -> int | None:
    """Count the multiply-accumulates of one image of shape (C, H, W) by running `net` in training mode on two.

    The net is left as it was. None where torch's counter fails on it.
    """
    parameter = next(net.parameters())
    images = torch.zeros(2, *image, dtype=parameter.dtype, device=parameter.device)
    try:
        with left_as_it_was(net, images.device), torch.no_grad(), FlopCounterMode(display=False) as counter:
            net.train()(images)
    except Exception:  # whatever a user's own forward raises: the count is left out, the run is done
        return None
    return counter.get_total_flops() // 2 // len(images)


def resident_bytes(field: str = "VmRSS") -> int | None:
    """Return the process's resident memory, now (`VmRSS`) or at its peak (`VmHWM`); None where it is not told."""
    if os.name != "posix":
        return None
    try:
        told = re.search(rf"^{field}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(told[1]) if told else None
