"""Ghosts: copies of nets on the meta device, where tensors have shapes and no memory, and refusals in one line."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from conviction.errors import UsageError
from conviction.text import format_shape, printable

# Of a batch: beyond, sizes in bytes leave the whole numbers of 64 bits.
_MOST_IMAGES = 1_000_000
_HOOKS = [name for name in vars(nn.Module()) if "_hooks" in name]


def meta_copy(net: nn.Module) -> nn.Module:
    """Copy a net onto the meta device without its hooks; ties between parameters and `requires_grad` are kept.

    Raises `UsageError` for a scripted net and for one that holds something that cannot be copied.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise UsageError("a scripted net does not show its layers", printable(type(net).__name__),
                         "give the module that it was made from")  # fmt: skip
    memo: dict[int, Any] = {}
    for module in net.modules():
        state = vars(module)
        # Tensors among the plain attributes are what weight norm and pruning compute.
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False), *state.values()):
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                memo[id(tensor)] = _on_meta(tensor, printable(type(module).__name__))
        memo |= {id(state[name]): OrderedDict() for name in _HOOKS if name in state}
    try:
        return copy.deepcopy(net, memo)
    except Exception as error:  # whatever a user's own attributes raise
        raise UsageError(f"the net cannot be copied: {_first_line(error)}", type(net).__name__,
                         "keep files, locks and generators out of the net's attributes") from error  # fmt: skip


def _on_meta(tensor: Tensor, owner: str) -> Tensor:
    if nn.parameter.is_lazy(tensor):
        raise UsageError("a lazy layer has no shape yet", owner, "run the net once on a batch of images")
    with torch.inference_mode(False):
        ghost = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(ghost, tensor.requires_grad)
    return ghost.requires_grad_(tensor.requires_grad)


def number_type(net: nn.Module) -> torch.dtype:
    """Return the number format of a net's parameters, in which its images come."""
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)


def trainable_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that an optimizer moves; raises `UsageError` where there are none."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not parameters:
        raise UsageError("the net has no trainable parameter", "", "set requires_grad on some of its parameters")
    return parameters


def check_sizes(image: tuple[int, int, int], batch_size: int) -> None:
    """Raise `UsageError` unless these are a shape (C, H, W) and a number of images."""
    if len(image) != 3 or not all(isinstance(size, int) and size >= 1 for size in image):
        raise UsageError(f"image = {printable(repr(image))} is not a shape", "", "use (channels, height, width)")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size = {printable(repr(batch_size))} is not a number of images", "", "use 1 or more")
    if batch_size > _MOST_IMAGES:
        raise UsageError(f"batch_size = {batch_size} is too many images", "", f"use at most {_MOST_IMAGES:,}")


def refusal(error: Exception, layer: str, image: tuple[int, int, int]) -> UsageError:
    """Return the refusal for a forward that failed in `layer`, the innermost of the modules that were running."""
    where = f"layer {printable(layer)}" if layer else ""
    if isinstance(error, NotImplementedError) or "meta" in str(error):
        return UsageError(f"the net cannot run without numbers: {_first_line(error)}", where,
                          "its forward depends on values, not only on shapes; measure a real step instead")  # fmt: skip
    return UsageError(f"the net cannot take images of {format_shape(image)}: {_first_line(error)}", where,
                      "give the shape that the net was made for, as (channels, height, width)")  # fmt: skip


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return printable(lines[0]) if lines else type(error).__name__
