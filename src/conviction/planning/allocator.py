"""CUDA's caching allocator, simulated: the memory that a program takes from the card, and whether it fits.

Sizes and rules are those of c10/cuda/CUDACachingAllocator.cpp with its default settings: blocks of 512 B, a pool for
small blocks in segments of 2 MiB, large ones in segments of 20 MiB or of their own size, best fit, splitting, joining
of free neighbours, and before giving up the release of every segment that is wholly free.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from conviction.planning.program import BLOCK_BYTES, Program, live_bytes, played

_MIB = 1 << 20
_SMALL_BYTES = _MIB
_SMALL_SEGMENT_BYTES = 2 * _MIB
_LARGE_SEGMENT_BYTES = 20 * _MIB
_OWN_SEGMENT_FROM_BYTES = 10 * _MIB
_SEGMENT_STEP_BYTES = 2 * _MIB


class NoRoomError(Exception):
    """The simulated card cannot give a block of so many bytes."""


@dataclass(eq=False, slots=True)
class Block:
    """A part of a segment, with its neighbours there; `age` is its turn in the pool while it is free."""

    size: int
    small: bool
    free: bool = False
    age: int = 0
    before: Block | None = field(default=None, repr=False)
    after: Block | None = field(default=None, repr=False)


class CachingAllocator:
    """Hands out blocks under `limit_bytes`, None for no limit; keeps count of what it gave and what it took."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.allocated_bytes = self.reserved_bytes = 0
        self.peak_allocated_bytes = self.peak_reserved_bytes = 0
        self.retries = 0
        self._serial = 0
        # Free blocks by (size, age), so that the best fit is found by bisection; no two have the same age.
        self._pools: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}

    def allocate(self, size_bytes: int) -> Block:
        """Return a block of at least `size_bytes`; raises `NoRoomError`."""
        size = max(BLOCK_BYTES, -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES)
        small = size <= _SMALL_BYTES
        block = self._best_fit(size, small) or self._new_segment(size, small)
        block.free = False
        self._split(block, size)
        self.allocated_bytes += block.size
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
        return block

    def free(self, block: Block) -> None:
        """Take a block back and join it with its free neighbours."""
        self.allocated_bytes -= block.size
        block.free = True
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._take_out(neighbour)
                self._join(block, neighbour)
        self._put_in(block)

    def _best_fit(self, size: int, small: bool) -> Block | None:
        pool = self._pools[small]
        place = bisect_left(pool, (size,))
        return pool.pop(place)[2] if place < len(pool) else None

    def _new_segment(self, size: int, small: bool) -> Block:
        if small:
            whole = _SMALL_SEGMENT_BYTES
        elif size < _OWN_SEGMENT_FROM_BYTES:
            whole = _LARGE_SEGMENT_BYTES
        else:
            whole = -(-size // _SEGMENT_STEP_BYTES) * _SEGMENT_STEP_BYTES
        if not self._has_room(whole):
            self._release_cached()
            if not self._has_room(whole):
                raise NoRoomError(size)
            self.retries += 1
        self.reserved_bytes += whole
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return Block(whole, small)

    def _has_room(self, size: int) -> bool:
        return self.limit_bytes is None or self.reserved_bytes + size <= self.limit_bytes

    def _release_cached(self) -> None:
        """Give back every segment that is wholly free."""
        for small, pool in self._pools.items():
            whole = [entry for entry in pool if entry[2].before is None and entry[2].after is None]
            self.reserved_bytes -= sum(entry[0] for entry in whole)
            self._pools[small] = [entry for entry in pool if entry[2].before is not None or entry[2].after is not None]

    def _split(self, block: Block, size: int) -> None:
        rest = block.size - size
        if rest < BLOCK_BYTES if block.small else rest <= _SMALL_BYTES:
            return
        block.size = size
        tail = Block(rest, block.small, free=True, before=block, after=block.after)
        if block.after is not None:
            block.after.before = tail
        block.after = tail
        self._put_in(tail)

    def _join(self, block: Block, neighbour: Block) -> None:
        block.size += neighbour.size
        if neighbour is block.before:
            block.before = neighbour.before
            if block.before is not None:
                block.before.after = block
        else:
            block.after = neighbour.after
            if block.after is not None:
                block.after.before = block

    def _put_in(self, block: Block) -> None:
        self._serial += 1
        block.age = self._serial
        insort(self._pools[block.small], (block.size, block.age, block))

    def _take_out(self, block: Block) -> None:
        pool = self._pools[block.small]
        del pool[bisect_left(pool, (block.size, block.age))]


@dataclass(frozen=True)
class Replay:
    """What a program took: `allocated_bytes` in tensors at most, `reserved_bytes` from the card at most.

    `retries` counts how often cached segments had to be given back for a new one.
    """

    allocated_bytes: int
    reserved_bytes: int
    retries: int


def replay(
    program: Program,
    schedule: Sequence[tuple[str, int]],
    *,
    scratch: float = 0.0,
    fixed_bytes: Sequence[int] = (),
    limit_bytes: int | None = None,
) -> Replay:
    """Play the sections of `schedule`, each for so many images, on a fresh card; raises `NoRoomError`.

    `scratch` scales the convolutions' scratch memory; `fixed_bytes` are blocks held from the first step on.
    """
    card = CachingAllocator(limit_bytes)
    held: dict[int, Block] = {}
    for (section, _), (events, sizes) in zip(schedule, played(program, schedule, scratch), strict=True):
        bytes_of = sizes.tolist()
        for event in events:
            if event >= 0 and bytes_of[event]:
                held[event] = card.allocate(bytes_of[event])
            elif event < 0 and ~event in held:
                card.free(held.pop(~event))
        if section == "steady":  # what this step leaves is what the next one finds
            held |= {old: held.pop(new) for old, new in program.twins if new in held}
        if section == "setup":
            for size in fixed_bytes:
                card.allocate(size)
    return Replay(card.peak_allocated_bytes, card.peak_reserved_bytes, card.retries)


def training(images: int, evaluated: int = 0) -> tuple[tuple[str, int], ...]:
    """Return the schedule of a training run: the first steps, an evaluation with so many images, and on."""
    evaluation = (("predict", evaluated),) if evaluated else ()
    return ("setup", images), ("first", images), ("steady", images), ("steady", images), *evaluation, ("steady", images)


def prediction(images: int) -> tuple[tuple[str, int], ...]:
    """Return the schedule of a program that only predicts."""
    return ("setup", images), ("predict", images), ("predict", images)


def largest_batch(
    program: Program,
    limit_bytes: int,
    *,
    scratch: float = 0.0,
    fixed_bytes: Sequence[int] = (),
    pages: bool = False,
    most: int = 1 << 20,
) -> int:
    """Return a largest number of images that train at once in `limit_bytes`, 0 where one image does not fit.

    What tensors alone need bounds it from above, by arithmetic; below that bound the allocator is played. As memory
    falls into pieces, a few smaller numbers may fail too (VGG-11 on 15 GiB: 206 and 208 below 224): the number
    returned is one that passes. With `pages` memory does not fall into pieces, as on a host.
    """
    fixed = sum(fixed_bytes)

    def tensors_fit(images: int) -> bool:
        return int(live_bytes(program, training(images), scratch).max()) + fixed <= limit_bytes

    def fits(images: int) -> bool:
        try:
            replay(program, training(images), scratch=scratch, fixed_bytes=fixed_bytes, limit_bytes=limit_bytes)
        except NoRoomError:
            return False
        return True

    high = _last(tensors_fit, 0, most)
    if pages or high == 0 or fits(high):
        return high
    return _last(fits, 0, high - 1)


def _last(passes: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number in (low, high] that passes, `low` where none does: numbers that pass come first."""
    while low < high:
        middle = (low + high + 1) // 2
        if passes(middle):
            low = middle
        else:
            high = middle - 1
    return low
