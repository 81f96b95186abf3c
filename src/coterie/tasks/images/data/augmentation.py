"""Batched augmentation on the device of the batch. Every draw is a pure function of (seed, sample index, stream)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special
import torch
from torch import Tensor

from coterie.randomness import uniform

# Streams of a sample's independent draws. Each view has its own STREAMS streams.
ROW, COLUMN, FLIP, CUT_ROW, CUT_COLUMN = range(5)
PARTNER, MIX, KIND, BOX_ROW, BOX_COLUMN = range(5, 10)
STREAMS = 16


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of an image: padding of the random crop in pixels, horizontal flip, side of the cutout square."""

    padding: int = 0
    flip: bool = False
    cutout: int = 0


def crop_and_flip(images: Tensor, indices: Tensor, seed: int, settings: Augmentation, view: int = 0) -> Tensor:
    """Applies a random crop of the zero-padded image and a random horizontal flip, with independent draws for each image.

    The whole batch takes one gather.

    Args:
        images: uint8 [B, C, H, W].
        indices: int64 [B], the samples' indices in their data set, on the same device.
        seed: seed of the epoch.
        settings: padding and flip.
        view: index of the view; each has its own draws.

    Returns:
        uint8 [B, C, H, W].
    """
    if settings.padding == 0 and not settings.flip:
        return images
    height, width = images.shape[2:]
    device = images.device
    # All draws at once: on a GPU, launching about thirty small kernels for each would take longer than running them.
    draws = uniform(seed, indices, view * STREAMS + torch.arange(FLIP + 1, device=device)[:, None])
    rows = torch.arange(height, device=device).expand(len(images), height)
    columns = torch.arange(width, device=device).expand(len(images), width)
    if settings.flip:
        columns = torch.where(draws[FLIP, :, None] < 0.5, columns.flip(1), columns)
    if settings.padding:
        moved = (draws[: COLUMN + 1] * (2 * settings.padding + 1)).long() - settings.padding
        rows, columns = rows + moved[ROW, :, None], columns + moved[COLUMN, :, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    places = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    flat = images.flatten(2).gather(2, places.flatten(1)[:, None, :].expand(-1, images.shape[1], -1))
    return (flat.view_as(images) * inside[:, None]).to(images.dtype)


def cutout(images: Tensor, indices: Tensor, seed: int, side: int, view: int = 0) -> Tensor:
    """Set a square around a random centre, clipped at the border, to 0 (DeVries and Taylor, 2017).

    Args:
        images: normalised float [B, C, H, W], so that 0 is the data's mean.
        indices: see :func:`crop_and_flip`; so are ``seed`` and ``view``.
        seed: seed of the epoch.
        side: side of the square in pixels.
        view: index of the view.
    """
    height, width = images.shape[2:]
    stream = view * STREAMS
    centre_row = (uniform(seed, indices, stream + CUT_ROW) * height).long()
    centre_column = (uniform(seed, indices, stream + CUT_COLUMN) * width).long()
    return images * ~_boxes(centre_row, centre_column, side, side, height, width)[:, None]


def _boxes(
    row: Tensor, column: Tensor, box_height: Tensor | int, box_width: Tensor | int, height: int, width: int
) -> Tensor:
    """Returns masks [B, H, W], true inside boxes of the given sizes around (row, column)."""

    def span(centre: Tensor, size: Tensor | int, length: int) -> Tensor:
        places = torch.arange(length, device=centre.device)
        start = centre - (size // 2 if isinstance(size, int) else torch.div(size, 2, rounding_mode="floor"))
        end = start + size
        return (places >= start[:, None]) & (places < end[:, None])

    return span(row, box_height, height)[:, :, None] & span(column, box_width, width)[:, None, :]


@dataclass(frozen=True)
class Mixing:
    """Alphas of mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019); with both, each sample uses one of them at random."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


def partners(indices: Tensor, seed: int, num_samples: int) -> Tensor:
    """Draws the sample that each one is mixed with from the whole data set, int64 [B]."""
    return (uniform(seed, indices, PARTNER) * num_samples).long()


def mix(
    images: Tensor,
    others: Tensor,
    targets: Tensor,
    other_targets: Tensor,
    indices: Tensor,
    seed: int,
    settings: Mixing,
) -> tuple[Tensor, Tensor]:
    """Mix images and one-hot targets with those of their partners.

    Args:
        images, others: float [B, C, H, W].
        targets, other_targets: float [B, K].
        indices: int64 [B] on the CPU, because the Beta quantile is computed by SciPy.
        seed: seed of the epoch.
        settings: alphas of mixup and cutmix.

    Returns:
        Mixed images and targets.
    """
    device = images.device
    draws = uniform(seed, indices, MIX).double().numpy()
    coin = uniform(seed, indices, KIND).numpy()
    by_box = coin < 0.5 if settings.mixup and settings.cutmix else np.full(len(indices), settings.cutmix > 0)
    alpha = np.where(by_box, settings.cutmix or 1.0, settings.mixup or 1.0)
    keep = scipy.special.betaincinv(alpha, alpha, draws)
    height, width = images.shape[2:]
    share = np.sqrt(1 - keep)
    boxes = _boxes(
        (uniform(seed, indices, BOX_ROW) * height).long(),
        (uniform(seed, indices, BOX_COLUMN) * width).long(),
        torch.from_numpy((share * height).astype(np.int64)),
        torch.from_numpy((share * width).astype(np.int64)),
        height,
        width,
    )
    box_keep = 1 - boxes.float().mean((1, 2)).numpy()
    weights = torch.from_numpy(np.where(by_box, box_keep, keep)).float().to(device, non_blocking=True)
    mask = torch.where(
        torch.from_numpy(by_box)[:, None, None], (~boxes).float(), torch.from_numpy(keep).float()[:, None, None]
    ).to(device, non_blocking=True)[:, None]
    mixed = images * mask + others * (1 - mask)
    return mixed, targets * weights[:, None] + other_targets * (1 - weights[:, None])
