"""What the published tools look at, recorded while a program runs plainly: curves, gradients, weights, activations.

    python benchmarks/doctor/recorder.py PROGRAM RECORD.json [MENDING]

This is the witness of `baselines.py` and knows nothing of the doctor. Steps 1 to 10 and every tenth after them are
measured. MENDING is one of `MENDINGS`: a change of the fix menu that is forced upon the program as it runs.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

MENDINGS = ("lr/10", "lr*10", "adam", "clip", "he-init", "leaky-relu", "selu", "scale-inputs")
_ACTIVATIONS = {"relu": (nn.ReLU,), "sigmoid": (nn.Sigmoid,), "tanh": (nn.Tanh,)}

losses: list[float] = []
accuracies: list[float] = []
steps: list[dict[str, Any]] = []
activations: list[dict[str, Any]] = []
inputs: dict[str, Any] = {}
last: dict[str, Any] = {"step": 0, "module": "", "before": {}}


def is_measured() -> bool:
    """Tell whether this step is one of those looked at."""
    return last["step"] < 10 or last["step"] % 10 == 0


def measure_activation(kind: str, given: Tensor, made: Tensor) -> None:
    """Keep what an activation function does: zero outputs, silent units, saturated inputs."""
    if not is_measured() or not torch.is_grad_enabled() or made.dim() < 2:
        return
    with torch.no_grad():
        units = made.detach().transpose(0, 1).flatten(1).float()
        row = {"step": last["step"], "kind": kind, "zeros": float((units == 0).float().mean()),
               "silent": float(((units > 0).float().mean(1) < 0.01).float().mean()),
               "low": float(given.detach().min()), "high": float(given.detach().max())}  # fmt: skip
        bound = (-5.0, 5.0)  # DeepDiagnosis' bounds
        row["saturated"] = float(((given <= bound[0]) | (given >= bound[1])).float().mean())
        activations.append(row)


def after_forward(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
    """Follow the forward passes: activations, the last module, the inputs of the first."""
    if not given or not isinstance(given[0], Tensor) or not isinstance(made, Tensor):
        return
    for kind, classes in _ACTIVATIONS.items():
        if isinstance(module, classes):
            measure_activation(kind, given[0], made)
    if torch.is_grad_enabled() and not list(module.children()):
        last["module"] = type(module).__name__
    if not inputs and given[0].is_floating_point():
        x = given[0].detach().float()
        inputs.update(low=float(x.min()), high=float(x.max()), mean=float(x.mean()), shape=list(x.shape))


def before_step(optimizer: Optimizer, *_: Any) -> None:
    """Measure gradients and weights; keep the weights to see the update."""
    if not is_measured():
        return
    rows = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            last["before"][p] = p.detach().clone()
            if p.dim() > 1:
                grad = p.grad
                rows.append({"weight_norm": float(p.norm()), "weight_var": float(p.detach().float().var()),
                             "weight_max": float(p.detach().abs().max()),
                             "grad_mean": None if grad is None else float(grad.abs().mean()),
                             "grad_norm": None if grad is None else float(grad.norm()),
                             "grad_zeros": None if grad is None else float((grad == 0).float().mean()),
                             "grad_finite": grad is None or bool(grad.isfinite().all())})  # fmt: skip
    steps.append({"step": last["step"], "lr": float(optimizer.param_groups[0]["lr"]), "layers": rows})


def after_step(optimizer: Optimizer, *_: Any) -> None:
    """Measure the update against the weights."""
    ratios = [float((p.detach() - old).norm() / old.norm().clamp_min(1e-9)) for p, old in last["before"].items()
              if p.dim() > 1]  # fmt: skip
    if ratios and steps:
        steps[-1]["updates"] = ratios
    last["before"] = {}
    last["step"] += 1


def watch_losses() -> None:
    """Keep every loss that goes backward, and the accuracy of every classification loss before it."""
    backward, entropy, nll = Tensor.backward, F.cross_entropy, F.nll_loss

    def backwards(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(RuntimeError, ValueError):
            losses.append(float(self.detach().float().mean()))
        return backward(self, *args, **kwargs)

    def counted(function: Any) -> Any:
        def call(given: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if torch.is_grad_enabled() and given.dim() == 2 and target.dim() == 1:
                accuracies.append(float((given.detach().argmax(1) == target).float().mean()))
            return function(given, target, *args, **kwargs)

        return call

    Tensor.backward = backwards
    F.cross_entropy, F.nll_loss = counted(entropy), counted(nll)


def watch_functions() -> None:
    """See the activations that are called as functions."""
    for kind in _ACTIVATIONS:
        plain = getattr(torch, kind)

        def call(given: Tensor, *args: Any, _kind: str = kind, _plain: Any = plain, **kwargs: Any) -> Tensor:
            made = _plain(given, *args, **kwargs)
            measure_activation(_kind, given, made)
            return made

        setattr(torch, kind, call)


def mend(how: str) -> None:
    """Force a change of the fix menu upon the program that is about to run."""
    plain = Optimizer.__init__
    if how in ("leaky-relu", "selu"):
        made = nn.LeakyReLU if how == "leaky-relu" else nn.SELU
        nn.ReLU = nn.Sigmoid = nn.Tanh = lambda *_, **__: made()
        torch.relu = F.relu = torch.sigmoid = torch.tanh = lambda x, *_, **__: made()(x)
        return
    if how == "scale-inputs":
        nn.modules.module.register_module_forward_pre_hook(_scaled)
        return

    def begin(self: Optimizer, params: Any, defaults: dict[str, Any]) -> None:
        factor = {"lr/10": 0.1, "lr*10": 10.0}.get(how, 1.0)
        plain(self, params, {**defaults, "lr": defaults["lr"] * factor})
        for group in self.param_groups:
            for p in group["params"]:
                if how == "he-init" and p.dim() > 1:
                    nn.init.kaiming_normal_(p.detach())

    Optimizer.__init__ = begin
    if how == "adam":
        torch.optim.SGD = lambda params, *_, **__: torch.optim.Adam(params, lr=1e-3)
    if how == "clip":
        register_optimizer_step_pre_hook(
            lambda optimizer, *_: nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1)
        )


def _scaled(module: nn.Module, given: tuple[Any, ...]) -> Any:
    """Scale what comes from the data (it has no graph) to 0..1 where it goes beyond it."""
    x = given[0] if given else None
    if isinstance(x, Tensor) and not x.requires_grad and x.is_floating_point() and float(x.abs().max()) > 10:
        return (x / x.abs().max(), *given[1:])
    return None


def main(program: str, record: str, mending: str = "") -> None:
    """Run a program as `__main__`, and write what was recorded however it ends."""
    if mending:
        mend(mending)
    else:
        nn.modules.module.register_module_forward_hook(after_forward)
        register_optimizer_step_pre_hook(before_step)
        register_optimizer_step_post_hook(after_step)
        watch_losses()
        watch_functions()
    atexit.register(lambda: Path(record).write_text(json.dumps(
        {"losses": losses, "accuracies": accuracies, "steps": steps, "activations": activations[-2000:],
         "inputs": inputs, "last_module": last["module"]})))  # fmt: skip
    sys.argv = [program]
    sys.path[0] = str(Path(program).parent)
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:4])
