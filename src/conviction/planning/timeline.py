"""Memory over one steady training step by kind, and what its peak is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from conviction.planning.program import Program, played

# From what is always there to what comes and goes.
KINDS = ("weights", "averaged", "optimizer", "gradients", "saved", "inputs", "temporary", "workspace")


@dataclass(frozen=True)
class Moment:
    """What is alive after an event of the steady step: bytes by kind, in the phase and the layer of that event."""

    phase: str
    layer: str
    bytes: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(self.bytes.values())


def follow_step(program: Program, images: int, scratch: float = 0.0) -> tuple[Moment, ...]:
    """Return the moments of a steady step of `images` images, one an event."""
    alive: Counter[str] = Counter()
    moments = []
    phase = layer = ""
    schedule = (("setup", images), ("first", images), ("steady", images))
    for (section, _), (events, sizes) in zip(schedule, played(program, schedule, scratch), strict=True):
        for event in events:
            slot = program.slots[event if event >= 0 else ~event]
            if event >= 0:
                phase, layer = slot.phase, slot.layer
            alive[slot.kind] += int(sizes[event]) if event >= 0 else -int(sizes[~event])
            if section == "steady":
                moments.append(Moment(phase, layer, {kind: alive[kind] for kind in KINDS if alive[kind]}))
    return tuple(moments)


def peak_of(moments: tuple[Moment, ...]) -> Moment:
    """Return the first moment at which most is alive."""
    return max(moments, key=lambda moment: moment.total_bytes)
