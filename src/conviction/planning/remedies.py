"""What would make a run fit, in the order of what it costs in time; with what each saves, and why one does not help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from conviction.errors import UsageError
from conviction.planning.devices import Device
from conviction.planning.program import Program
from conviction.planning.step_trace import Setting
from conviction.planning.timeline import Moment
from conviction.planning.verdicts import Memory, judge

ProgramFor = Callable[[Setting, tuple[int, int, int]], Program]

# A remedy that saves less of the peak than this is told why it does not help.
_LITTLE = 0.1
_MOST_PARTS = 64
_WORDS = {"saved": "saved activations", "optimizer": "optimizer state", "averaged": "averaged weights",
          "temporary": "passing tensors"}  # fmt: skip
_RANKS = {"no": 0, "likely": 1, "yes": 2}


@dataclass(frozen=True)
class Remedy:
    """One thing to change: the recipe's knobs, the peak with it, what that saves, what it costs, and a word on it."""

    change: dict[str, Any]
    peak_bytes: int
    saves_bytes: int
    fits: str
    costs: str
    why: str = ""


@dataclass(frozen=True)
class Run:
    """What is to fit: `batch_size` images of shape `image` a step, in `setting`, on `device`; and its peak by kind."""

    image: tuple[int, int, int]
    batch_size: int
    setting: Setting
    device: Device
    memory: Memory
    peak: Moment


def find_remedies(run: Run, program_for: ProgramFor, can_recompute: bool, resizes: bool) -> tuple[Remedy, ...]:
    """Try each remedy on its own; where none makes the run fit, those that change no result together.

    `program_for(setting, image)` traces the net again; `can_recompute` says that activation checkpointing is at hand,
    `resizes` that the net takes smaller images.
    """
    tried: list[Remedy] = []
    for change, costs in _candidates(run, can_recompute):
        tried += _tried(run, program_for, change, costs)
    tried += _split(run, program_for, run.setting, {})
    if resizes:
        tried += _smaller_images(run, program_for)
    if run.memory.largest_batch and not any(remedy.fits == "yes" for remedy in tried):
        tried += _together(run, program_for, can_recompute)
    if 0 < run.memory.safe_batch < run.batch_size:
        tried.append(Remedy({"batch_size": run.memory.safe_batch}, 0, 0, "yes",
                            "noisier steps: the learning rate has to be found again"))  # fmt: skip
    return tuple(tried)


def _candidates(run: Run, can_recompute: bool) -> Iterator[tuple[dict[str, Any], str]]:
    setting, capability = run.setting, run.device.compute_capability
    if setting.precision == "fp32" and run.device.kind == "cuda":
        low = "fp16" if capability is not None and capability < (8, 0) else "bf16"
        slow = capability is not None and capability < (7, 0)
        yield {"precision": low}, "no time gained on this card" if slow else "none: the same accuracy, and faster"
    if not setting.channels_last and run.device.kind == "cuda":
        yield {"channels_last": True}, "none on most nets"
    if setting.optimizer == "adamw":
        yield {"optimizer": "sgd"}, "another learning rate, often more epochs"
    if can_recompute and not setting.checkpointing:
        yield {"checkpointing": True}, "a forward more for each step, about a third more time"


def _tried(run: Run, program_for: ProgramFor, change: dict[str, Any], costs: str) -> list[Remedy]:
    held = run.peak.bytes.get("optimizer", 0)
    if "optimizer" in change and held < _LITTLE * run.peak.total_bytes:  # known without a trace: half its state goes
        before = run.memory.reserved_bytes.expected
        return [Remedy(change, before - held // 2, held // 2, run.memory.fits, costs, _why(run, change))]
    setting = replace(run.setting, **change)
    try:
        program = program_for(setting, run.image)
    except UsageError:  # a net that cannot be recomputed, say
        return []
    memory = judge(program, run.batch_size // setting.parts, setting, run.device)
    return [_remedy(run, change, memory, costs)]


def _remedy(run: Run, change: dict[str, Any], memory: Memory, costs: str) -> Remedy:
    before, after = run.memory.reserved_bytes.expected, memory.reserved_bytes.expected
    saves = before - after
    return Remedy(change, after, saves, memory.fits, costs, "" if saves >= _LITTLE * before else _why(run, change))


def _why(run: Run, change: dict[str, Any]) -> str:
    """Tell what of the peak a remedy leaves as it is."""
    held = {
        "precision": ("weights", "averaged", "gradients", "optimizer"),
        "channels_last": tuple(kind for kind in run.peak.bytes if kind != "workspace"),
        "optimizer": tuple(kind for kind in run.peak.bytes if kind != "optimizer"),
        "checkpointing": tuple(kind for kind in run.peak.bytes if kind != "saved"),
    }.get(next(iter(change)), ("weights", "averaged", "gradients", "optimizer"))
    share = sum(run.peak.bytes.get(kind, 0) for kind in held) / max(1, run.peak.total_bytes)
    names = [_WORDS.get(kind, kind) for kind in held if run.peak.bytes.get(kind, 0) > 0.05 * run.peak.total_bytes]
    if share < 0.5:
        return "the peak lies within one part of the net"
    told = " and ".join((", ".join(names[:-1]), names[-1]) if names[1:] else names)
    return f"{100 * share:.0f} % of the peak is {told}, which this leaves as it is"


def _split(run: Run, program_for: ProgramFor, setting: Setting, change: dict[str, Any]) -> list[Remedy]:
    """Find the fewest micro-batches with which the run fits surely, else the best there is."""
    best: list[Remedy] = []
    parts = 2
    while parts <= min(_MOST_PARTS, run.batch_size):
        images = -(-run.batch_size // parts)
        split = replace(setting, parts=parts)
        memory = judge(program_for(split, run.image), images, split, run.device)
        remedy = _remedy(run, {**change, "micro_batch": images}, memory,
                         "hardly any time; batch norm sees the parts, not the batch")  # fmt: skip
        if not best or (_RANKS[remedy.fits], -remedy.peak_bytes) > (_RANKS[best[0].fits], -best[0].peak_bytes):
            best = [remedy]
        if remedy.fits == "yes":
            break
        parts *= 2
    return best


def _smaller_images(run: Run, program_for: ProgramFor) -> list[Remedy]:
    side = run.image[1] * 3 // 4 // 16 * 16
    if side < 32 or run.image[1] != run.image[2]:
        return []
    try:
        program = program_for(run.setting, (run.image[0], side, side))
    except UsageError:
        return []
    memory = judge(program, run.batch_size // run.setting.parts, run.setting, run.device)
    return [_remedy(run, {"image_size": side}, memory, "less time; accuracy where details matter")]


def _together(run: Run, program_for: ProgramFor, can_recompute: bool) -> list[Remedy]:
    """Put together what changes no result: number format, layout, recomputation, and then micro-batches."""
    change: dict[str, Any] = {}
    for each, _ in _candidates(run, can_recompute):
        if "optimizer" not in each:
            change |= each
    if not change:
        return []
    try:
        return _split(run, program_for, replace(run.setting, **change), change)
    except UsageError:
        return []
