"""A plan in words, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from conviction.text import format_bytes, format_count, format_seconds, format_shape, format_table, printable

if TYPE_CHECKING:
    from conviction.planning.records import Plan

_MOST_LAYERS = 6
_FITS = {"yes": "fits", "likely": "likely fits (not if the kernels take as much scratch memory as they may)",
         "no": "does not fit"}  # fmt: skip


def describe(plan: Plan) -> str:
    """Write a plan in words: what the net is, what it takes, on what it fits, how long it takes, what would help."""
    return "\n".join((*_head(plan), "", *_costs(plan), "", *_layers(plan), "", *_device(plan), *_notes(plan)))


def _head(plan: Plan) -> Iterator[str]:
    setting = plan.setting
    how = [f"batch {plan.batch_size}", setting.optimizer, setting.precision]
    how += ["channels last"] if setting.channels_last else []
    how += [f"in {setting.parts} micro-batches"] if setting.parts > 1 else []
    how += ["activations recomputed"] if setting.checkpointing else []
    yield f"{printable(plan.net)}, image {format_shape(plan.image)}, {plan.num_classes} classes, {', '.join(how)}"


def _costs(plan: Plan) -> Iterator[str]:
    peak, total = plan.train_peak_bytes, plan.peak.total_bytes
    shares = ", ".join(f"{kind} {100 * size / total:.0f} %" for kind, size in plan.peak.bytes.items()
                       if size >= 0.005 * total)  # fmt: skip
    rows = [
        ("parameters", f"{format_count(plan.params)} ({format_bytes(plan.weights_bytes)})"),
        ("computation", f"{format_count(plan.macs, 'MACs')} an image forward"),
        ("training memory", f"{format_bytes(peak.expected)} at the peak ({format_bytes(peak.low)} to "
                            f"{format_bytes(peak.high)}); {format_bytes(plan.train_reserved_bytes)} taken from the "
                            f"device"),
        ("  of its tensors", shares),
        ("  saved for backward", format_bytes(plan.saved_bytes)),
        ("prediction memory", f"{format_bytes(plan.predict_peak_bytes)} at the peak, same batch"),
        ("memory traffic", f"{format_bytes(plan.bytes_moved)} a training step, {plan.arithmetic_intensity:.1f} FLOP a "
                           f"byte; {format_bytes(plan.predict_bytes_moved)} to predict a batch"),
    ]  # fmt: skip
    if plan.min_image is not None:
        rows.append(("smallest image", _smallest(plan)))
    yield from _aligned(rows)


def _smallest(plan: Plan) -> str:
    smallest = plan.min_image
    assert smallest is not None
    if smallest.train is None and smallest.eval is None:
        return "none found"
    if smallest.only:
        return f"{smallest.train}x{smallest.train} and no other size: {smallest.fails_at}"
    both = smallest.eval == smallest.train
    sides = f"{smallest.train}" if both else f"{smallest.eval} to predict, {smallest.train} to train"
    return f"{sides} pixels a side" + (f"; one less fails at {smallest.fails_at}" if smallest.fails_at else "")


def _layers(plan: Plan) -> Iterator[str]:
    """The layers that cost most, in any of the three costs."""
    sums = {name: max(1, sum(getattr(layer, name) for layer in plan.layers))
            for name in ("params", "macs", "saved_bytes", "moved_bytes")}  # fmt: skip
    weight = [max(getattr(layer, name) / total for name, total in sums.items()) for layer in plan.layers]
    chosen = sorted(sorted(range(len(weight)), key=lambda index: -weight[index])[:_MOST_LAYERS])
    rows = [
        (printable(layer.name or layer.kind),
         *(f"{100 * getattr(layer, name) / total:.0f} %" for name, total in sums.items()))
        for layer in (plan.layers[index] for index in chosen)
    ]  # fmt: skip
    header = ("costliest layers", "parameters", "computation", "saved", "traffic")
    yield from format_table(header, rows, right=(1, 2, 3, 4)).splitlines()


def _device(plan: Plan) -> Iterator[str]:
    device = plan.device
    yield f"{printable(device.name)}, {format_bytes(device.memory_bytes)}: {_FITS[device.fits]}"
    largest = f"{device.largest_batch:,}"
    surely = "" if device.safe_batch == device.largest_batch else f", surely {device.safe_batch:,}"
    rows = [("largest batch", f"{largest} at once{surely}")]
    for name, seconds in (("a step", plan.time.step), ("an epoch", plan.time.epoch)):
        if seconds is not None:
            low, expected, high = (format_seconds(each) for each in seconds)
            how = "measured here" if plan.time.how == "calibrated" else "reckoned from the datasheet"
            rows.append((name, f"{expected} ({low} to {high}, {how})"))
    yield from _aligned(rows)
    if device.advice:
        yield ""
        yield from _advice(plan)


def _advice(plan: Plan) -> Iterator[str]:
    rows = []
    for each in plan.device.advice:
        change = ", ".join(f"{key} {value}" for key, value in each.change.items())
        peak = format_bytes(each.peak_bytes) if each.peak_bytes else ""
        saves = f"{100 * each.saves_bytes / plan.train_reserved_bytes:.0f} %" if each.peak_bytes else ""
        rows.append((change, each.fits, peak, saves, each.costs + (f" ({each.why})" if each.why else "")))
    yield from format_table(("to make it fit", "fits", "takes", "saves", "costs"), rows, right=(2, 3)).splitlines()


def _notes(plan: Plan) -> Iterator[str]:
    if plan.notes:
        yield ""
        yield from (f"note: {note}" for note in plan.notes)


def _aligned(rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    yield from (f"{name.ljust(width)}  {told}" for name, told in rows)
