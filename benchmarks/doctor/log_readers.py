"""Today's log readers on what a logger would have written of a program: loss, rate and gradient norm, step by step.

runmedic and gradsnitch, as they are installed (`pip install runmedic==0.1.1 gradsnitch==0.1.0`); without them they are
left out. Both are given a CSV file with the loss of every step, and with rate and gradient norm where the recording has
them; what runmedic files under "info" is no complaint. None is given the memory, which is not recorded.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import tempfile
from pathlib import Path
from typing import Any

Record = dict[str, Any]

_NEVER_MOVES = {"step-missing", "loss-detached", "frozen-params", "optimizer-owns-other-net", "wrong-model-passed",
                "labels-shuffled", "lr-too-low", "lr-absurd", "init-collapse", "init-symmetric", "dead-relu",
                "schedule-kills-lr"}  # fmt: skip
_BLOWS_UP = {"lr-absurd", "lr-too-high", "non-finite", "init-huge", "zero-grad-missing", "nll-on-logits",
             "sign-flipped", "input-unscaled"}  # fmt: skip
# What a reader's word may mean in our vocabulary.
MEANINGS: dict[str, set[str]] = {
    "runmedic non_finite": _BLOWS_UP | {"amp-underflow"},
    "runmedic divergence": _BLOWS_UP | {"optimizer-settings"},
    "runmedic loss_spikes": _BLOWS_UP | {"optimizer-settings", "labels-malformed"},
    "runmedic grad_spikes": _BLOWS_UP,
    "runmedic no_learning": _NEVER_MOVES,
    "runmedic overfitting": {"train-test-leak", "no-eval-at-test"},
    "gradsnitch GS001": _BLOWS_UP | {"amp-underflow"},
    "gradsnitch GS002": _BLOWS_UP,
    "gradsnitch GS003": _BLOWS_UP,
    "gradsnitch GS004": {"train-test-leak", "no-eval-at-test"},
    "gradsnitch GS005": _NEVER_MOVES | {"clip-too-low", "weight-decay-dominates"},
    "gradsnitch GS006": _BLOWS_UP | {"optimizer-settings"},
    "gradsnitch GS007": {"init-collapse", "init-tiny", "saturating-activations", "dead-relu", "amp-underflow"},
    "gradsnitch GS008": {"lr-absurd", "lr-too-high", "lr-too-low", "step-missing"},
    "gradsnitch GS009": {"lr-absurd", "lr-too-high", "optimizer-settings", "zero-grad-missing"},
    "gradsnitch GS010": {"schedule-kills-lr"},
}


def write_log(record: Record, path: Path) -> None:
    """Write the recording as a logger's table, one row a step."""
    measured = {row["step"]: row for row in record["steps"]}
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["step", "train_loss", "lr", "grad_norm"])
        for step, loss in enumerate(record["losses"]):
            row = measured.get(step)
            norms = [layer["grad_norm"] or 0.0 for layer in row["layers"]] if row else []
            table.writerow([step, loss, row["lr"] if row else "", math.hypot(*norms) if norms else ""])


def ask_runmedic(record: Record) -> list[str]:
    """Return the checks of runmedic that warn."""
    from runmedic import loaders, roles
    from runmedic.checks import run_checks

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        write_log(record, path)
        runs = loaders.load(str(path)) if record["losses"] else []
    found = [finding for run in runs for finding in run_checks(run, roles.detect(run))]
    return [f"runmedic {finding.check}" for finding in found if finding.severity != "info"]


def ask_gradsnitch(record: Record) -> list[str]:
    """Return the rules of gradsnitch that speak."""
    import gradsnitch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        write_log(record, path)
        found = gradsnitch.lint_csv(str(path)) if record["losses"] else []
    return [f"gradsnitch {finding.code}" for finding in found]


NAMES = ("runmedic", "gradsnitch")
READERS = {
    name: ask for name, ask in zip(NAMES, (ask_runmedic, ask_gradsnitch), strict=True)
    if importlib.util.find_spec(name) is not None
}  # fmt: skip
