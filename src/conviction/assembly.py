"""From words to a net and its data that fit each other: opens the data, settles the image size, builds the net."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from conviction.data import SETS, open_data
from conviction.data.downloading import Progress
from conviction.data.folder import load
from conviction.data.records import Data
from conviction.denormals import start_threads_flushed
from conviction.environment import describe_environment
from conviction.errors import ImageTooSmallError, UsageError
from conviction.evaluation import answer, batch_size_for, device_of
from conviction.feeding import Feed
from conviction.nets import Origin, build, find_net, find_origin, has_option, is_foreign, sketch
from conviction.nets.blocks import WithAuxiliaryHeads
from conviction.nets.init import equalise, initialise, shrink_logits
from conviction.probe import left_as_it_was
from conviction.recipe import Recipe
from conviction.runs import Run, Sources
from conviction.text import format_shape, printable
from conviction.training.deciding import Circumstances, decide

# Images on which LSUV measures the layers' outputs; fewer where evaluation takes fewer at once.
_LSUV_IMAGES = 64


@dataclass(frozen=True)
class Assembly:
    """A net and its data that fit each other, with a recipe in which nothing is open, and what was decided.

    `fresh` says that the weights are new, not the user's own; `findings` are those of the preflight, `preflight` its
    figures, both as plain fields.
    """

    net: nn.Module
    name: str
    data: Data
    recipe: Recipe
    sources: Sources
    notes: tuple[str, ...]
    fresh: bool = False
    findings: tuple[dict[str, Any], ...] = ()
    preflight: dict[str, Any] | None = None

    def begin(self, folder: Path) -> Run:
        """Return the record of a run that begins in `folder`."""
        return Run(folder, self.sources, self.data.classes, self.data.preprocessing, self.recipe, (), {},
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
    elif not isinstance(net, nn.Module):
        raise UsageError(f"{printable(repr(net))[:80]} is no net", "", "give a name of `conviction nets` or a module")
    if not isinstance(data, (Data, str, os.PathLike)):
        raise UsageError(f"{printable(repr(data))[:80]} is no data", "", "give a Data, a folder or a name")
    torch.manual_seed(recipe.seed)
    start_threads_flushed()  # before the data make torch start them
    opened, reopening = _open(data, recipe, data_root, progress)
    if isinstance(net, nn.Module):
        built, notes = net, _notes_on_own(recipe)
    else:
        built, opened, notes = _build(net, opened, recipe)
    opened = load(opened)
    made_by = _origin(net if isinstance(net, str) else built, built, opened)
    ours = made_by is not None and not is_foreign(made_by.name)
    if not ours and recipe.channels_last is None:
        # A net of the user's own may flatten with `view`, which refuses that layout.
        recipe = recipe.replace(channels_last=False)
    check_answers(built, opened)
    if isinstance(net, nn.Module) or not ours:
        check_training_answers(built, opened)
    _, height, width = opened.image
    around = Circumstances(
        train_images=len(opened.train),
        mirrors=opened.mirrors,
        cropped=opened.preprocessing.resized != (height, width),
        side=height if height == width else None,
        batch_size=getattr(opened.train.source, "batch_size", None),
    )
    recipe, decisions = decide(recipe, built, around, made_by.name if made_by and ours else None)
    if isinstance(net, str) and recipe.init == "lsuv":
        start_by_lsuv(built, opened, recipe)
    name, options = (made_by.name, dict(made_by.options)) if made_by else (None, {})
    sources = replace(reopening, net=name, net_options=options)
    if sources.data is not None:  # it is opened again at the size that was decided
        sources.data_options["image_size"] = recipe.image_size
    notes = (*opened.notes, *notes, *decisions)
    fresh = isinstance(net, str) and ours  # a factory of the user's may give weights that were learnt
    return Assembly(built, name or type(built).__name__, opened, recipe, sources, notes, fresh)


def _notes_on_own(recipe: Recipe) -> tuple[str, ...]:
    return () if recipe.init == "auto" else (f"init {recipe.init} is left aside: the net was given with its weights",)


def _origin(asked: str | nn.Module, net: nn.Module, data: Data) -> Origin | None:
    """Return how `build` makes this net; None for a net of the user's own, or one that was changed since."""
    if isinstance(asked, str) and is_foreign(asked):
        return find_origin(asked)
    origin = getattr(net, "origin", None)
    if not isinstance(origin, Origin):
        return None
    if isinstance(asked, str):
        return origin
    try:
        same = repr(sketch(origin.name, data.num_classes, data.image, **origin.options)) == repr(net)
    except UsageError:
        return None
    return origin if same else None


def count_params(net: nn.Module) -> int:
    """Return the parameters of the net that answers; auxiliary heads, which only help to train it, are left out."""
    heads = [net.get_submodule(head) for head in net.taps] if isinstance(net, WithAuxiliaryHeads) else []
    unused = {id(parameter) for head in heads for parameter in head.parameters()}
    return sum(parameter.numel() for parameter in net.parameters() if id(parameter) not in unused)


def start_by_lsuv(net: nn.Module, data: Data, recipe: Recipe) -> None:
    """Give a net that was built here the start of Mishkin & Matas 2015, with small logits, on the recipe's device.

    A function of the net's layers, the training images and the seed of a decided recipe.
    """
    torch.manual_seed(recipe.seed)
    initialise(net.to("cpu"), "lsuv")
    images, _ = Feed(data, recipe).plain(min(_LSUV_IMAGES, batch_size_for(data.preprocessing)))
    equalise(net.to(recipe.device), images)
    shrink_logits(net)


def check_answers(net: nn.Module, data: Data) -> None:
    """Raise `UsageError` unless the net makes logits [N, classes] of the data's images; tried with two blank ones.

    Layers that take their sizes from the first images (`nn.LazyLinear`) have them afterwards.
    """
    with _refusing("answer", data):
        logits = answer(net, torch.zeros(2, *data.image, device=device_of(net)))
    _check_logits(logits, data)


def check_training_answers(net: nn.Module, data: Data) -> None:
    """Raise `UsageError` unless the net makes logits in training, alone or a tuple with those of auxiliary heads."""
    unsized = [name for name, parameter in net.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if unsized:
        raise UsageError(f"the lazy layer of {printable(unsized[0])} never runs outside training", "",
                         "give it its size, as in nn.Linear(256, 10)")  # fmt: skip
    images = torch.zeros(2, *data.image, device=device_of(net))
    with _refusing("be trained on", data), left_as_it_was(net, images.device), torch.no_grad():
        outputs = net.train()(images)
    for logits in outputs if isinstance(outputs, tuple) and outputs else (outputs,):
        _check_logits(logits, data, " in training")


@contextlib.contextmanager
def _refusing(doing: str, data: Data) -> Generator[None]:
    """Turn what a net raises into a refusal in one line."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        why = printable(" ".join(str(error).split())[:200])
        what = f"the net cannot {doing} images of {format_shape(data.image)}: {why}"
        raise UsageError(what, "", "give a net that maps float32 [N, C, H, W] to logits [N, classes]") from error


def _check_logits(logits: Any, data: Data, when: str = "") -> None:
    if not isinstance(logits, torch.Tensor):
        raise UsageError(f"the net makes {printable(type(logits).__name__)} objects{when}, not logits", "",
                         "return logits, or a tuple of logits and those of auxiliary heads")  # fmt: skip
    if tuple(logits.shape) != (2, data.num_classes):
        raise UsageError(f"the net makes {list(logits.shape)} of 2 images{when}, for {data.num_classes} classes", "",
                         f"give a net whose last layer has {data.num_classes} outputs")  # fmt: skip


def _open(
    data: Data | str | os.PathLike[str], recipe: Recipe, data_root: str | None, progress: Progress | None
) -> tuple[Data, Sources]:
    """Open DATA where it is still a word; returns it with how to open it again."""
    if isinstance(data, Data):
        side = recipe.image_size
        fits = side is None or data.image[1:] == (side, side)
        return (data if fits else data.resized(side)), Sources(None, {}, None, {})
    options: dict[str, Any] = {
        "image_size": recipe.image_size, "valid_share": recipe.valid_share, "seed": recipe.seed,
        "on_bad": recipe.on_bad, "data_root": None if data_root is None else str(Path(data_root).absolute()),
    }  # fmt: skip
    opened = open_data(data, progress=progress, **options)
    text = str(data) if str(data) in SETS else str(Path(data).absolute())
    return opened, Sources(None, {}, text, options)


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
        side, least = row.comfortable_side, f" (smallest {row.min_image})"
        if is_foreign(net):
            side, least = row.image[1], ""
        was, data = data.image, data.resized(side)
        note = (f"images of {format_shape(was[1:])} are too small for {net}{least}: "
                f"resized to {format_shape(data.image[1:])}",)  # fmt: skip
        built = _build_for(net, data, recipe)
    if net.startswith("torchvision:") and data.image[0] != 3:
        note = (*note, f"{net} reads 3 channels: its first convolution was drawn anew for {data.image[0]}")
    return built, data, note


def _build_for(net: str, data: Data, recipe: Recipe) -> nn.Module:
    """Build with auxiliary heads where the net has them and the images are large enough to train them."""
    if has_option(net, "aux"):
        with contextlib.suppress(ImageTooSmallError):
            return build(net, data.num_classes, data.image, init=recipe.init, aux=True)
    return build(net, data.num_classes, data.image, init=recipe.init)
