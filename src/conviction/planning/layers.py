"""The layer table: what every layer of a net puts out, owns, computes and keeps, read off a run without numbers.

The net is copied to the meta device, where tensors have shapes and no memory, and run forward once in training mode.
The net itself is not touched: its weights are not read, its mode, hooks and random state stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from conviction.errors import UsageError
from conviction.planning.ghosts import check_sizes, meta_copy, number_type, refusal
from conviction.planning.watching import Watcher, watching


@dataclass(frozen=True)
class Layer:
    """One running of a layer.

    `output_shape` is without the batch. `params` are the layer's own, with those of children that did not run, counted
    where they are first met: a layer that runs twice has them once, and all layers together have all. `macs` are
    multiply-accumulates of convolutions and matrix products, one image, forward. `saved_bytes` is what autograd keeps
    for the backward of the whole batch: each storage once, at the layer that saves it first, without parameters and
    buffers, which the net holds anyway.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    saved_bytes: int


def layer_table(net: nn.Module, image: tuple[int, int, int], batch_size: int = 1) -> tuple[Layer, ...]:
    """List the layers of `net` in the order in which they run on `batch_size` images of shape `image` (C, H, W).

    A layer is a module without children. A module with children has a line too, after theirs, where it does something
    itself: owns parameters, multiplies, or saves tensors, as attention and a gated join do. Auxiliary heads run, as
    they do in training. Dropout keeps a float mask, as on the CPU (on CUDA it is a quarter as large).

    Raises `UsageError`, which names the layer that fails, for an image that the net cannot take and for a net that
    cannot run without numbers.
    """
    check_sizes(image, batch_size)
    ghost = meta_copy(net).train()
    try:
        return _trace(ghost, image, batch_size)
    except UsageError:
        if batch_size > 1:
            raise
    # Batch norm refuses to train on a single value per channel; what a layer saves is affine in the batch.
    two, three = _trace(ghost, image, 2), _trace(ghost, image, 3)
    return tuple(replace(a, saved_bytes=2 * a.saved_bytes - b.saved_bytes) for a, b in zip(two, three, strict=True))


def total(layers: Iterable[Layer]) -> Layer:
    """Add up a layer table; the output shape is that of the last layer."""
    layers = tuple(layers)
    return Layer(
        name="total",
        kind="",
        output_shape=layers[-1].output_shape if layers else (),
        params=sum(layer.params for layer in layers),
        macs=sum(layer.macs for layer in layers),
        saved_bytes=sum(layer.saved_bytes for layer in layers),
    )


def saved_bytes(net: nn.Module, image: tuple[int, int, int], batch_size: int = 1) -> int:
    """Return the bytes that autograd keeps between forward and backward for `batch_size` images of shape `image`."""
    return total(layer_table(net, image, batch_size)).saved_bytes


def _trace(net: nn.Module, image: tuple[int, int, int], batch_size: int) -> tuple[Layer, ...]:
    """Run a meta copy forward on a batch and read off its layers."""
    # Leaving inference mode turns gradients on, also within no_grad; the device context keeps tensors that a
    # forward makes for itself on the meta device too.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device("meta"), watching(net) as watcher:
        try:
            net(torch.empty(batch_size, *image, dtype=number_type(net)))
        except Exception as error:  # whatever a user's own forward raises
            raise refusal(error, watcher.innermost, image) from error
    return table_of(watcher, batch_size)


def table_of(watcher: Watcher, batch_size: int) -> tuple[Layer, ...]:
    """List the layers that a watcher saw returning from their forward on `batch_size` images."""
    return tuple(
        Layer(done.name, type(done.module).__name__, each.output_shape, each.params, done.macs // batch_size,
              done.saved_bytes)
        for each in watcher.returned
        for done in (each.running,)
        if next(done.module.children(), None) is None or each.params or done.macs or done.saved_bytes
    )  # fmt: skip
