"""The nets: `build` makes one from its name, `names` lists them, `NETS` is the table behind both."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from conviction.errors import UsageError
from conviction.nets.catalogue import NETS, Row, find_net, names
from conviction.text import printable, suggest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NETS", "Row", "build", "find_net", "names"]


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

    Raises `UsageError` for an unknown name or option and `ImageTooSmallError` below the net's smallest image.
    """
    from conviction.nets.init import initialise
    from conviction.nets.shapes import assemble

    row = find_net(name)
    image = row.image if image is None else image
    num_classes = row.num_classes if num_classes is None else num_classes
    _check_sizes(num_classes, image)
    builder = _builder(row)
    _check_options(row, builder, options)

    def make(image: tuple[int, int, int]) -> nn.Module:
        kwargs = {**row.options, **options}
        return builder(num_classes, image, width_divisor=row.width_divisor, **kwargs)

    net = assemble(make, name, image)  # shapes first: no weight is filled until they are known to fit
    net.to_empty(device="cpu")
    initialise(net, row.start if init == "paper" else init)
    return net


def _builder(row: Row) -> Callable[..., nn.Module]:
    file, function = row.builder.split(":")
    return getattr(importlib.import_module(f"conviction.nets.{file}"), function)


def _check_sizes(num_classes: Any, image: Any) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or not 1 <= num_classes <= 1_000_000:
        raise UsageError(
            f"num_classes = {printable(repr(num_classes))} is not a number of classes", "", "use 2 or more"
        )
    sizes_ok = isinstance(image, (tuple, list)) and len(image) == 3
    if not sizes_ok or not all(isinstance(size, int) and 1 <= size <= 65_536 for size in image):
        raise UsageError(f"image = {printable(repr(image))} is not a shape", "", "use (channels, height, width)")


def _check_options(row: Row, builder: Callable[..., nn.Module], options: dict[str, Any]) -> None:
    parameters = inspect.signature(builder).parameters.values()
    settled = {"width_divisor", *row.options}  # by the name itself
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in settled]
    for option in options:
        if option not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UsageError(f"{row.name} has no option {printable(option)!r}{suggest(option, known)}", "", takes)
