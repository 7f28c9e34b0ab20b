"""Augmentation: batched, on the batch's device, each sample's chances a pure function of (seed, epoch, its index)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from conviction.data.draws import draw, draw_beta
from conviction.data.records import Batch, Preprocessing, Size

# The number that each chance reads, so that switching one augmentation on leaves the others' chances as they were.
_FLIP, _TOP, _LEFT, _AREA, _ASPECT = 0, 1, 2, 3, 4
_ERASE, _ERASE_AREA, _ERASE_ASPECT, _ERASE_TOP, _ERASE_LEFT = 5, 6, 7, 8, 9
_WHICH_MIX, _SHARE, _MIX_TOP, _MIX_LEFT = 10, 11, 12, 13
_DRAWS = 14

_CROP_ASPECTS = (3 / 4, 4 / 3)  # GoogLeNet, section 6
_ERASED_AREAS = (0.02, 1 / 3)  # Zhong et al. 2017, "Random erasing data augmentation", with s_h from timm's default
_ERASED_ASPECTS = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image; the words and units are those of `Recipe`. The default does nothing."""

    flip: bool = False
    crop: str = "none"
    crop_pad: int = 2
    crop_scale: float = 0.35
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


def augment(
    batch: Batch, preprocessing: Preprocessing, augmentation: Augmentation, *, seed: int, epoch: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return standardised images (float32 [n, C, H, W]) and targets, on the device of the batch's pictures.

    Targets are labels (int64 [n]), or with mixup or CutMix class probabilities (float32 [n, num_classes]). What happens
    to a sample depends on (seed, epoch, its index) alone, except that mixup and CutMix mix it with its neighbour in the
    batch: the batch rolled by one. Where pictures are enlarged on their way to the net, they are moved at the size in
    which they are stored, which costs less and moves them by whole stored pixels.
    """
    pictures, labels = batch.pictures, batch.labels
    chances = draw(seed, epoch, batch.indices.to(pictures.device), _DRAWS)
    if augmentation.crop == "resized":
        images = preprocessing.standardise(_crop_resized(pictures, preprocessing, augmentation, chances))
    else:
        images = preprocessing.standardise(_move(pictures, preprocessing, augmentation, chances))
    if augmentation.erase > 0:
        images = _erase(images, augmentation.erase, chances)
    if augmentation.mixup > 0 or augmentation.cutmix > 0:
        return _mix(images, labels, augmentation, chances, num_classes)
    return images, labels


def _move(pictures: Tensor, preprocessing: Preprocessing, augmentation: Augmentation, chances: Tensor) -> Tensor:
    """Flip and shift by whole pixels, then frame; without either the result is exactly the frame."""
    shifts = augmentation.crop == "shift"
    if not (augmentation.flip or shifts):
        return preprocessing.frame(pictures)
    resized, image = preprocessing.resized, preprocessing.image[1:]
    mirrored = chances[:, _FLIP] < (0.5 if augmentation.flip else 0.0)
    stored = _size(pictures)
    enlarged = resized[0] * resized[1] > stored[0] * stored[1]
    if not shifts or enlarged:
        pad = augmentation.crop_pad if shifts else 0
        top, left = (
            _offsets(chances[:, column], 0, pad, side) for column, side in zip((_TOP, _LEFT), stored, strict=True)
        )
        return preprocessing.frame(_windows(pictures, top, left, mirrored, stored))
    pictures = _resize(pictures, resized)
    top, left = (
        _offsets(chances[:, column], resized[axis] - image[axis], augmentation.crop_pad, resized[axis])
        for axis, column in enumerate((_TOP, _LEFT))
    )
    return _scale(_windows(pictures, top, left, mirrored, image))


def _offsets(chance: Tensor, room: int, pad: int, side: int) -> Tensor:
    """Choose where windows begin: anywhere within the room, or where there is none up to `pad` pixels off the edge."""
    pad = 0 if room else min(pad, side - 1)
    return (chance * (room + 2 * pad + 1)).long() - pad


def _windows(pictures: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, size: Size) -> Tensor:
    """Cut a window of `size` out of each picture; beyond the edges the picture goes on as its mirror image."""
    n, channels, height, width = pictures.shape
    device = pictures.device
    rows = _reflected(top[:, None] + torch.arange(size[0], device=device), height)
    columns = torch.arange(size[1], device=device).expand(n, -1)
    columns = torch.where(mirrored[:, None], size[1] - 1 - columns, columns)
    columns = _reflected(left[:, None] + columns, width)
    places = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).expand(-1, channels, -1)
    return pictures.flatten(2).gather(2, places).view(n, channels, *size)


def _reflected(places: Tensor, side: int) -> Tensor:
    return (side - 1 - (side - 1 - places.abs()).abs()).abs()


def _crop_resized(
    pictures: Tensor, preprocessing: Preprocessing, augmentation: Augmentation, chances: Tensor
) -> Tensor:
    """Cut out a random part and stretch it to the image: area from `crop_scale` to 1, aspect from 3/4 to 4/3.

    Sides that would reach over the picture are cut to it (GoogLeNet's recipe would draw again).
    """
    resized = preprocessing.resized
    if resized[0] * resized[1] < pictures.shape[-2] * pictures.shape[-1]:  # shrink first, or pixels would be skipped
        pictures = _resize(pictures, resized)
    height, width = _sides(
        _between(chances[:, _AREA], augmentation.crop_scale, 1.0), chances[:, _ASPECT], _CROP_ASPECTS, pictures.shape
    )
    sign = torch.where(chances[:, _FLIP] < 0.5, -1.0, 1.0) if augmentation.flip else 1.0
    # affine_grid speaks in -1..1 over the picture: a part of share s may be centred from -(1 - s) to 1 - s.
    middle_y, middle_x = (1 - height) * (2 * chances[:, _TOP] - 1), (1 - width) * (2 * chances[:, _LEFT] - 1)
    zero = torch.zeros_like(width)
    theta = torch.stack([width * sign, zero, middle_x, zero, height, middle_y], 1).view(-1, 2, 3)
    scaled = _scale(pictures)
    shape = [len(scaled), scaled.shape[1], *preprocessing.image[1:]]
    grid = F.affine_grid(theta, shape, align_corners=False)
    return F.grid_sample(scaled, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _sides(
    area: Tensor, aspect_chance: Tensor, aspects: tuple[float, float], shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """Return height and width, as shares of the picture's, of rectangles that cover the shares `area`."""
    low, high = (torch.tensor(aspect).log().item() for aspect in aspects)
    aspect = _between(aspect_chance, low, high).exp()  # width / height in pixels; evenly spread in the logarithm
    to_shares = shape[-2] / shape[-1]
    return (area / (aspect * to_shares)).sqrt().clamp(max=1.0), (area * aspect * to_shares).sqrt().clamp(max=1.0)


def _erase(images: Tensor, probability: float, chances: Tensor) -> Tensor:
    """Put the mean (zero, as images are standardised) into a random rectangle of some images."""
    area = _between(chances[:, _ERASE_AREA], *_ERASED_AREAS)
    height, width = _sides(area, chances[:, _ERASE_ASPECT], _ERASED_ASPECTS, images.shape)
    inside, _ = _rectangles(images, height, width, chances[:, _ERASE_TOP], chances[:, _ERASE_LEFT])
    erased = chances[:, _ERASE, None, None, None] < probability
    return images.masked_fill(inside & erased, 0.0)


def _rectangles(
    images: Tensor, height: Tensor, width: Tensor, top_chance: Tensor, left_chance: Tensor
) -> tuple[Tensor, Tensor]:
    """Place rectangles of whole pixels: which pixels lie inside (bool [n, 1, H, W]), and their shares of the area."""
    sides = []
    for axis, share, chance in ((2, height, top_chance), (3, width, left_chance)):
        whole = images.shape[axis]
        length = (share * whole).round().long()
        first = (chance * (whole - length + 1)).long()[:, None]
        place = torch.arange(whole, device=images.device)
        sides.append((place >= first) & (place < first + length[:, None]))
    inside = sides[0][:, None, :, None] & sides[1][:, None, None, :]
    return inside, inside.flatten(1).float().mean(1)


def _mix(
    images: Tensor, labels: Tensor, augmentation: Augmentation, chances: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Mix each image with its neighbour: blended (mixup, Zhang et al. 2018) or patched (CutMix, Yun et al. 2019).

    Where both are on, each sample gets either with even odds.
    """
    partners = images.roll(1, 0)
    kept = torch.ones(len(images), device=images.device)
    cut = chances[:, _WHICH_MIX] < (0.5 if augmentation.mixup > 0 else 1.0)
    mixed = images
    if augmentation.mixup > 0:
        share = draw_beta(chances[:, _SHARE], augmentation.mixup)
        mixed, kept = torch.lerp(partners, images, share[:, None, None, None]), share
    if augmentation.cutmix > 0:
        side = (1 - draw_beta(chances[:, _SHARE], augmentation.cutmix)).sqrt()
        inside, area = _rectangles(images, side, side, chances[:, _MIX_TOP], chances[:, _MIX_LEFT])
        patched = torch.where(inside, partners, images)
        mixed = torch.where(cut[:, None, None, None], patched, mixed)
        kept = torch.where(cut, 1 - area, kept)
    own = F.one_hot(labels, num_classes).float()
    return mixed, torch.lerp(own.roll(1, 0), own, kept[:, None])


def _resize(pictures: Tensor, size: Size) -> Tensor:
    if _size(pictures) == size:
        return pictures
    return F.interpolate(_scale(pictures), size, mode="bilinear", antialias=True)


def _size(pictures: Tensor) -> Size:
    return pictures.shape[-2], pictures.shape[-1]


def _scale(pictures: Tensor) -> Tensor:
    return pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float()


def _between(chance: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * chance
