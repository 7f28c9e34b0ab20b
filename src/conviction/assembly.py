"""From words to a net and its data that fit each other: opens the data, settles the image size, builds the net."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conviction.data import SETS, open_data
from conviction.data.downloading import Progress
from conviction.data.folder import load
from conviction.data.records import Data
from conviction.environment import describe_environment
from conviction.errors import ImageTooSmallError
from conviction.nets import build, find_net, has_option
from conviction.nets.init import equalise
from conviction.recipe import Recipe
from conviction.runs import Origin, Run
from conviction.text import format_shape
from conviction.training.deciding import Circumstances, decide

# Images on which LSUV measures the layers' outputs.
_LSUV_IMAGES = 64


@dataclass(frozen=True)
class Assembly:
    """A net and its data that fit each other, with a recipe in which nothing is open, and what was decided."""

    net: nn.Module
    name: str
    data: Data
    recipe: Recipe
    origin: Origin
    notes: tuple[str, ...]

    def begin(self, folder: Path) -> Run:
        """Return the record of a run that begins in `folder`."""
        return Run(folder, self.origin, self.data.classes, self.data.preprocessing, self.recipe, (), {},
                   describe_environment(self.recipe), self.notes)  # fmt: skip


def assemble(
    net: str | nn.Module,
    data: Data | str | os.PathLike[str],
    recipe: Recipe,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Assembly:
    """Open the data, build the net for its images and classes, and decide what the recipe leaves open.

    `progress(file, done_bytes, total_bytes)` is told of a download. Raises `UsageError`, `DataError`.
    """
    if isinstance(net, str):
        find_net(net)  # an unknown name is refused before any data is read
    torch.manual_seed(recipe.seed)
    opened, reopening = _open(data, recipe, data_root, progress)
    if isinstance(net, nn.Module):
        built, size_note = net, ()
    else:
        built, opened, size_note = _build(net, opened, recipe)
    opened = load(opened)
    _, height, width = opened.image
    around = Circumstances(
        train_images=len(opened.train),
        mirrors=opened.mirrors,
        cropped=opened.preprocessing.resized != (height, width),
        side=height if height == width else None,
    )
    recipe, decisions = decide(recipe, built, around)
    made_by = getattr(built, "origin", None)
    name, options = (made_by.name, dict(made_by.options)) if made_by else (None, {})
    origin = replace(reopening, net=name, net_options=options)
    if origin.data is not None:  # it is opened again at the size that was decided
        origin.data_options["image_size"] = recipe.image_size
    return Assembly(
        built, name or type(built).__name__, opened, recipe, origin, (*opened.notes, *size_note, *decisions)
    )


def _open(
    data: Data | str | os.PathLike[str], recipe: Recipe, data_root: str | None, progress: Progress | None
) -> tuple[Data, Origin]:
    """Open DATA where it is still a word; returns it with how to open it again."""
    if isinstance(data, Data):
        return (data if recipe.image_size is None else data.resized(recipe.image_size)), Origin(None, {}, None, {})
    options: dict[str, Any] = {
        "image_size": recipe.image_size, "valid_share": recipe.valid_share, "seed": recipe.seed,
        "on_bad": recipe.on_bad, "data_root": data_root,
    }  # fmt: skip
    opened = open_data(data, progress=progress, **options)
    text = str(data) if str(data) in SETS else str(Path(data).absolute())
    return opened, Origin(None, {}, text, options)


def _build(net: str, data: Data, recipe: Recipe) -> tuple[nn.Module, Data, tuple[str, ...]]:
    """Build the net for the data's images; images too small for it are enlarged unless a size was asked for."""
    row = find_net(net)
    note: tuple[str, ...] = ()
    if recipe.image_size is None and data.sizes_differ:
        data = data.resized(row.image[1])
        note = (f"images differ in size: resized to {format_shape(data.image[1:])}, the size in {net}'s recipe",)
    try:
        built = _build_for(net, data, recipe)
    except ImageTooSmallError:
        if recipe.image_size is not None:
            raise
        was, data = data.image, data.resized(row.comfortable_side)
        note = (f"images of {format_shape(was[1:])} are too small for {net} (smallest {row.min_image}): "
                f"resized to {format_shape(data.image[1:])}",)  # fmt: skip
        built = _build_for(net, data, recipe)
    if recipe.init == "lsuv":
        first = data.train.source.fetch(torch.arange(min(_LSUV_IMAGES, len(data.train))))
        equalise(built, data.preprocessing.apply(first))
    return built, data, note


def _build_for(net: str, data: Data, recipe: Recipe) -> nn.Module:
    """Build with auxiliary heads where the net has them and the images are large enough to train them."""
    if has_option(net, "aux"):
        with contextlib.suppress(ImageTooSmallError):
            return build(net, data.num_classes, data.image, init=recipe.init, aux=True)
    return build(net, data.num_classes, data.image, init=recipe.init)
