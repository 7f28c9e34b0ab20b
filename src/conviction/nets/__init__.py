"""The nets: `build` makes one from its name, `sketch` only its shapes; `names` lists them, `NETS` is the table."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conviction.errors import UsageError
from conviction.nets.catalogue import NETS, Row, find_net, is_foreign, names
from conviction.text import printable, suggest

if TYPE_CHECKING:
    from torch import nn

    from conviction.nets.foreign import Factory

__all__ = ["NETS", "Origin", "Row", "build", "find_net", "find_origin", "has_option", "is_foreign", "names", "sketch"]


_MOST_CLASSES, _LARGEST_SIZE = 1_000_000, 65_536


@dataclass(frozen=True)
class Origin:
    """The name and options that a net was built from; a net of `build` and `sketch` carries it as `net.origin`."""

    name: str
    options: dict[str, Any]


def build(
    name: str,
    num_classes: int | None = None,
    image: tuple[int, int, int] | None = None,
    *,
    init: str = "auto",
    **options: Any,
) -> nn.Module:
    """Build a net by name for images of shape `image` = (channels, height, width) and `num_classes` classes.

    Without them the net is built as published. `init` says where the weights start (see `Recipe.init`); `options` go to
    the net's own builder, such as `aux=True` for the auxiliary heads of `googlenet` and `inception-v3`.

    `name` may be a word for a net from elsewhere: `timm:NAME`, `torchvision:NAME`, or `module:factory` of your own,
    which is looked for in `folder=` (by default the working folder). Its weights stay as they are made, unless `init`
    is neither `auto` nor `paper`.

    Raises `UsageError` for an unknown name, option or `init` and `ImageTooSmallError` below the net's smallest image.
    """
    from conviction.nets.init import check_start, initialise

    check_start(init)
    net = sketch(name, num_classes, image, **options)  # no weight is filled until the shapes are known to fit
    if is_foreign(name):
        net = _built_elsewhere(name, num_classes, image, options)
        if init not in ("auto", "paper"):
            initialise(net, init)
        return net
    net.to_empty(device="cpu")
    initialise(net, init, paper=find_net(name).start)
    return net


def sketch(
    name: str, num_classes: int | None = None, image: tuple[int, int, int] | None = None, **options: Any
) -> nn.Module:
    """Build a net as `build` does, but on the meta device: every shape, no memory for weights, in a moment.

    Enough to count, to list layers and to plan. A net from elsewhere that cannot be made so lies in memory. Raises
    what `build` raises.
    """
    from conviction.nets.shapes import assemble

    if is_foreign(name):
        return _sketched_elsewhere(name, num_classes, image, options)
    row = find_net(name)
    image = row.image if image is None else image
    num_classes = row.num_classes if num_classes is None else num_classes
    _check_sizes(num_classes, image)
    builder = _builder(row)
    _check_options(row, builder, options)

    def make(image: tuple[int, int, int]) -> nn.Module:
        kwargs = {**row.options, **options}
        return builder(num_classes, image, width_divisor=row.width_divisor, **kwargs)

    net = assemble(make, name, image, row.min_image)
    net.origin = Origin(name, dict(options))  # ty: ignore[invalid-assignment]
    return net


def find_origin(name: str, **options: Any) -> Origin:
    """Return the origin of a net from elsewhere, with the options that find it again from any folder."""
    return Origin(name, _factory(name, options).options)


def _factory(name: str, options: dict[str, Any]) -> Factory:
    from conviction.nets.foreign import find_factory

    for option in set(options) - {"folder"}:
        raise UsageError(f"{printable(name)} has no option {printable(option)!r}", "", "it takes folder")
    return find_factory(name, **options)


def _sketched_elsewhere(
    name: str, num_classes: int | None, image: tuple[int, int, int] | None, options: dict[str, Any]
) -> nn.Module:
    from conviction.nets.foreign import sketch_foreign

    factory, sizes = _asked_elsewhere(name, num_classes, image, options)
    return _signed(sketch_foreign(factory, *sizes), factory)


def _built_elsewhere(
    name: str, num_classes: int | None, image: tuple[int, int, int] | None, options: dict[str, Any]
) -> nn.Module:
    from conviction.nets.foreign import build_foreign

    factory, sizes = _asked_elsewhere(name, num_classes, image, options)
    return _signed(build_foreign(factory, *sizes), factory)


def _asked_elsewhere(
    name: str, num_classes: int | None, image: tuple[int, int, int] | None, options: dict[str, Any]
) -> tuple[Factory, tuple[int, tuple[int, int, int]]]:
    factory = _factory(name, options)
    image = factory.image if image is None else image
    num_classes = factory.num_classes if num_classes is None else num_classes
    _check_sizes(num_classes, image)
    return factory, (num_classes, image)


def _signed(net: nn.Module, factory: Factory) -> nn.Module:
    """Let a net carry its origin, unless it has something of its own under that name."""
    if not hasattr(net, "origin"):
        net.origin = Origin(factory.word, factory.options)
    return net


def _builder(row: Row) -> Callable[..., nn.Module]:
    file, function = row.builder.split(":")
    return getattr(importlib.import_module(f"conviction.nets.{file}"), function)


def _check_sizes(num_classes: Any, image: Any) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise UsageError(
            f"num_classes = {printable(repr(num_classes))} is not a number of classes", "", "use 2 or more"
        )
    sizes_ok = isinstance(image, (tuple, list)) and len(image) == 3
    if not sizes_ok or not all(isinstance(size, int) and size >= 1 for size in image):
        raise UsageError(f"image = {printable(repr(image))} is not a shape", "", "use (channels, height, width)")
    if num_classes > _MOST_CLASSES:
        raise UsageError(f"num_classes = {num_classes} is too many", "", f"use at most {_MOST_CLASSES:,}")
    if max(image) > _LARGEST_SIZE:
        raise UsageError(f"image = {tuple(image)} is too large", "", f"use at most {_LARGEST_SIZE:,} pixels a side")


def _check_options(row: Row, builder: Callable[..., nn.Module], options: dict[str, Any]) -> None:
    parameters = inspect.signature(builder).parameters.values()
    settled = {"width_divisor", *row.options}  # by the name itself
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in settled]
    for option in options:
        if option not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UsageError(f"{row.name} has no option {printable(option)!r}{suggest(option, known)}", "", takes)


def has_option(name: str, option: str) -> bool:
    """Whether the builder of a net takes an option, such as `aux`."""
    return not is_foreign(name) and option in inspect.signature(_builder(find_net(name))).parameters
