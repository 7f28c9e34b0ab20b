"""From words to a plan: which net, which images, which recipe, which device; then the planner does the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from torch import nn

from conviction.assembly import assemble
from conviction.data.downloading import Progress
from conviction.data.records import Data
from conviction.errors import ConvictionError, ImageTooSmallError, UsageError
from conviction.evaluation import batch_size_for
from conviction.nets import Origin, find_net, is_foreign, sketch
from conviction.planning.devices import Device, find_device
from conviction.planning.oom_arithmetic import Expected
from conviction.planning.planner import Image, make_plan
from conviction.planning.records import Plan
from conviction.planning.smallest import Smallest, smallest_image
from conviction.planning.step_trace import Setting
from conviction.recipe import Recipe
from conviction.text import printable
from conviction.training.deciding import Circumstances, decide, low_precision
from conviction.training.recompute import recomputing, segments

# Images of an epoch where no data is given; only what the recipe decides by them depends on it.
_SOME_IMAGES = 50_000
# What the device at hand is measured for, in seconds.
_MEASURING_SECONDS = 2.0


@dataclass(frozen=True)
class _Asked:
    """What is to be planned, with nothing open. `by_name` is the name of one of ours, built for its images."""

    name: str
    net_for: Callable[[Image], nn.Module]
    image: Image
    recipe: Recipe
    by_name: str | None
    evaluated: int = 0
    train_images: int | None = None
    valid_images: int = 0


def plan_fit(
    net: str | nn.Module,
    images: Image | Data | str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    *,
    num_classes: int | None = None,
    device: str | None = None,
    data_root: str | None = None,
    measure: bool = True,
    progress: Progress | None = None,
) -> Plan:
    """Plan a fit of `net` with `recipe` on `device` (a card's name, its memory, `cpu`, `cuda`); nothing is trained.

    `images` is a shape (C, H, W) or data; by default the shape that the net was published for. With `measure` a device
    that is really here is timed for two seconds on a copy of the net.

    Raises `UsageError` for a net, an image or a device that cannot be planned, and what opening the data raises.
    """
    recipe = recipe or Recipe()
    card = find_device(device or recipe.device or "auto")
    recipe = _for_device(recipe, card, net)
    if isinstance(images, (Data, str, os.PathLike)):
        asked = _with_data(net, images, recipe, data_root, progress)
    else:
        asked = _without_data(net, images, num_classes, recipe)
    setting = setting_of(asked.recipe)
    assert asked.recipe.batch_size is not None
    here = measure and card.key.split(":")[0] in ("cpu", "cuda")
    plan = make_plan(
        asked.net_for, asked.image, asked.recipe.batch_size, setting, card, name=asked.name,
        evaluated=asked.evaluated, train_images=asked.train_images, valid_images=asked.valid_images,
        smallest=_smallest(asked), resizes=asked.by_name is not None, recomputing=recomputing,
        measure_seconds=_MEASURING_SECONDS if here else 0.0,
    )  # fmt: skip
    return replace(plan, notes=(*plan.notes, *notes_on_recomputing(asked.recipe, asked.net_for(asked.image))))


def expected_of(plan: Plan, on_this_card: bool = True) -> Expected:
    """Return what a plan says of the memory of its run, for explaining why it ran out.

    `on_this_card` says that the plan is for the card on which it did.
    """
    held = plan.peak.bytes
    return Expected(
        weights_bytes=plan.weights_bytes, gradients_bytes=held.get("gradients", 0),
        optimizer_bytes=held.get("optimizer", 0), saved_bytes=plan.saved_bytes,
        peak_allocated_bytes=plan.train_peak_bytes, largest_allocation_bytes=plan.largest_allocation_bytes,
        batch_size=plan.batch_size, largest_batch=plan.device.largest_batch if on_this_card else None,
    )  # fmt: skip


def notes_on_recomputing(recipe: Recipe, net: nn.Module) -> tuple[str, ...]:
    """Say where a recipe asks for activation checkpointing of a net that has nothing to recompute."""
    if not recipe.checkpointing or segments(net):
        return ()
    return ("checkpointing changes nothing: the net has no part that can be recomputed on its own",)


def setting_of(recipe: Recipe) -> Setting:
    """Return what a decided recipe says about the cost of a step."""
    assert recipe.batch_size is not None
    return Setting(
        optimizer=recipe.optimizer or "sgd", momentum=recipe.momentum, weight_decay=recipe.weight_decay or 0.0,
        precision=recipe.precision or "fp32", channels_last=bool(recipe.channels_last),
        checkpointing=recipe.checkpointing, averaged=bool(recipe.ema),
        parts=-(-recipe.batch_size // (recipe.micro_batch or recipe.batch_size)),
    )  # fmt: skip


def _for_device(recipe: Recipe, card: Device, net: str | nn.Module) -> Recipe:
    """Decide what goes by the device that is planned for, which need not be here: `fit` would decide so there."""
    origin = getattr(net, "origin", None)
    name = net if isinstance(net, str) else origin.name if isinstance(origin, Origin) else ""
    ours = bool(name) and not is_foreign(name)
    low = low_precision(card.compute_capability or (8, 0))
    changes: dict[str, object] = {"precision": recipe.precision or ("fp32" if card.kind == "cpu" else low)}
    if recipe.channels_last is None:
        changes["channels_last"] = ours  # another net may flatten with `view`, which refuses that layout
    return recipe.replace(device="cpu", **changes)


def _without_data(net: str | nn.Module, images: Image | None, num_classes: int | None, recipe: Recipe) -> _Asked:
    if isinstance(net, str):
        row = find_net(net)
        image = _shape(images) if images is not None else row.image
        if recipe.image_size is not None:
            image = (image[0], recipe.image_size, recipe.image_size)
        made, name = sketch(net, num_classes, image), net
        by_name = None if is_foreign(net) else net

        @cache  # traces and measurements are of copies
        def net_for(image: Image) -> nn.Module:
            return sketch(net, num_classes, image) if by_name else made
    else:
        if images is None:
            raise UsageError(
                "a net of your own needs the shape of its images", "image", "give (channels, height, width)"
            )
        image, made, name, by_name = _shape(images), net, type(net).__name__, None
        origin = getattr(net, "origin", None)
        name = origin.name if isinstance(origin, Origin) else name

        def net_for(image: Image) -> nn.Module:
            return net

    around = Circumstances(_SOME_IMAGES, False, False, image[1] if image[1] == image[2] else None)
    decided, _ = decide(recipe, made, around, by_name)
    return _Asked(name, net_for, image, decided, by_name)


def _with_data(
    net: str | nn.Module,
    data: Data | str | os.PathLike[str],
    recipe: Recipe,
    data_root: str | None,
    progress: Progress | None,
) -> _Asked:
    made = assemble(net, data, recipe, data_root, progress)
    opened, by_name = made.data, net if isinstance(net, str) and not is_foreign(net) else None

    @cache
    def net_for(image: Image) -> nn.Module:
        return made.net if image == opened.image or by_name is None else sketch(by_name, opened.num_classes, image)

    return _Asked(made.name, net_for, opened.image, made.recipe, by_name, batch_size_for(opened.preprocessing),
                  len(opened.train), len(opened.valid))  # fmt: skip


def _shape(images: object) -> Image:
    sizes = tuple(images) if isinstance(images, (tuple, list)) else ()
    if len(sizes) != 3:
        raise UsageError(f"image = {printable(repr(images))} is not a shape", "", "use (channels, height, width)")
    return sizes[0], sizes[1], sizes[2]


def _smallest(asked: _Asked) -> Smallest:
    """The smallest image; of one of our nets, which is built for its images, the catalogue knows it."""
    channels, height, width = asked.image
    if asked.by_name is None:
        net = asked.net_for(asked.image)
        return smallest_image(lambda side: net, channels, min(height, width))
    least = find_net(asked.by_name).min_image
    try:
        sketch(asked.by_name, None, (channels, least - 1, least - 1))
    except ImageTooSmallError as error:
        return Smallest(least, least, error.where)
    except ConvictionError:
        pass
    return Smallest(least, least, "")
