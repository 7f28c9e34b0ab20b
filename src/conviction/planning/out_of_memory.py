"""Explaining an out-of-memory message: what held the memory, by the message's own arithmetic and the run's plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conviction.planning.oom_advice import HEADLINES, advise
from conviction.planning.oom_arithmetic import Expected, Sums
from conviction.planning.oom_messages import Message, read_message
from conviction.text import format_bytes, format_percent, format_table

# Another process is blamed from this share of the card on; more where its size is only what is left over, since
# displays and Windows keep some for themselves.
_LARGE_TOLD, _LARGE_LEFT_OVER = 0.10, 0.20
# Memory in pieces is the cause where pieces and what is free hold what was tried this many times over, and where the
# pieces are worth something: half of what was tried, and this share of the card.
_FRAGMENTS_MARGIN, _FRAGMENTS_SHARE = 1.25, 0.05
_OVERFLOWN_BYTES = 2**60


@dataclass(frozen=True)
class Explanation:
    """What held the memory: (what, bytes) in `held`, which add up to the device's memory where the message tells all.

    `verdict` is "another-process", "fragmentation", "kept-from-before", "this-batch", "workspace",
    "too-large-for-the-card", "one-huge-tensor", "host-memory", "shared-memory" or "unknown". `advice` is in the order
    to try. `figures` are the message's and the plan's numbers by name, in bytes but for `largest_batch`.
    """

    verdict: str
    why: str
    held: tuple[tuple[str, int], ...]
    advice: tuple[str, ...]
    figures: tuple[tuple[str, int], ...]
    message: Message

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the JSON."""
        source = self.message.source
        return {
            "verdict": self.verdict,
            "why": self.why,
            "held": [{"what": what, "bytes": size} for what, size in self.held],
            "advice": list(self.advice),
            "figures": dict(self.figures),
            "backend": self.message.backend,
            "device": self.message.device,
            "phase": self.message.phase,
            "operation": self.message.operation,
            "where": {"file": source.file, "line": source.line, "code": source.code} if source else None,
            "message": self.message.text,
            "messages": self.message.count,
        }


def explain_text(text: str, expected: Expected | None = None) -> Explanation:
    """Explain a pasted message, traceback or log; raises `UsageError` for a text that is not about memory."""
    return explain(read_message(text), expected)


def explain(message: Message, expected: Expected | None = None) -> Explanation:
    """Say what held the memory; without `expected` from the message's own numbers alone."""
    sums = Sums(message, expected)
    verdict = _verdict(sums)
    why, advice = advise(verdict, sums)
    return Explanation(verdict, why, tuple(_held(sums, verdict)), advice, tuple(_figures(sums)), message)


def format_explanation(explanation: Explanation) -> str:
    """Lay out an explanation for a terminal."""
    message = explanation.message
    lines = [f"{explanation.verdict}: {HEADLINES[explanation.verdict]}", explanation.why]
    where = [f"in the {message.phase}" if message.phase and message.phase != "setup" else ""]
    where += [f"at {message.source}" if message.source else ""]
    if any(where):
        lines.append(f"It happened {' '.join(part for part in where if part)}.")
    if message.count > 1:
        lines.append(f"The text holds {message.count} such messages; this is the last.")
    if explanation.held:
        total = sum(size for _, size in explanation.held)
        rows = [(what, format_bytes(size), format_percent(size / total if total else None))
                for what, size in explanation.held]  # fmt: skip
        lines += ["", format_table(("memory held by", "", "share"), rows, right=(1, 2))]
    if message.tried_bytes is not None:
        lines += ["", f"tried to allocate {format_bytes(message.tried_bytes)}"]
    lines += ["", "What to do, in this order:", *(f"{n}. {line}" for n, line in enumerate(explanation.advice, 1))]
    return "\n".join(lines)


def _verdict(sums: Sums) -> str:
    message, expected = sums.message, sums.expected
    if message.backend in {"cpu", "shm"}:
        return "host-memory" if message.backend == "cpu" else "shared-memory"
    if sums.tried >= _OVERFLOWN_BYTES or (message.backend == "mps" and sums.tried and not message.allocated_bytes):
        return "one-huge-tensor"  # Metal's "Invalid buffer size" tells nothing but the size
    if not message.total_bytes or message.tried_bytes is None:
        return "unknown"
    if sums.tried > sums.capacity and (expected is None or sums.is_no_tensor_of_the_plan):
        return "one-huge-tensor"
    if expected is not None and (expected.largest_batch == 0 or expected.kept_bytes > sums.room):
        return "too-large-for-the-card"
    room_was_left = message.free_bytes is not None and message.free_bytes >= sums.tried + 2 * message.rounding_bytes
    if room_was_left and not sums.limit_binds:
        return "host-memory"
    if not sums.complete:
        return "unknown"
    causes = list(_causes(sums))
    if causes:
        return max(causes)[1]
    if expected is not None and sums.plan_fits and sums.is_no_tensor_of_the_plan:
        return "workspace"
    if expected is None and message.phase == "setup":
        return "too-large-for-the-card"
    return "this-batch"


def _causes(sums: Sums) -> Iterator[tuple[int, str]]:
    """Yield what took memory that the run does not need, with its size; the largest is the cause."""
    if sums.beyond_plan and sums.expected is not None:
        yield sums.allocated - sums.expected.peak_allocated_bytes[1], "kept-from-before"
    if not sums.plan_fits:
        return
    large = _LARGE_TOLD if sums.others_are_told else _LARGE_LEFT_OVER
    if sums.others >= max(large * sums.capacity, sums.tried) and not sums.limit_binds:
        yield sums.others, "another-process"
    if sums.metal >= max(_LARGE_LEFT_OVER * sums.capacity, sums.tried):
        yield sums.metal, "workspace"
    free = 0 if sums.limit_binds else sums.free
    covers = sums.unallocated + free >= _FRAGMENTS_MARGIN * sums.tried
    if covers and sums.unallocated >= max(sums.tried / 2, _FRAGMENTS_SHARE * sums.capacity):
        yield sums.unallocated, "fragmentation"


def _held(sums: Sums, verdict: str) -> Iterator[tuple[str, int]]:
    """Yield who held what; the sizes add up to the device's memory where the message tells all of it."""
    message = sums.message
    private = min(message.private_bytes or 0, sums.allocated)
    lines = list(_tensors(sums, sums.allocated - private, verdict))
    lines += [("CUDA graphs (private pools)", private), ("reserved by PyTorch, not in use", sums.unallocated)]
    if sums.total:
        lines.append(("Metal, beside PyTorch", sums.metal))
        lines.append(("this process outside PyTorch: context, libraries", sums.outside))
        left = sums.others
        for number, size in sums.named:
            lines.append((f"process {number}", min(size, left)))
            left -= min(size, left)
        lines += [("other programs and the driver", left), ("free", sums.free)]
    yield from ((what, size) for what, size in lines if size > 0)


def _tensors(sums: Sums, tensors: int, verdict: str) -> Iterator[tuple[str, int]]:
    """Yield the tensors of this process, split by the plan as far as it tells."""
    plan = sums.expected
    if sums.message.killed:
        yield "the process that was ended", tensors
    elif plan is not None and verdict == "kept-from-before":
        planned = min(tensors, plan.peak_allocated_bytes[1])
        yield from (
            ("tensors that the plan knows, at its peak", planned),
            ("tensors beyond the plan", tensors - planned),
        )
    elif plan is not None and tensors >= plan.kept_bytes and verdict not in {"host-memory", "shared-memory"}:
        yield from (("weights", plan.weights_bytes), ("gradients", plan.gradients_bytes))
        yield from (("optimizer state", plan.optimizer_bytes),
                    ("saved for the backward, and temporaries", tensors - plan.kept_bytes))  # fmt: skip
    else:
        yield "tensors of this process", tensors


def _figures(sums: Sums) -> Iterator[tuple[str, int]]:
    message, plan = sums.message, sums.expected
    told = {name: getattr(message, name) for name in (
        "tried_bytes", "total_bytes", "free_bytes", "allocated_bytes", "unallocated_bytes", "private_bytes",
        "process_bytes", "limit_bytes", "metal_bytes")}  # fmt: skip
    if sums.complete:
        told |= {"reserved_bytes": sums.reserved, "others_bytes": sums.others}
    if plan is not None:
        low, expected, high = plan.peak_allocated_bytes
        told |= {"planned_low_bytes": low, "planned_bytes": expected, "planned_high_bytes": high,
                 "largest_batch": sums.largest_batch}  # fmt: skip
    yield from ((name, size) for name, size in told.items() if size is not None)
