"""The nets of a program: the outermost modules of its forward passes, and those whose parameters are optimized."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from conviction.findings.observation import NetSeen, Place

_DROPOUTS = nn.modules.dropout._DropoutNd
_NORMS = nn.modules.batchnorm._BatchNorm
# Times that all objects of the program may be searched for modules; a search takes some 20 ms.
_MOST_SEARCHES = 8


@dataclass(eq=False)
class Parameter:
    """What is known of one parameter; `ref` is weak, so that a net that the program lets go is gone."""

    ref: Any
    numel: int
    trainable: bool
    held: bool = False  # by a net that is known
    owned: bool = False
    graded: bool = False
    moved: bool = False


@dataclass(eq=False)
class NetRecord:
    """What is known of one net so far. `forwarded` is False for one that only an optimizer is known to have."""

    kind: str
    ref: Any
    parameters: list[Parameter]
    has_batch_norm: bool
    dropouts: tuple[tuple[str, float, bool], ...]
    made_at: Place | None = None
    forwarded: bool = False
    first_piece: Any = None
    names: tuple[str, ...] = ()
    forward_at: Place | None = None
    test_at: Place | None = None
    training_forwards: int = 0
    training_forwards_in_eval: int = 0
    testing_forwards: int = 0
    testing_forwards_in_train: int = 0
    pretrained: bool = False
    smallest_statistics: int | None = None
    smallest_batch: int | None = None
    looked_for_names: int = 0
    per_backward: int = 0  # most of its passes that one backward pass went through
    quick: list[bool] = field(default_factory=list)  # modes of passes of which nothing else was noted
    children: set[int] = field(default_factory=set)

    def count(self, quality: str) -> int:
        """Count the numbers in its trainable parameters that have a quality (`owned`, `graded`, `moved`)."""
        return sum(p.numel for p in self.parameters if p.trainable and getattr(p, quality))

    def seen(self, number: int) -> NetSeen:
        """Return the record as plain values."""
        return NetSeen(
            number=number, kind=self.kind, params=sum(p.numel for p in self.parameters),
            trainable=self.count("trainable"), owned=self.count("owned"), graded=self.count("graded"),
            moved=self.count("moved"), names=self.names, made_at=self.made_at, forward_at=self.forward_at,
            training_forwards=self.training_forwards, training_forwards_in_eval=self.training_forwards_in_eval,
            testing_forwards=self.testing_forwards, testing_forwards_in_train=self.testing_forwards_in_train,
            test_at=self.test_at, has_batch_norm=self.has_batch_norm, dropouts=self.dropouts,
            has_dropout=any(p > 0 for _, p, _ in self.dropouts), pretrained=self.pretrained,
            smallest_statistics=self.smallest_statistics,
        )  # fmt: skip


class Parameters:
    """All parameters ever seen, by identity."""

    def __init__(self) -> None:
        self._known: dict[int, Parameter] = {}
        self._all: list[Parameter] = []  # so that the identity of a record is never another's

    def of(self, tensor: Tensor) -> Parameter:
        """Return what is known of a parameter; one never seen is written down."""
        known = self._known.get(id(tensor))
        if known is None or known.ref() is not tensor:  # another tensor took the place of one that is gone
            known = self._known[id(tensor)] = Parameter(weakref.ref(tensor), tensor.numel(), tensor.requires_grad)
            self._all.append(known)
        elif tensor.requires_grad:
            known.trainable = True
        return known


class NetsSeen:
    """All nets of a program."""

    def __init__(self) -> None:
        self.records: list[NetRecord] = []
        self.parameters = Parameters()
        self.made: weakref.WeakKeyDictionary[nn.Module, Place | None] = weakref.WeakKeyDictionary()
        self.loaded: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._known: dict[int, tuple[Any, NetRecord | None]] = {}
        self._searches = 0
        self.loose: NetRecord | None = None

    def of(self, module: nn.Module) -> NetRecord | None:
        """Return the record of an outermost module that runs; None for one without parameters."""
        known = self._known.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        record = self._find(unwrapped(module))
        if record is not None or _is_settled(module):
            self._known[id(module)] = (weakref.ref(module), record)
        if record is not None and record.ref() is unwrapped(module):
            record.forwarded = True
        return record

    def introduce(self, net: nn.Module) -> None:
        """Note a net that has not run yet."""
        self._find(unwrapped(net))

    def _find(self, net: nn.Module) -> NetRecord | None:
        for record in self.records:
            if record.ref() is net:
                return record
        for record in self.records:  # a piece of a net that is not called as a whole
            if not record.forwarded and id(net) in record.children and record.ref() is not None:
                whole = len(list(net.parameters())) == len(record.parameters)  # the rest of it is only a wrapping
                return self._add(net) if whole else record
        if next(net.parameters(), None) is None:
            return None
        return self._add(net)

    def _add(self, net: nn.Module) -> NetRecord:
        modules = list(net.modules())
        record = NetRecord(
            type(net).__name__, weakref.ref(net), [self.parameters.of(p) for p in net.parameters() if _counts(p)],
            any(isinstance(m, _NORMS) or keeps_averages(m) for m in modules), _dropouts_of(net), self.made.get(net),
            children={id(module) for module in modules[1:]},
            pretrained=any(module in self.loaded for module in modules),
        )  # fmt: skip
        for parameter in record.parameters:
            parameter.held = True
        self.records.append(record)
        return record

    def add_owned(self, tensors: Iterable[Tensor]) -> None:
        """Note parameters that an optimizer has, and the nets that they are the parameters of."""
        tensors = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
        for tensor in tensors:
            self.parameters.of(tensor).owned = True
        wanted = {id(tensor) for tensor in tensors if not self.parameters.of(tensor).held}
        if not wanted:
            return
        given = {id(tensor) for tensor in tensors}
        for net in self._owners(wanted, given):
            self._add(net)

    def _owners(self, wanted: set[int], given: set[int]) -> list[nn.Module]:
        """Return the largest modules all of whose trainable parameters were given, and some are wanted."""
        found = _largest_within(list(self.made), wanted, given)
        if not found and self._searches < _MOST_SEARCHES:  # made before the observation began, or copied
            self._searches += 1
            everything = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
            found = _largest_within(everything, wanted, given)
        return found

    def note_loaded(self, module: nn.Module) -> None:
        """Note that weights were loaded into a module; in a net that has trained already they are its own."""
        self.loaded.add(module)
        for record in self.records:
            mine = record.ref()
            if mine is not None and (mine is module or id(module) in record.children) and not record.training_forwards:
                record.pretrained = True

    def note_leaves(self, leaves: list[Tensor]) -> None:
        """Note the parameters that a backward pass reaches; those of no net are kept together as loose tensors."""
        for leaf in leaves:
            known = self.parameters.of(leaf)
            again, known.graded = known.graded, True
            if known.held or not again:  # images that gradients are wanted of come once, parameters come again
                continue
            known.held = True
            if self.loose is None:
                self.loose = NetRecord("tensors", lambda: None, [], False, ())
                self.records.append(self.loose)
            self.loose.parameters.append(known)

    def number_of(self, record: NetRecord) -> int:
        """Return the number under which a record is told."""
        return self.told().index(record)

    def told(self) -> list[NetRecord]:
        """Return the records worth telling: not those that are only a part of a net that runs as a whole."""
        ran = [record for record in self.records if record.forwarded]
        return [r for r in self.records if r.forwarded or not any(_shares(r, other) for other in ran)]

    def seen(self) -> tuple[NetSeen, ...]:
        """Return the records as plain values."""
        return tuple(record.seen(number) for number, record in enumerate(self.told()))


def _shares(part: NetRecord, whole: NetRecord) -> bool:
    mine = {id(parameter) for parameter in part.parameters}
    return bool(mine) and part is not whole and mine <= {id(parameter) for parameter in whole.parameters}


def _counts(parameter: Tensor) -> bool:
    return not is_lazy(parameter)


def _is_settled(module: nn.Module) -> bool:
    return not any(is_lazy(p) for p in module.parameters())


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the net in a wrapper of torch's: DataParallel, its distributed kin, a compiled module, an average."""
    for _ in range(4):
        name = type(module).__name__
        inner = None
        if name in {"DataParallel", "DistributedDataParallel"}:
            inner = getattr(module, "module", None)
        elif name == "OptimizedModule":
            inner = getattr(module, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner
    return module


def _largest_within(modules: list[nn.Module], wanted: set[int], given: set[int]) -> list[nn.Module]:
    within = []
    for module in modules:
        mine = {id(p) for p in module.parameters() if p.requires_grad}
        if mine and mine <= given and mine & wanted:
            within.append(unwrapped(module))
    inner = {id(child) for module in within for child in list(module.modules())[1:]}
    return list({id(m): m for m in within if id(m) not in inner and not isinstance(m, nn.ParameterList)}.values())


def keeps_averages(module: Any) -> bool:
    """Whether a module written by the user keeps running statistics as a batch norm does."""
    return bool(averages_of(module)) and not isinstance(module, nn.modules.instancenorm._InstanceNorm)


def averages_of(module: Any) -> dict[str, Tensor]:
    """Return a module's running means and variances, whether buffers or mere attributes, by name."""
    held = vars(module) | module._buffers
    return {
        name: value for name, value in held.items()
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.is_floating_point()
        and any(word in name.lower() for word in ("running", "moving")) and value.numel() > 0
    }  # fmt: skip


def _dropouts_of(net: nn.Module) -> tuple[tuple[str, float, bool], ...]:
    """Return layer, p and whether it works on maps, of each dropout."""
    found, after_convolution = [], False
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            after_convolution = True
        elif isinstance(module, (nn.Linear, nn.Flatten)):
            after_convolution = False
        elif isinstance(module, _DROPOUTS):
            found.append((name, float(module.p), after_convolution or isinstance(module, (nn.Dropout2d, nn.Dropout3d))))
    return tuple(found)


def autocast_of(device: str) -> str:
    """Return the dtype of autocast on a device now, without `torch.`; empty where it is off."""
    if not torch.is_autocast_enabled(device):
        return ""
    return str(torch.get_autocast_dtype(device)).removeprefix("torch.")
