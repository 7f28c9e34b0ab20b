"""Following a run, with or without numbers: every layer, every operation, every storage from birth to death."""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from conviction.planning.accumulation import sole_holders, summed_in_place
from conviction.planning.operations import macs_of, moved_bytes_of, scratch_of, tensors_in
from conviction.planning.recalling import answer


@dataclass
class Running:
    """A module between its entry and its return, and what it did itself in between."""

    name: str
    module: nn.Module
    macs: int = 0
    saved_bytes: int = 0


@dataclass
class Slot:
    """One storage: its bytes, what it holds (see `Watcher`), and where it was made."""

    bytes: int
    kind: str
    phase: str
    layer: str


@dataclass
class Work:
    """What the operations of one layer in one phase cost together."""

    macs: int = 0
    moved_bytes: int = 0
    operations: int = 0


@dataclass
class Returned:
    """A module that returned: itself, its output's shape without the batch, its own work and what it saved."""

    running: Running
    output_shape: tuple[int, ...]
    params: int


class Watcher(TorchDispatchMode):
    """Follows what runs while it is active.

    `slots` are the storages in the order of their birth; `events` tells births (the slot's number) and deaths (its
    complement, `~number`) in order. A slot's kind is `weights`, `inputs`, `saved`, `temporary` or `workspace`; whoever
    leads the run renames what turns out to be a gradient or the optimizer's. A slot of kind `workspace` stands for
    the scratch memory of a convolution's kernel and is as large as the tensors of that pass together: a measure for
    rules to scale, not a size. `phase` is set by who leads the run. What happens in the backward counts for the
    layer whose forward it belongs to.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.phase = "setup"
        self.running: list[Running] = []
        self.returned: list[Returned] = []
        self.slots: list[Slot] = []
        self.events: list[int] = []
        self.work: dict[tuple[str, str], Work] = defaultdict(Work)
        self._alive: dict[int, tuple[int, weakref.ref[UntypedStorage]]] = {}
        self._owned: set[nn.Parameter] = set()
        self._saved: set[int] = set()
        self._failed: Running | None = None
        self._layer_of_node: dict[int, str] = {}
        self._sole = sole_holders()
        for tensor in held:
            self.born(tensor, "weights")

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = None if self.running else summed_in_place(func, args, self._sole)
        if output is None:
            output = answer(func, args, kwargs or {})
        layer = self._layer()
        for tensor in tensors_in(output):
            self.born(tensor, "temporary", layer)
        for size in scratch_of(func.overloadpacket, args, output):
            self.events += (len(self.slots), ~len(self.slots))
            self.slots.append(Slot(size, "workspace", self.phase, layer))
        macs = macs_of(func.overloadpacket, args, output)
        if self.running:
            self.running[-1].macs += macs
        work = self.work[self.phase, layer]
        work.macs += macs
        work.moved_bytes += moved_bytes_of(func, args, kwargs or {}, output)
        work.operations += not func.is_view
        return output

    @property
    def innermost(self) -> str:
        """The name of the module that is running or failed, or its type where that is the whole net."""
        last = self.running[-1] if self.running else self._failed
        return (last.name or type(last.module).__name__) if last is not None else ""

    def _layer(self) -> str:
        """Return the layer that the operation at hand belongs to."""
        newest = torch.autograd._get_sequence_nr()  # nothing public tells which layer a node is of
        if self.running:
            # An operation that needs no gradient makes no node: the newest then has its layer already.
            self._layer_of_node.setdefault(newest - 1, self.running[-1].name)
            return self.running[-1].name
        at_work = torch._C._current_autograd_node()
        return "" if at_work is None else self._layer_of_node.get(at_work._sequence_nr(), "")

    def born(self, tensor: Tensor, kind: str, layer: str = "") -> None:
        """Note a tensor; nothing happens where its storage is known."""
        storage = tensor.untyped_storage()
        key = storage._cdata  # the storage's identity; meta storages have no address
        if key in self._alive or not storage.nbytes():
            return
        number = len(self.slots)
        self.slots.append(Slot(storage.nbytes(), kind, self.phase, layer))
        self.events.append(number)
        self._alive[key] = number, weakref.ref(storage, lambda _: self._died(key, number))

    def _died(self, key: int, number: int) -> None:
        if self._alive.get(key, (None,))[0] == number:
            del self._alive[key]
            self.events.append(~number)

    def slot_of(self, tensor: Tensor) -> int | None:
        """Return the number of the slot in which a tensor lies."""
        return self._alive.get(tensor.untyped_storage()._cdata, (None,))[0]

    def name_kind(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Say what the storages of some tensors hold."""
        for tensor in tensors:
            if (number := self.slot_of(tensor)) is not None:
                self.slots[number].kind = kind

    def save(self, tensor: Tensor) -> Tensor:
        """Note a tensor that autograd saves."""
        number = self.slot_of(tensor)
        if number is not None and number not in self._saved and self.slots[number].kind != "weights":
            self._saved.add(number)
            slot = self.slots[number]
            slot.kind = "saved" if slot.kind == "temporary" else slot.kind
            if self.running:
                self.running[-1].saved_bytes += slot.bytes
        return tensor

    def enter(self, name: str, module: nn.Module) -> None:
        """Note that a module starts to run."""
        self._failed = None
        self.running.append(Running(name, module))

    def leave(self, output: Any) -> None:
        """Note what a module that returns has done; `output` is None where it failed, or was stopped half-way."""
        done = self.running.pop()
        if output is None:
            self._failed = self._failed or done
            return
        new = set(done.module.parameters()) - self._owned  # those of its children are owned, if they ran
        self._owned |= new
        shape = next((tuple(tensor.shape[1:]) for tensor in tensors_in(output)), ())
        self.returned.append(Returned(done, shape, sum(parameter.numel() for parameter in new)))


@contextlib.contextmanager
def watching(net: nn.Module) -> Generator[Watcher]:
    """Follow everything that happens inside; `net`, which lies in memory or on the meta device, is known by name."""
    watcher = Watcher([*net.parameters(), *net.buffers()])
    handles = []
    for name, module in net.named_modules():
        # The names are bound as defaults: a closure would see only the last one.
        handles.append(module.register_forward_pre_hook(lambda m, inputs, name=name: watcher.enter(name, m)))
        leave = module.register_forward_hook(lambda m, inputs, output: watcher.leave(output), always_call=True)
        handles.append(leave)  # always: recomputation stops a module as soon as it has what it needs
    try:
        with saved_tensors_hooks(watcher.save, lambda tensor: tensor), watcher:
            yield watcher
    finally:
        for handle in handles:
            handle.remove()
