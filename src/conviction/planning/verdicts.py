"""Whether a program fits a device, and how many images at once would."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from conviction.planning.allocator import NoRoomError, Replay, largest_batch, prediction, replay, training
from conviction.planning.backend import Unseen, unseen_memory
from conviction.planning.devices import Device
from conviction.planning.program import Program
from conviction.planning.step_trace import Setting

LOW, EXPECTED, HIGH = range(3)


class Range(NamedTuple):
    """A figure that depends on what cannot be seen from here."""

    low: int
    expected: int
    high: int


@dataclass(frozen=True)
class Memory:
    """What a run takes in bytes, and whether that fits.

    `allocated_bytes` is the peak of what the allocator gave out in training (torch.cuda.max_memory_allocated),
    `reserved_bytes` of what it took from the device; `outside_bytes` lies outside it (the CUDA context).
    `predict_bytes` is the peak of a program that only predicts. `fits` is `yes` where even the high figure does,
    `likely` where the expected one does, else `no`. `largest_batch` is by the expected figures, `safe_batch` by the
    high.
    """

    allocated_bytes: Range
    reserved_bytes: Range
    outside_bytes: Range
    predict_bytes: int
    fits: str
    largest_batch: int
    safe_batch: int


def judge(program: Program, images: int, setting: Setting, device: Device, evaluated: int = 0) -> Memory:
    """Judge training with `images` at once (a micro-batch) and evaluations of `evaluated` images, on `device`."""
    unseen = unseen_memory(device, setting)
    schedule = training(images, evaluated)
    runs = [replay(program, schedule, scratch=scratch, fixed_bytes=unseen.fixed_bytes) for scratch in unseen.scratch]
    answer = replay(program, prediction(images), scratch=unseen.scratch[EXPECTED], fixed_bytes=unseen.fixed_bytes[:1])
    fits = _verdict(program, schedule, unseen, device, runs)
    safe = max(_largest(program, unseen, device, HIGH), images if fits == "yes" else 0)
    largest = max(_largest(program, unseen, device, EXPECTED), images if fits != "no" else 0, safe)
    return Memory(
        allocated_bytes=_range(run.allocated_bytes for run in runs),
        reserved_bytes=_range(run.reserved_bytes for run in runs),
        outside_bytes=Range(*unseen.outside_bytes),
        predict_bytes=answer.allocated_bytes,
        fits=fits,
        largest_batch=largest,
        safe_batch=safe,
    )


def split_until_it_fits(
    program_for: Callable[[Setting], Program], batch_size: int, setting: Setting, device: Device, evaluated: int = 0
) -> Setting:
    """Return `setting` with the fewest micro-batches in which `batch_size` images fit `device`.

    As it is where it fits or likely does; else the fewest that surely fit, else the fewest that likely do, else as many
    as there are images. Never fewer than `setting` has.
    """

    def fits(parts: int) -> str:
        split = replace(setting, parts=parts)
        unseen, schedule = unseen_memory(device, split), training(-(-batch_size // parts), evaluated)
        program = program_for(split)
        runs = [
            replay(program, schedule, scratch=scratch, fixed_bytes=unseen.fixed_bytes) for scratch in unseen.scratch
        ]
        return _verdict(program, schedule, unseen, device, runs)

    if fits(setting.parts) != "no":
        return setting
    # The fewest parts for each size that the largest of them can have, below that of now.
    sizes = {-(-batch_size // parts): parts for parts in range(batch_size, setting.parts, -1)}
    counts = sorted(parts for size, parts in sizes.items() if size < -(-batch_size // setting.parts))
    told = cache(fits)
    for enough in (("yes",), ("yes", "likely")):
        place = bisect_left(counts, True, key=lambda parts, enough=enough: told(parts) in enough)  # more need less
        if place < len(counts):
            return replace(setting, parts=counts[place])
    return replace(setting, parts=max(batch_size, setting.parts))


def _range(figures: Iterable[int]) -> Range:
    """Order the figures: with more scratch, blocks may fall together more luckily."""
    return Range(*sorted(figures))


def room_bytes(device: Device, unseen: Unseen, case: int) -> int:
    """Return what the allocator may take on `device`: what is free, less what lies outside the allocator."""
    offered = device.memory_bytes if device.free_bytes is None else min(device.memory_bytes, device.free_bytes)
    return max(0, offered - unseen.outside_bytes[case])


def _verdict(
    program: Program, schedule: Sequence[tuple[str, int]], unseen: Unseen, device: Device, runs: Sequence[Replay]
) -> str:
    for case, word in ((HIGH, "yes"), (EXPECTED, "likely")):
        room = room_bytes(device, unseen, case)
        if runs[case].reserved_bytes <= room:
            return word
        if device.kind == "cpu":  # the system's allocator joins what is free by pages
            if runs[case].allocated_bytes <= room:
                return word
            continue
        try:
            replay(program, schedule, scratch=unseen.scratch[case], fixed_bytes=unseen.fixed_bytes, limit_bytes=room)
        except NoRoomError:
            continue
        return word
    return "no"


def _largest(program: Program, unseen: Unseen, device: Device, case: int) -> int:
    return largest_batch(program, room_bytes(device, unseen, case), scratch=unseen.scratch[case],
                         fixed_bytes=unseen.fixed_bytes, pages=device.kind == "cpu")  # fmt: skip
