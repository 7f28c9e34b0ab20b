"""Conviction: convolutional networks that train.

    data = conviction.folder("./photos")
    net = conviction.build("vgg11", num_classes=data.num_classes, image=data.image)
    run = conviction.fit(net, data, conviction.Recipe(epochs=10), out="runs/vgg11")
    print(conviction.evaluate(run.net, data.valid))

Importing this page imports no torch; each name does when it is first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conviction.version import __version__

if TYPE_CHECKING:
    from torch import nn

    from conviction.data.audit import Audit
    from conviction.data.folder import read_folder as folder
    from conviction.data.named import read_named as dataset
    from conviction.data.records import Data
    from conviction.data.wrapped import from_loaders
    from conviction.diagnosing import Watch
    from conviction.diagnosis.records import Diagnosis
    from conviction.diagnosis_page import write_page as save_diagnosis
    from conviction.errors import ConvictionError
    from conviction.evaluation import evaluate
    from conviction.lr_finding import LRSweep
    from conviction.metrics import Evaluation
    from conviction.nets import NETS, build, names, sketch
    from conviction.plan_album import save_plan
    from conviction.planned import expected_of
    from conviction.planning.layers import layer_table
    from conviction.planning.out_of_memory import explain_text as explain_oom
    from conviction.planning.records import Plan
    from conviction.recipe import Recipe
    from conviction.runs import Run
    from conviction.runs import read_run as load

# Where each name of the page lives; they are fetched when first asked for (PEP 562).
_PAGE = {
    "ConvictionError": "errors:ConvictionError",
    "Data": "data.records:Data",
    "Diagnosis": "diagnosis.records:Diagnosis",
    "Evaluation": "metrics:Evaluation",
    "LRSweep": "lr_finding:LRSweep",
    "NETS": "nets:NETS",
    "Recipe": "recipe:Recipe",
    "Plan": "planning.records:Plan",
    "Run": "runs:Run",
    "build": "nets:build",
    "dataset": "data.named:read_named",
    "evaluate": "evaluation:evaluate",
    "expected_of": "planned:expected_of",
    "explain_oom": "planning.out_of_memory:explain_text",
    "folder": "data.folder:read_folder",
    "from_loaders": "data.wrapped:from_loaders",
    "layer_table": "planning.layers:layer_table",
    "load": "runs:read_run",
    "names": "nets:names",
    "save_plan": "plan_album:save_plan",
    "save_diagnosis": "diagnosis_page:write_page",
    "sketch": "nets:sketch",
}

__all__ = ["__version__", "audit", "diagnose", "evaluate_run", "find_lr", "fit", "plan", "predict", "watch", *_PAGE]


def __getattr__(name: str) -> Any:
    if name not in _PAGE:
        raise AttributeError(f"module 'conviction' has no attribute {name!r}")
    module, attribute = _PAGE[name].split(":")
    value = getattr(importlib.import_module(f"conviction.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def fit(
    net: str | nn.Module,
    data: Data | str | os.PathLike[str],
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    data_root: str | None = None,
) -> Run:
    """Train a net on data, evaluate it and write the run's folder; progress goes to stderr.

    `net` is a name, built for the data, or any module that maps float images [N, C, H, W] to logits [N, classes]; it is
    trained in place. `out` is the run's folder, by default the next free `runs/NET-N`. With `resume` an interrupted run
    in `out` goes on at its last whole epoch; a finished one is returned.
    """
    from conviction.fitting import fit_events
    from conviction.progress import choose_display, follow, tell_download

    display = choose_display()
    told = tell_download(display)
    return follow(fit_events(net, data, recipe, out, resume=resume, data_root=data_root, progress=told), display)


def find_lr(
    net: str | nn.Module,
    data: Data | str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    optimizer: str | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    data_root: str | None = None,
) -> LRSweep:
    """Find the largest learning rate with which a net learns best, proved by short runs; progress goes to stderr.

    The answer holds for this optimizer, batch size, precision, augmentation and schedule: those of the recipe, or
    what `fit` would take. Where no rate helps, `lr` is None and `refused` tells the cause. The net is left as it was.
    """
    from conviction.lr_finding import lr_events
    from conviction.progress import choose_display, follow_sweep, tell_download
    from conviction.recipe import Recipe

    given = {"optimizer": optimizer, "batch_size": batch_size, "seed": seed}
    knobs = (recipe or Recipe()).replace(**{name: value for name, value in given.items() if value is not None})
    display = choose_display()
    return follow_sweep(lr_events(net, data, knobs, data_root=data_root, progress=tell_download(display)), display)


def plan(
    net: str | nn.Module,
    images: tuple[int, int, int] | Data | str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    *,
    batch_size: int | None = None,
    optimizer: str | None = None,
    precision: str | None = None,
    num_classes: int | None = None,
    device: str | None = None,
    data_root: str | None = None,
    measure: bool = True,
) -> Plan:
    """Say what training and predicting with a net will cost; nothing is trained.

    `images` is a shape (C, H, W) or data, `device` a card by its name (`t4`, `rtx 3060`), by its memory (`16GiB`), or
    `cpu` or `cuda`: what is here. What `fit` would decide by itself is decided. With `measure` a device that is here is
    timed for about two seconds on a copy of the net.
    """
    from conviction.planned import plan_fit
    from conviction.progress import choose_display, tell_download
    from conviction.recipe import Recipe

    given = {"optimizer": optimizer, "batch_size": batch_size, "precision": precision}
    knobs = (recipe or Recipe()).replace(**{name: value for name, value in given.items() if value is not None})
    return plan_fit(net, images, knobs, num_classes=num_classes, device=device, data_root=data_root, measure=measure,
                    progress=tell_download(choose_display()))  # fmt: skip


def evaluate_run(
    run: Run | str | Path, data: Data | str | None = None, *, device: str | None = None, data_root: str | None = None
) -> Evaluation:
    """Measure a run on its own test split (else validation), or on other data with the same classes."""
    from conviction.evaluation import evaluate_run

    return evaluate_run(run, data, device=device, data_root=data_root)


def predict(
    run: Run | str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    top: int = 5,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Say what is in images (files, folders, patterns): rows of `file`, `label`, `probability`, `top`."""
    from conviction.prediction import predict_run

    return predict_run(run, images, top=top, device=device)


def audit(data: Data | str | os.PathLike[str], *, data_root: str | None = None) -> Audit:
    """Audit a folder, a named set or a `Data`: counts, broken files, duplicates, leaks. Nothing is changed."""
    from conviction.data import audit_any

    return audit_any(data, data_root=data_root)


def diagnose(
    what: str | os.PathLike[str] | Run | nn.Module,
    data: Data | str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    *,
    arguments: Sequence[str] = (),
    steps: int | None = None,
    seconds: float = 60.0,
    fix: bool = False,
    data_root: str | None = None,
) -> Diagnosis:
    """Say why something does not learn: its findings, most likely first; none where it is healthy.

    `what` is a script (`train.py`) or a notebook, run as it is with its `arguments` in a process of its own for
    `seconds` at most (or `steps` optimizer steps); a run or its folder; or a net with its `data`. What a script prints
    goes to stderr. With `fix` a script gets a mended copy, `train.fixed.py`, beside it, and a run, or a net with its
    data, the mended recipe as `NAME.fixed.toml`, tried anew for `seconds` a change; nothing else is written.
    """
    from conviction.diagnosing import diagnose
    from conviction.progress import choose_display, tell_download

    prints = getattr(sys.stderr, "buffer", None)
    told = tell_download(choose_display()) if data is not None else None
    return diagnose(what, data, recipe, arguments=arguments, steps=steps, seconds=seconds, fix=fix,
                    data_root=data_root, prints=prints, progress=told)  # fmt: skip


def watch(net: nn.Module | None = None, optimizer: object = None, *, seconds: float = 15.0) -> Watch:
    """Observe one's own training loop, unchanged: `with conviction.watch(net, optimizer) as seen: ...`.

    Afterwards `seen.findings` tells what is wrong; when it is first asked for, experiments on copies of the net take
    up to `seconds` (0: none). The numbers of the loop are what they were without it.
    """
    from conviction.diagnosing import Watch

    return Watch(net, optimizer, seconds, sys._getframe(1).f_code.co_filename)
