"""The memory program of a net: births and deaths of its tensors as an event list that is affine in the batch.

Two traces, of two and of three images, settle it: every storage is `base + slope x images` bytes, in the same order of
events, for any batch (checked against a direct trace at other batches by the tests).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from conviction.errors import UsageError
from conviction.planning.layers import Layer
from conviction.planning.step_trace import StepTrace
from conviction.planning.watching import Slot, Work

# CUDA hands out memory in blocks of so many bytes.
BLOCK_BYTES = 512


@dataclass(frozen=True)
class Program:
    """Events of `setup`, `first`, `steady` and `predict`; a death is the complement of the slot's number.

    `images` in the methods are those that pass through the net at once: a micro-batch of a step with `parts` of them,
    a batch that is predicted.
    `twins` pairs what the first step leaves for the next with what a steady step leaves, so that `steady` can be played
    any number of times. `work(images)` and `layers(images)` are those of one step.
    """

    slots: tuple[Slot, ...]
    base: np.ndarray
    slope: np.ndarray
    sections: dict[str, tuple[int, ...]]
    twins: tuple[tuple[int, int], ...]
    parts: int
    small: StepTrace
    large: StepTrace

    @cached_property
    def is_scratch(self) -> np.ndarray:
        """Which slots are scratch memory of a convolution, bool [slots]."""
        return np.array([slot.kind == "workspace" for slot in self.slots])

    def sizes(self, images: int) -> np.ndarray:
        """Return the bytes of every slot, int64 [slots]."""
        return self.base + self.slope * images

    def layers(self, images: int) -> tuple[Layer, ...]:
        """Return the layer table of the forward of `images` images."""
        return tuple(
            replace(a, saved_bytes=_extended(a.saved_bytes, b.saved_bytes, images))
            for a, b in zip(self.small.layers, self.large.layers, strict=True)
        )

    def work(self, images: int) -> dict[tuple[str, str], Work]:
        """Return the cost of a steady step (all its parts) and of a prediction, by (phase, layer)."""
        return {key: self._work(key, images) for key in self.small.work}

    def _work(self, key: tuple[str, str], images: float) -> Work:
        a, b = self.small.work[key], self.large.work.get(key, Work())
        # What runs once a step whatever its parts, and what each of the traced parts repeats.
        traced = _traced_parts(self.parts)
        times = 1 if key[0] in ("optimizer", "predict") else self.parts / traced
        images = images / traced if key[0] == "predict" else images  # all of the traced batch was predicted at once
        macs, moved = (_extended(getattr(a, name), getattr(b, name), images) for name in ("macs", "moved_bytes"))
        return Work(round(macs * times), round(moved * times), round(a.operations * times))


def make_program(trace: Callable[[int, int], StepTrace], parts: int = 1) -> Program:
    """Make the program of a net from `trace(batch_size, parts)`, which is asked for two batch sizes.

    Raises `UsageError` for a net whose operations depend on how many images it is given.
    """
    traced = _traced_parts(parts)
    small, large = (trace(images * traced, traced) for images in (2, 3))
    events, same = _sorted_events(small), _sorted_events(large)
    if events != same or small.sections != large.sections:
        raise UsageError("the net's operations depend on how many images it is given", "",
                         "measure a real step instead")  # fmt: skip
    two, three = (np.array([slot.bytes for slot in each.slots], dtype=np.int64) for each in (small, large))
    slope = three - two
    base = two - 2 * slope
    bounds = pairwise([0, *small.sections.values()])
    sections = {name: events[low:high] for name, (low, high) in zip(small.sections, bounds, strict=True)}
    predicting = np.zeros(len(small.slots), dtype=bool)
    predicting[[event for event in sections["predict"] if event >= 0]] = True
    # A step's images come at once, however many parts they are answered in; what predicts knows of no parts.
    whole = np.array([slot.kind == "inputs" for slot in small.slots]) & ~predicting
    base = np.where(whole, base * parts // traced, base)
    slope = np.where(whole, slope * parts // traced, np.where(predicting, slope // traced, slope))
    return Program(small.slots, base, slope, sections, _twins(sections), parts, small, large)


def live_bytes(program: Program, schedule: Sequence[tuple[str, int]], scratch: float = 0.0) -> np.ndarray:
    """Return the bytes alive after each event of the sections of `schedule`, each played for so many images.

    Sizes are rounded up to whole blocks, as CUDA does; a convolution's scratch counts `scratch` times its measure.
    """
    steps = [np.zeros(0, dtype=np.int64)]
    for events, sizes in played(program, schedule, scratch):
        codes = np.array(events, dtype=np.int64)
        steps.append(np.where(codes >= 0, sizes[codes], -sizes[~codes]))
    return np.cumsum(np.concatenate(steps))


def played(
    program: Program, schedule: Sequence[tuple[str, int]], scratch: float
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yield for each section of a schedule its events and the sizes of the slots as they are while it plays.

    What a step leaves keeps its size until the next step lets it go, though that may have another number of images.
    """
    carried: dict[int, int] = {}
    for section, images in schedule:
        sizes = program.sizes(images)
        sizes = np.where(program.is_scratch, (sizes * scratch).astype(np.int64), sizes)
        sizes = -(-sizes // BLOCK_BYTES) * BLOCK_BYTES
        for old, size in carried.items():
            sizes[old] = size
        yield program.sections[section], sizes
        if section == "first":
            carried = {old: int(sizes[old]) for old, _ in program.twins}
        elif section == "steady":
            carried = {old: int(sizes[new]) for old, new in program.twins}


def _traced_parts(parts: int) -> int:
    """Two micro-batches show what any number of them do: the first makes the gradients, the others add to them."""
    return min(parts, 2)


def _extended(two: int, three: int, images: float) -> int:
    return two + round((three - two) * (images - 2))


def _sorted_events(trace: StepTrace) -> tuple[int, ...]:
    """Return the events with each run of deaths in one order: which of them comes first changes nothing."""
    events: list[int] = []
    deaths: list[int] = []
    bounds = set(trace.sections.values())
    for place, event in enumerate(trace.events):
        if deaths and (event >= 0 or place in bounds):
            events += sorted(deaths)
            deaths = []
        (deaths if event < 0 else events).append(event)
    return tuple(events + sorted(deaths))


def _twins(sections: dict[str, tuple[int, ...]]) -> tuple[tuple[int, int], ...]:
    """Pair what the first step leaves behind and the second lets go with what the second leaves behind, in order.

    What the second step leaves beyond that (nothing, in a step that repeats itself) would pile up and is refused.
    """
    steady = set(sections["steady"])
    left = sorted(~event for event in steady if event < 0 and ~event not in steady)
    new = [event for event in sections["steady"] if event >= 0 and ~event not in steady]
    if len(left) != len(new):
        raise UsageError("each step of this net leaves more behind than the last", "",
                         "keep no tensors in the net between steps")  # fmt: skip
    return tuple(zip(left, new, strict=True))
