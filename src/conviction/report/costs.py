"""The section of a report on what the run cost: planned against measured, and the pictures of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conviction.figures import Markup, element
from conviction.report.pieces import clipped, section, soft, table
from conviction.runs import Run
from conviction.text import format_bytes, format_count, format_seconds

_ABSENT = "-"


def cost_section(run: Run, pictures: Mapping[str, Markup]) -> Markup:
    """Hold what was planned against what was measured; nothing at all for a run that tells neither."""
    planned, measured = run.result.get("planned") or {}, run.result.get("measured") or {}
    if not measured:
        return Markup()
    rows = [row for row in _rows(planned, measured) if row[1:] != (_ABSENT, _ABSENT)]
    says = _caption(planned, measured)
    if pictures and "roofline" not in pictures:
        says += " There is no roofline: the rates of this device are not known."
    charts = element("div", *pictures.values(), class_="charts") if pictures else Markup()
    title = "What it cost: planned against measured"
    return section("cost", title, soft(says), table("what it cost", ("", "planned", "measured"), rows), charts)


def _rows(planned: Mapping[str, Any], measured: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    seconds = (("a training step", "seconds_per_step"), ("an epoch", "seconds_per_epoch"), ("the run", "seconds"))
    peak = planned.get("train_peak_bytes")
    memory = (
        f"{format_bytes(peak['expected'])} ({format_bytes(peak['low'])} to {format_bytes(peak['high'])})"
        if peak
        else _ABSENT
    )
    reserved = _told(planned.get("train_reserved_bytes"), format_bytes)
    on_card = measured.get("reserved_bytes") is not None
    return [
        ("memory at the peak", memory, _told(measured.get("peak_bytes"), format_bytes)),
        ("taken from the device", reserved if on_card else _ABSENT,
         _told(measured.get("reserved_bytes"), format_bytes)),
        *((title, _told(planned.get(key), _duration), _told(measured.get(key), _duration)) for title, key in seconds),
        ("parameters trained", _told(planned.get("params"), _count), _told(measured.get("params"), _count)),
        ("multiply-accumulates an image", _told(planned.get("macs"), _count), _told(measured.get("macs"), _count)),
    ]  # fmt: skip


def _caption(planned: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """Say where the numbers are from: none of them is more than it is."""
    says = f"Memory is measured as the peak of {clipped(measured.get('peak_of', ''))}"
    if measured.get("reserved_bytes") is None:
        says += (": by how much it grew in training, and the net's own tensors. Batches under way and what the C "
                 "library keeps are in it")  # fmt: skip
    if not planned:
        return f"This run had no plan. {says}."
    parts = -(-planned["batch_size"] // planned["micro_batch"])
    at_once = f" in {parts} micro-batches of up to {planned['micro_batch']}" if parts > 1 else ""
    return (f"Planned for {clipped(planned['device'])} and batches of {planned['batch_size']}{at_once}, before a step "
            f"was made; the planned times are those of the first second of steps, carried on. {says}.")  # fmt: skip


def _told(value: Any, how: Any) -> str:
    return _ABSENT if value is None else how(value)


def _count(value: int) -> str:
    return f"{format_count(value)} ({value:,})"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else format_seconds(seconds)
