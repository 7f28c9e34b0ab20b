"""The simulated allocator: published rules as a table, and laws over random programs."""

from __future__ import annotations

import random

import pytest

from conviction.nets import sketch
from conviction.planning.allocator import (
    Block,
    CachingAllocator,
    NoRoomError,
    largest_batch,
    prediction,
    replay,
    training,
)
from conviction.planning.program import Program, live_bytes, make_program
from conviction.planning.step_trace import Setting, trace_step

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def program() -> Program:
    net = sketch("vgg7-bn", 10, (1, 28, 28))
    return make_program(lambda batch, parts: trace_step(net, (1, 28, 28), batch, Setting()))


@pytest.mark.parametrize(
    ("size", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        (11 * MIB, 12 * MIB, 12 * MIB),  # what is left over is too small to split off
        (51 * MIB - 512, 51 * MIB - 512, 52 * MIB),
        (19 * MIB + MIB // 2, 20 * MIB, 20 * MIB),
    ],
)
def test_sizes_are_those_of_the_cuda_allocator(size: int, allocated: int, reserved: int) -> None:
    card = CachingAllocator()
    card.allocate(size)
    assert (card.allocated_bytes, card.reserved_bytes) == (allocated, reserved)


def test_best_fit_splits_and_joins() -> None:
    card = CachingAllocator()
    blocks = [card.allocate(size * MIB) for size in (4, 8, 4)]  # one segment of 20 MiB, 4 MiB of it free
    assert card.reserved_bytes == 20 * MIB
    card.free(blocks[1])
    card.allocate(4 * MIB)  # fits the 4 MiB at the end exactly, so that the 8 MiB stay whole
    card.allocate(8 * MIB)
    assert card.reserved_bytes == 20 * MIB
    card.allocate(2 * MIB)
    assert card.reserved_bytes == 40 * MIB


def test_cached_segments_are_given_back_before_giving_up() -> None:
    card = CachingAllocator(limit_bytes=100 * MIB)
    card.free(card.allocate(60 * MIB))
    card.allocate(80 * MIB)
    assert (card.reserved_bytes, card.retries) == (80 * MIB, 1)
    with pytest.raises(NoRoomError):
        card.allocate(30 * MIB)
    held = CachingAllocator(limit_bytes=100 * MIB)
    held.free(held.allocate(40 * MIB))
    held.allocate(20 * MIB)  # lives in the first segment, which can no longer go back
    with pytest.raises(NoRoomError):
        held.allocate(70 * MIB)


@pytest.mark.parametrize("seed", range(8))
def test_laws_over_random_programs(seed: int) -> None:
    draw = random.Random(seed)
    card, held = CachingAllocator(), []
    for _ in range(600):
        if held and draw.random() < 0.48:
            card.free(held.pop(draw.randrange(len(held))))
        else:
            held.append(card.allocate(int(10 ** draw.uniform(1, 8))))
        assert card.allocated_bytes == sum(block.size for block in held) <= card.reserved_bytes
        assert all(block.size % 512 == 0 and not block.free for block in held)
        assert [each.size for each in whole_segments(held)] == [each.size for each in whole_segments(held)]
    peak = card.peak_reserved_bytes
    for block in held:
        card.free(block)
    assert (card.allocated_bytes, card.peak_reserved_bytes) == (0, peak)
    card.limit_bytes = 0
    with pytest.raises(NoRoomError):
        card.allocate(10**9)
    assert card.reserved_bytes == 0  # everything joined into whole segments, so that all could be given back


def whole_segments(held: list[Block]) -> list[Block]:
    """Walk the segments of some blocks; neighbours must agree about each other."""
    found = []
    for block in held:
        while block.before is not None:
            assert block.before.after is block
            block = block.before
        found.append(block)
        while block.after is not None:
            assert block.after.before is block
            assert not (block.free and block.after.free), "free neighbours are joined"
            block = block.after
    return found


def test_a_replay_takes_what_its_tensors_need(program: Program) -> None:
    for images in (1, 8, 64):
        took = replay(program, training(images))
        need = int(live_bytes(program, training(images)).max())
        assert need <= took.allocated_bytes <= 1.1 * need + 20 * MIB
        assert took.allocated_bytes <= took.reserved_bytes
        assert replay(program, training(images), limit_bytes=took.reserved_bytes).retries == 0
        assert replay(program, training(images), fixed_bytes=[8 * MIB]).allocated_bytes >= took.allocated_bytes
        assert replay(program, training(images), scratch=1.0).allocated_bytes >= took.allocated_bytes
        assert replay(program, prediction(images)).allocated_bytes < took.allocated_bytes


@pytest.mark.parametrize("room", [64, 256, 1024, 5000])
def test_the_largest_batch_fits_and_more_tensors_than_room_never_do(program: Program, room: int) -> None:
    most = largest_batch(program, room * MIB)
    assert most > 0
    replay(program, training(most), limit_bytes=room * MIB)
    smaller = largest_batch(program, room * MIB, scratch=2.0, fixed_bytes=[8 * MIB])
    assert 0 < smaller < most
    bound = largest_batch(program, room * MIB, pages=True)
    assert most <= bound
    assert live_bytes(program, training(bound)).max() <= room * MIB < live_bytes(program, training(bound + 1)).max()


def test_nothing_fits_where_the_weights_do_not(program: Program) -> None:
    assert largest_batch(program, 1 * MIB) == 0
    with pytest.raises(NoRoomError):
        replay(program, training(1), limit_bytes=1 * MIB)
