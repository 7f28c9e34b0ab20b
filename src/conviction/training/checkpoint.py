"""Checkpoints: tensors in one safetensors file, everything else as JSON in its header. No pickle anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from conviction.errors import WeightsError
from conviction.storage import write_bytes
from conviction.text import list_some, printable
from conviction.training.loop import Training

FORMAT = "conviction-1"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write tensors and JSON-able facts to one safetensors file, in one step."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        alone = tensor.detach().cpu().contiguous()
        address = alone.untyped_storage().data_ptr()
        plain[name] = alone.clone() if address in seen else alone  # the format knows no tied weights
        seen.add(address)
    # Losses of a run may be NaN or infinite; only Python reads this JSON.
    header = {"format": FORMAT, "facts": json.dumps(facts)}
    return write_bytes(path, safetensors.torch.save(plain, metadata=header))


def read_tensors(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote, of the tensors those whose names begin with `prefix`.

    Raises `WeightsError` for a file that is missing, torn or foreign.
    """
    remedy = "give a run folder that `conviction fit` wrote"
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (no mapping)
            tensors = {name: file.get_tensor(name) for name in names}
        if header.get("format") != FORMAT:
            raise WeightsError("not a checkpoint of this program", printable(path), remedy)
        return tensors, json.loads(header["facts"])
    except FileNotFoundError as error:
        raise WeightsError("the checkpoint is missing", printable(path), remedy) from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"the checkpoint cannot be read: {printable(error)}", printable(path), remedy) from error


def load_state(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into `net`; raises `WeightsError` that lists what is missing, left over or of another shape."""
    own = net.state_dict()
    missing = [name for name in own if name not in tensors]
    foreign = [name for name in tensors if name not in own]
    unequal = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    for what, names in (("lack", missing), ("have no place for", foreign), ("differ in shape at", unequal)):
        if names:
            raise WeightsError(f"the weights do not fit the net: they {what} {list_some(names)}", printable(path),
                               "load them into the net that they were trained with")  # fmt: skip
    net.load_state_dict(dict(tensors))


def collect_state(training: Training) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return all that goes on with a training by name (net, average, optimizer), as it is and not copied, and facts."""
    tensors = {f"net.{name}": tensor for name, tensor in training.net.state_dict().items()}
    facts: dict[str, Any] = {"scaler": training.scaler.state_dict()}
    if training.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in training.average.net.state_dict().items()}
        facts["average_updates"] = training.average.updates
    state = training.optimizer.state_dict()["state"]
    for index, slots in state.items():
        tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()
                    if value is not None}  # fmt: skip
    return tensors, facts


def restore_state(training: Training, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], where: Path) -> None:
    """Put a training back to what `collect_state` returned; the tensors are copied. `where` is named by errors."""
    load_state(training.net, _under("net.", tensors), where)
    if training.average is not None:
        load_state(training.average.net, _under("average.", tensors), where)
        training.average.updates = facts["average_updates"]
    parameters = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, slot = name.split(".")
        slots.setdefault(int(index), {})[slot] = _laid_out_as(parameters[int(index)], tensor)
    whole = training.optimizer.state_dict()
    training.optimizer.load_state_dict({**whole, "state": slots})
    training.scaler.load_state_dict(facts["scaler"])


def save_training(
    path: Path, training: Training, facts: Mapping[str, Any], kept: Mapping[str, Tensor] | None = None
) -> Path:
    """Write all that goes on with a training at an epoch's end: net, average and optimizer.

    `kept` are tensors to be had back by `load_kept`.
    """
    tensors, own = collect_state(training)
    own |= {"parts": _parts(training), "rate_factor": training.rate_factor}
    tensors |= {f"kept.{name}": tensor for name, tensor in (kept or {}).items()}
    return save_tensors(path, tensors, {**facts, **own})


def load_training(path: Path, training: Training) -> dict[str, Any]:
    """Put a training back to what `save_training` wrote; returns the facts saved with it.

    Raises `WeightsError` for a file of another net, of another recipe, or of weights alone.
    """
    tensors, facts = read_tensors(path)
    if "parts" not in facts:
        raise WeightsError("not the checkpoint of a training", printable(path), "give the last checkpoint of a run")
    if facts["parts"] != _parts(training):
        raise WeightsError("the checkpoint was made with another optimizer, precision or averaging", printable(path),
                           "go on with the recipe that the run was begun with")  # fmt: skip
    restore_state(training, tensors, facts, path)
    training.rate_factor = facts.get("rate_factor", 1.0)
    return facts


def load_kept(path: Path) -> dict[str, Tensor]:
    """Read the tensors that `save_training` was given to keep."""
    return _under("kept.", read_tensors(path, "kept.")[0])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _laid_out_as(parameter: Tensor, slot: Tensor) -> Tensor:
    """Copy a slot of the optimizer, in the memory layout of its parameter, as it had before it was taken."""
    return torch.empty_like(parameter).copy_(slot) if slot.shape == parameter.shape else slot.clone()


def _parts(training: Training) -> dict[str, Any]:
    """Tell what a training is made of, as far as a checkpoint has to fit it."""
    return {
        "optimizer": type(training.optimizer).__name__,
        "averaged": training.average is not None,
        "scaled": training.scaler.is_enabled(),
    }
