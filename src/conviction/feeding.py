"""What a net in training is fed: the training split's batches, augmented, as a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from conviction.data.augmentation import Augmentation, augment
from conviction.data.batches import batches, count_batches
from conviction.data.records import Batch, Data
from conviction.recipe import Recipe


class Feed:
    """The training batches of a decided recipe; called with an epoch it yields (images, targets) on the device.

    Images are float32 [N, C, H, W], normalised; targets are labels (int64 [N]) or probabilities (float [N, classes]).
    """

    def __init__(self, data: Data, recipe: Recipe) -> None:
        assert recipe.batch_size is not None
        self.data, self.recipe = data, recipe
        self.batch_size = min(recipe.batch_size, len(data.train))
        self.steps_per_epoch = max(1, count_batches(data.train, self.batch_size, drop_last=True))
        self.augmentation = Augmentation(
            flip=bool(recipe.flip), crop=recipe.crop or "none", crop_pad=recipe.crop_pad, crop_scale=recipe.crop_scale,
            erase=recipe.erase or 0.0, mixup=recipe.mixup, cutmix=recipe.cutmix,
        )  # fmt: skip

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's batches."""
        recipe = self.recipe
        chosen = batches(
            self.data.train, self.batch_size, seed=recipe.seed, epoch=epoch, shuffled=True, drop_last=True,
            device=recipe.device or "cpu", workers=recipe.workers or 0,
        )  # fmt: skip
        for batch in chosen:
            yield augment(batch, self.data.preprocessing, self.augmentation, seed=recipe.seed, epoch=epoch,
                          num_classes=self.data.num_classes)  # fmt: skip

    def plain(self, most: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Return about `most` training images of `epoch`'s order without augmentation, and their labels (int64)."""
        recipe = self.recipe
        chosen = batches(
            self.data.train, min(self.batch_size, most), seed=recipe.seed, epoch=epoch, shuffled=True,
            device=recipe.device or "cpu",
        )  # fmt: skip
        return gather(chosen, self.data, most)


def gather(chosen: Iterable[Batch], data: Data, most: int) -> tuple[Tensor, Tensor]:
    """Return the first `most` images of some batches as a net reads them, without augmentation, and their labels."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in chosen:
        images.append(data.preprocessing.apply(batch.pictures))
        labels.append(batch.labels)
        if sum(map(len, labels)) >= most:
            break
    return torch.cat(images)[:most], torch.cat(labels)[:most]
