"""The arithmetic of an out-of-memory message: who holds how much of the device, and what the plan makes of it."""

from __future__ import annotations

from dataclasses import dataclass

from conviction.errors import UsageError
from conviction.planning.oom_messages import Message

# What a process holds on a CUDA card beside PyTorch's own reserve: the context, 0.3 to 0.7 GiB by card and driver.
_CONTEXT_BYTES, _LARGEST_CONTEXT_BYTES = 512 * 2**20, 716 * 2**20
# The allocator asks for more than the tensor: a segment of 20 MiB, or the next 2 MiB.
_SEGMENT_BYTES, _GRAIN_BYTES, _SAME_SIZE = 20 * 2**20, 2 * 2**20, 1.05


@dataclass(frozen=True)
class Expected:
    """What the plan says of the run that ran out of memory.

    `peak_allocated_bytes` (low, expected, high) is that of a training step at `batch_size`, weights and all;
    `largest_allocation_bytes` its largest single tensor; `largest_batch` what fits the card, 0 where nothing does and
    None where it is not known. Raises `UsageError` for numbers that contradict each other.
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    saved_bytes: int
    peak_allocated_bytes: tuple[int, int, int]
    largest_allocation_bytes: int
    batch_size: int
    largest_batch: int | None = None

    def __post_init__(self) -> None:
        low, expected, high = self.peak_allocated_bytes
        if not 0 <= low <= expected <= high:
            raise UsageError("the plan's peak is not in order", "peak_allocated_bytes", "give (low, expected, high)")
        if self.batch_size < 1:
            raise UsageError(f"batch_size = {self.batch_size} is not a number of images", "", "use 1 or more")

    @property
    def kept_bytes(self) -> int:
        """What any batch needs: weights, gradients, the optimizer's state."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes


class Sums:
    """The arithmetic of a message with its plan; sizes that the message does not tell are 0 or None as said."""

    def __init__(self, message: Message, expected: Expected | None) -> None:
        self.message, self.expected = message, expected
        self.tried = message.tried_bytes or 0
        self.allocated = message.allocated_bytes or 0
        self.unallocated = message.unallocated_bytes or 0
        self.reserved = self.allocated + self.unallocated
        self.total = message.total_bytes or 0
        limits = [size for size in (message.total_bytes, message.limit_bytes) if size]
        self.capacity = min(limits, default=0)
        self.metal = message.metal_bytes or 0
        # Without a word about it, what is not free and not ours is used by someone.
        free = message.free_bytes
        self.free = max(0, self.total - self.reserved - self.metal) if free is None else min(free, self.total)
        self.used = self.total - self.free
        self.own, self.named = _split_processes(message, self.used, self.reserved)
        self.others_are_told = self.own is not None or bool(self.named)
        beside = max(0, self.used - self.reserved - self.metal)
        if self.own is not None:
            self.outside = min(beside, max(0, self.own - self.reserved))
        else:  # a context's worth of what nobody is named for may be our own
            self.outside = min(max(0, beside - sum(size for _, size in self.named)), _LARGEST_CONTEXT_BYTES)
        self.others = beside - self.outside
        context = _CONTEXT_BYTES if self.own is None else self.outside
        self.room = self.capacity if message.backend == "mps" else min(self.capacity, max(0, self.total - context))

    @property
    def complete(self) -> bool:
        """Whether the message tells what was tried, what the device has and what PyTorch holds of it."""
        message = self.message
        return bool(message.total_bytes) and None not in (message.tried_bytes, message.allocated_bytes)

    @property
    def limit_binds(self) -> bool:
        """Whether the limit that the process was given refused, and not the device."""
        limit = self.message.limit_bytes
        return limit is not None and self.reserved + self.tried + 2 * self.message.rounding_bytes >= limit

    @property
    def plan_fits(self) -> bool:
        """Whether the plan's expected peak fits the device when nobody else is on it; True without a plan."""
        return self.expected is None or self.expected.peak_allocated_bytes[1] <= self.room

    @property
    def beyond_plan(self) -> int:
        """Bytes of tensors above the plan's highest peak; 0 without a plan."""
        if self.expected is None:
            return 0
        return max(0, self.allocated - self.message.rounding_bytes - self.expected.peak_allocated_bytes[2])

    @property
    def is_no_tensor_of_the_plan(self) -> bool:
        """Whether more was tried than the plan's largest tensor takes."""
        if self.expected is None:
            return False
        largest = max(self.expected.largest_allocation_bytes, _SEGMENT_BYTES)
        return self.tried > _SAME_SIZE * largest + _GRAIN_BYTES

    @property
    def largest_batch(self) -> int | None:
        """The largest batch that fits: the plan's, or else what the room left by others takes; None without a plan."""
        plan = self.expected
        if plan is None:
            return None
        if plan.largest_batch is not None and plan.largest_batch < plan.batch_size:
            return plan.largest_batch
        of_an_image = (plan.peak_allocated_bytes[1] - plan.kept_bytes) / plan.batch_size
        room = self.room - (0 if self.limit_binds else self.others) - plan.kept_bytes
        return max(0, min(plan.batch_size - 1, int(room // of_an_image))) if of_an_image > 0 else None


def _split_processes(message: Message, used: int, reserved: int) -> tuple[int | None, tuple[tuple[int, int], ...]]:
    """Return what this process holds in all, if the message tells, and the other processes that it names.

    In a container the message counts this process among the others, because process numbers differ inside. It shows
    in the sum: those named and our reserve would be more than what is used.
    """
    named = message.other_processes
    if message.process_bytes is not None:
        return message.process_bytes, named
    slack = message.rounding_bytes * (len(named) + 3)
    ours = [process for process in named if process[1] + slack >= reserved]
    if not ours or sum(size for _, size in named) + reserved <= used + slack:
        return None, named
    own = min(ours, key=lambda process: process[1])
    return own[1], tuple(process for process in named if process != own)
