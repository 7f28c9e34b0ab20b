"""The pictures of a plan in a folder: memory over a step, cost by layer, roofline; each as SVG and as PNG."""

from __future__ import annotations

from pathlib import Path

from conviction.figures import Markup, chart_style, element
from conviction.plan_figures import cost_by_layer, memory_timeline
from conviction.planning.records import Plan
from conviction.raster import to_png
from conviction.roofline_figure import roofline
from conviction.storage import make_folder, write_bytes, write_text


def draw_plan(plan: Plan) -> dict[str, Markup]:
    """Draw the pictures of a plan as SVG, by name."""
    device = plan.device
    room = device.memory_bytes - device.outside_bytes.expected
    rows = [(layer.name or layer.kind, layer.params, layer.macs, layer.saved_bytes, None) for layer in plan.layers]
    points = [(layer.name or layer.kind, layer.arithmetic_intensity, layer.flops) for layer in plan.layers]
    return {
        "memory": memory_timeline(
            [(moment.phase, moment.bytes) for moment in plan.timeline], plan.peak.total_bytes, room
        ),
        "layers": cost_by_layer(rows),
        "roofline": roofline(points, device.peak_flop_per_second, device.bandwidth_bytes_per_second),
    }


def save_plan(plan: Plan, folder: str | Path) -> tuple[Path, ...]:
    """Write the pictures into `folder`, made where it is missing; returns the PNG files."""
    written = []
    make_folder(Path(folder))
    for name, figure in draw_plan(plan).items():
        alone = figure.replace(">", ' xmlns="http://www.w3.org/2000/svg">' + element("style", Markup(chart_style())), 1)
        write_text(Path(folder) / f"{name}.svg", alone)
        written.append(write_bytes(Path(folder) / f"{name}.png", to_png(figure)))
    return tuple(written)
