"""Results on stdout: one JSON object, or text for people."""

from __future__ import annotations

import dataclasses
import json as json_format
import math
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conviction.errors import DivergedError
from conviction.text import (
    format_bytes,
    format_count,
    format_percent,
    format_seconds,
    format_shape,
    format_table,
    printable,
    quoted,
)

if TYPE_CHECKING:
    from pathlib import Path

    from conviction.data.audit import Audit
    from conviction.lr_finding import LRSweep
    from conviction.metrics import Evaluation
    from conviction.nets.catalogue import Row
    from conviction.planning.layers import Layer
    from conviction.planning.out_of_memory import Explanation
    from conviction.planning.records import Plan
    from conviction.runs import Run


def print_json(fields: dict[str, Any]) -> None:
    """Print one JSON object; numbers that are not finite become null."""
    print(json_format.dumps(_finite(fields), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def show_nets(rows: Sequence[Row], json: bool) -> None:
    """The table of nets."""
    fields = ("name", "paper", "year", "params", "macs", "image", "min_image", "weights")
    if json:
        print_json({"rows": [{field: getattr(row, field) for field in fields} for row in rows]})
        return
    header = ("net", "year", "params", "MACs", "image", "smallest", "weights", "paper")
    lines = [
        (row.name, str(row.year), format_count(row.params), format_count(row.macs), format_shape(row.image),
         str(row.min_image), "yes" if row.weights else "-", row.paper)
        for row in rows
    ]  # fmt: skip
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # titles are cut, never wrapped
    print("\n".join(line[:width] for line in format_table(header, lines, right=(2, 3, 5)).splitlines()))
    print("\nMACs: multiply-accumulates of convolutions and linear layers, one image of the size shown, forward.")
    print("Any net is narrowed by /2, /4 or /8 after its name, as in vgg11/4.")


def show_layers(net: str, image: tuple[int, int, int], layers: Sequence[Layer], json: bool) -> None:
    """The layer table."""
    from conviction.planning.layers import total  # torch is there by now: the layers were measured with it

    whole = total(layers)
    if json:
        totals = {"params": whole.params, "macs": whole.macs, "saved_bytes": whole.saved_bytes}
        print_json({"net": net, "image": image, **totals, "layers": [dataclasses.asdict(layer) for layer in layers]})
        return
    header = ("layer", "kind", "output", "params", "MACs", "saved")
    rows = [
        (layer.name, layer.kind, format_shape(layer.output_shape), f"{layer.params:,}", format_count(layer.macs),
         format_bytes(layer.saved_bytes))
        for layer in layers
    ]  # fmt: skip
    last = ("total", "", "", f"{whole.params:,}", format_count(whole.macs), format_bytes(whole.saved_bytes))
    print(f"{net}, image {format_shape(image)}\n")
    print(format_table(header, [*rows, last], right=(3, 4, 5)))
    print("\nsaved: bytes kept for the backward pass of a training step.")


def show_audit(audit: Audit, json: bool) -> None:
    """What an audit found."""
    if json:
        print_json(audit.to_dict())
    else:
        print(audit)


def show_plan(plan: Plan, pictures: Sequence[Path], json: bool) -> None:
    """What a run will cost."""
    if json:
        print_json(plan.to_dict())
        return
    print(plan)
    for picture in pictures:
        print(f"picture: {printable(picture)}")


def show_explanation(explanation: Explanation, json: bool) -> None:
    """What held the memory."""
    from conviction.planning.out_of_memory import format_explanation

    if json:
        print_json(explanation.to_dict())
    else:
        print(format_explanation(explanation))


def show_sweep(sweep: LRSweep, out: Path | None, json: bool) -> None:
    """A learning rate with its proof; a refusal is shown and then raised, for its exit code."""
    if json:
        print_json(sweep.to_dict())
    else:
        print(sweep)
        if out is not None:
            print(f"curve: {printable(out)}")
    if sweep.refused is not None:
        raise DivergedError(f"no learning rate helps: {sweep.refused['cause']}", sweep.net, "try what is told above")


def show_fit(run: Run, json: bool) -> None:
    """The outcome of a fit, and what to do with it."""
    result = run.result
    if json:
        print_json(result)
        return
    low, high = result["interval"]
    folder = quoted(run.folder)
    print(f"{result['net']} on {printable(result['data'])}: {result['split']} top-1 {format_percent(result['top1'])}"
          f" (95 % interval {format_percent(low)} to {format_percent(high)})")  # fmt: skip
    print(f"validation {format_percent(result['valid_top1'])}, train {format_percent(result['train_top1'])},"
          f" {result['epochs']} epochs in {format_seconds(result['seconds'])},"
          f" {result['images_per_second']:.0f} images/s")  # fmt: skip
    print(f"report: {printable(run.folder / 'report.html')}")
    print(f"next:   conviction evaluate {folder}   |   conviction predict {folder} IMAGE...")


def show_evaluation(evaluation: Evaluation, json: bool) -> None:
    """Accuracy with its interval, calibration, the classes from worst to best."""
    if json:
        print_json(evaluation.to_dict())
    else:
        print(evaluation)


def show_predictions(rows: Sequence[dict[str, Any]], json: bool) -> None:
    """One line an image."""
    if json:
        print_json({"rows": list(rows)})
        return
    lines = [
        (printable(row["file"]), printable(row["label"] or f"({row['error']})"), format_percent(row["probability"]),
         ", ".join(f"{printable(other['label'])} {format_percent(other['probability'])}" for other in row["top"][1:3]))
        for row in rows
    ]  # fmt: skip
    print(format_table(("file", "class", "probability", "then"), lines, right=(2,)))
