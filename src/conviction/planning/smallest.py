"""The smallest image that a net can take, by search on shapes, and the layer at which a smaller one fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from conviction.errors import ConvictionError, UsageError
from conviction.planning.ghosts import meta_copy, number_type, refusal
from conviction.planning.watching import watching

_LARGEST_SIDE = 2048


@dataclass(frozen=True)
class Smallest:
    """The smallest square image in pixels for prediction (`eval`) and for training, None where none was found.

    `fails_at` is the layer at which an image one pixel smaller fails in training, with the reason. `only` says that the
    net takes images of that size and no other, as one whose linear layers were made for it.
    """

    eval: int | None
    train: int | None
    fails_at: str
    only: bool = False


def smallest_image(net_for: Callable[[int], nn.Module], channels: int, known: int) -> Smallest:
    """Find the smallest image for which `net_for(side)` runs; `known` is a side that passes.

    `net_for` gives the same net for every side, or makes one for each where the net follows its images. Nothing is
    computed: copies on the meta device run on two images.
    """
    train, why = _search(net_for, channels, known, training=True)
    answer, _ = _search(net_for, channels, known, training=False)
    only = train == known and _failure(net_for, channels, known + 1, True) is not None
    return Smallest(answer, train, why, only and known > 1)


def _search(net_for: Callable[[int], nn.Module], channels: int, known: int, training: bool) -> tuple[int | None, str]:
    if _failure(net_for, channels, known, training) is not None:
        known = next((side for side in _doubled(known) if _failure(net_for, channels, side, training) is None), 0)
        if not known:
            return None, ""
    low, high, why = 0, known, ""
    # One pixel less is tried first: nets made for one size take no other, and there bisection would be misled.
    middle = known - 1
    while high - low > 1:
        failure = _failure(net_for, channels, middle, training)
        if failure is None:
            high = middle
        else:
            low, why = middle, failure
        middle = (low + high) // 2
    return high, why


def _doubled(side: int) -> list[int]:
    sides = []
    while side < _LARGEST_SIDE:
        side *= 2
        sides.append(side)
    return sides


def _failure(net_for: Callable[[int], nn.Module], channels: int, side: int, training: bool) -> str | None:
    """Return the layer that cannot take images of that side, with the reason; None where all can."""
    try:
        ghost = meta_copy(net_for(side)).train(training)
        with torch.random.fork_rng(devices=[]), torch.device("meta"), watching(ghost) as seen:
            try:
                ghost(torch.empty(2, channels, side, side, dtype=number_type(ghost)))
            except Exception as error:  # whatever a user's own forward raises
                raise refusal(error, seen.innermost, (channels, side, side)) from error
    except UsageError as error:
        return error.where or error.what
    except ConvictionError as error:
        return str(error)
    return None
