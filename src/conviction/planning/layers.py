"""The layer table: what every layer of a net puts out, owns, computes and keeps, read off a run without numbers.

The net is copied to the meta device, where tensors have shapes and no memory, and run forward once in training mode.
The net itself is not touched: its weights are not read, its mode, hooks and random state stay as they are.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from conviction.errors import UsageError
from conviction.text import format_shape, printable

_ATEN = torch.ops.aten
_HOOKS = [name for name in vars(nn.Module()) if "_hooks" in name]
# Matrix products, and which argument is the left factor; a linear layer becomes one of them.
_PRODUCTS = {_ATEN.mm: 0, _ATEN.bmm: 0, _ATEN.addmm: 1, _ATEN.baddbmm: 1}


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
    _check_sizes(image, batch_size)
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


@dataclass
class _Running:
    """A module between its entry and its return, and what it did itself in between."""

    name: str
    module: nn.Module
    macs: int = 0
    saved_bytes: int = 0


class _Watcher(TorchDispatchMode):
    """Follows one forward pass over a meta copy: which module is running, what it multiplies and what it saves."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.running: list[_Running] = []
        self.layers: list[Layer] = []
        held = itertools.chain(net.parameters(), net.buffers())
        # Storages are compared by identity; the set keeps them alive, so that none can take the place of another.
        self.known = {tensor.untyped_storage() for tensor in held}
        self.owned: set[nn.Parameter] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self.running:
            self.running[-1].macs += _macs_of(func.overloadpacket, args, output)
        return output

    def enter(self, name: str, module: nn.Module) -> None:
        """Note that a module starts to run."""
        self.running.append(_Running(name, module))

    def save(self, tensor: Tensor) -> None:
        """Note a tensor that autograd saves. Nothing is handed back: no backward follows."""
        storage = tensor.untyped_storage()
        if storage not in self.known and self.running:
            self.known.add(storage)
            self.running[-1].saved_bytes += storage.nbytes()

    def leave(self, output: Any) -> None:
        """Write the line of the module that returns."""
        done = self.running.pop()
        new = set(done.module.parameters()) - self.owned  # those of its children are owned, if they ran
        self.owned |= new
        is_leaf = next(done.module.children(), None) is None
        if is_leaf or new or done.macs or done.saved_bytes:
            shape = next((tuple(tensor.shape[1:]) for tensor in _tensors_in(output)), ())
            params = sum(parameter.numel() for parameter in new)
            kind = type(done.module).__name__
            self.layers.append(Layer(done.name, kind, shape, params, done.macs, done.saved_bytes))


def _trace(net: nn.Module, image: tuple[int, int, int], batch_size: int) -> tuple[Layer, ...]:
    """Run a meta copy forward on a batch and read off its layers, `macs` by image."""
    watcher = _Watcher(net)
    handles = []
    for name, module in net.named_modules():
        # The names are bound as defaults: a closure would see only the last one.
        handles.append(module.register_forward_pre_hook(lambda m, inputs, name=name: watcher.enter(name, m)))
        handles.append(module.register_forward_hook(lambda m, inputs, output: watcher.leave(output)))
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    try:
        # Leaving inference mode turns gradients on, also within no_grad; the device context keeps tensors that a
        # forward makes for itself on the meta device too.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device("meta"):
            images = torch.empty(batch_size, *image, dtype=dtype)
            with saved_tensors_hooks(watcher.save, lambda nothing: nothing), watcher:
                net(images)
    except Exception as error:  # whatever a user's own forward raises
        raise _explain(error, watcher.running, image) from error
    finally:
        for handle in handles:
            handle.remove()
    return tuple(replace(layer, macs=layer.macs // batch_size) for layer in watcher.layers)


def _macs_of(operation: Any, args: tuple[Any, ...], output: Any) -> int:
    """Count the multiply-accumulates of one operation from the shapes of its arguments."""
    if operation is _ATEN.convolution:
        images, weight, transposed = args[0], args[1], args[6]
        # Every position of the output (of the input where transposed) meets every weight once, whatever the groups.
        grid = images if transposed else output
        return grid.shape[0] * grid.shape[2:].numel() * weight.numel()
    if operation in _PRODUCTS:
        left, right = args[_PRODUCTS[operation] :][:2]
        return left.numel() * right.shape[-1]
    return 0


def _tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, however its tuples, lists and mappings are nested."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list, dict)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors_in(part)


def _check_sizes(image: tuple[int, int, int], batch_size: int) -> None:
    if len(image) != 3 or not all(isinstance(size, int) and size >= 1 for size in image):
        raise UsageError(f"image = {printable(repr(image))} is not a shape", "", "use (channels, height, width)")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size = {printable(repr(batch_size))} is not a number of images", "", "use 1 or more")


def _explain(error: Exception, running: list[_Running], image: tuple[int, int, int]) -> UsageError:
    """Return the refusal for a forward that failed in the innermost of the running modules."""
    where = f"layer {printable(running[-1].name or type(running[-1].module).__name__)}" if running else ""
    if isinstance(error, NotImplementedError) or "meta" in str(error):
        return UsageError(f"the net cannot run without numbers: {_first_line(error)}", where,
                          "its forward depends on values, not only on shapes; measure a real step instead")  # fmt: skip
    return UsageError(f"the net cannot take images of {format_shape(image)}: {_first_line(error)}", where,
                      "give the shape that the net was made for, as (channels, height, width)")  # fmt: skip


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return printable(lines[0]) if lines else type(error).__name__
