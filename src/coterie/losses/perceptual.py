"""Perceptual similarity of images: DISTS on given features, and Sobel edges.

Computed in float32 or float64, also under autocast. The caller chooses the network that computes the features, see :mod:`coterie.networks.dists`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.errors import CoterieError
from coterie.losses.precision import at_least_float32

EdgeChannels = Literal["mean", "luma", "each"]
EdgeScale = Literal["none", "max", "min_max"]
LUMA = (0.299, 0.587, 0.114)  # of BT.601
STABLE = 1e-6  # c1 and c2 of DISTS, and added under the square root of the edges


def dists(
    features: Sequence[Tensor], others: Sequence[Tensor], alpha: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    r"""DISTS distance: texture and structure of two images' features, for each channel; 0 for equal features.

    .. math::
        1 - \frac{\sum_c \alpha_c\, l_c + \beta_c\, s_c}{\sum_c \alpha_c + \beta_c}, \qquad
        l = \frac{2 \mu_x \mu_y + c_1}{\mu_x^2 + \mu_y^2 + c_1}, \qquad
        s = \frac{2 \sigma_{xy} + c_2}{\sigma_x^2 + \sigma_y^2 + c_2}

    Means and (co)variances are over a channel's positions.

    Args:
        features, others: one tensor for each stage, [B, C_i, H_i, W_i].
        alpha, beta: a weight for each channel of all stages, [sum of C_i], not negative; None: equal weights.

    Returns:
        [B], at most 2.

    Raises:
        CoterieError: stages of different number or shape, or weights that do not match the channels.

    Source: Ding et al., TPAMI 2020, arXiv 2004.07728, equations 7 to 9, and their code (c1 = c2 = 1e-6; the image itself is the first stage).
    """
    if len(features) != len(others) or any(x.shape != y.shape for x, y in zip(features, others, strict=True)):
        raise CoterieError("dists compares features of equal shapes, stage by stage")
    textures, structures = [], []
    for x, y in zip(features, others, strict=True):
        x, y = at_least_float32(x), at_least_float32(y)
        mean_x, mean_y = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
        x, y = x - mean_x, y - mean_y
        variances = x.square().mean((2, 3)) + y.square().mean((2, 3))
        structures.append((2 * (x * y).mean((2, 3)) + STABLE) / (variances + STABLE))
        mean_x, mean_y = mean_x[..., 0, 0], mean_y[..., 0, 0]
        textures.append((2 * mean_x * mean_y + STABLE) / (mean_x.square() + mean_y.square() + STABLE))
    texture, structure = torch.cat(textures, dim=1), torch.cat(structures, dim=1)
    channels = texture.shape[1]
    for name, weights in (("alpha", alpha), ("beta", beta)):
        if weights is not None and weights.shape != (channels,):
            raise CoterieError(f"{name} {list(weights.shape)}: expected one weight for each of {channels} channels")
    ones = torch.ones(channels, dtype=texture.dtype, device=texture.device)
    first, second = (ones if weights is None else weights.to(texture) for weights in (alpha, beta))
    return 1 - (texture * first + structure * second).sum(1) / (
        first.sum() + second.sum()
    )  # autocast would round a matrix product


def sobel_magnitude(images: Tensor, channels: EdgeChannels = "mean", scale: EdgeScale = "none") -> Tensor:
    r"""Edges, :math:`\sqrt{(G_x * x)^2 + (G_y * x)^2 + 10^{-6}}` with Sobel's 3x3 kernels and zeros around the image.

    Args:
        images: [B, C, H, W]; three channels for ``luma``.
        channels: what the edges are computed from: the channels' mean (the demonstration code of EA-DISTS's authors), their luma, or each channel.
        scale: ``none`` (that code); or each image's edges divided by their maximum, or rescaled to 0 to 1, as others do.

    Returns:
        [B, 1, H, W], or [B, C, H, W] for each channel.

    Raises:
        CoterieError: an unknown value of an argument.

    Source: D3SR (Li et al., NeurIPS 2025, arXiv 2410.04224), section 3.3, and the demonstration in OSDFace's repository.

    >>> step = torch.cat([torch.zeros(1, 1, 5, 3), torch.ones(1, 1, 5, 3)], dim=3)
    >>> sobel_magnitude(step)[0, 0, 2].round().tolist()
    [0.0, 0.0, 4.0, 4.0, 0.0, 4.0]
    """
    images = at_least_float32(images)
    if channels == "mean":
        images = images.mean(1, keepdim=True)
    elif channels == "luma":
        if images.shape[1] != 3:
            raise CoterieError(f"luma needs three channels, got {images.shape[1]}")
        images = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    elif channels != "each":
        raise CoterieError(f"channels={channels!r}: expected mean, luma or each")
    count = images.shape[1]
    horizontal = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([horizontal, horizontal.T]).unsqueeze(1).repeat(count, 1, 1, 1)
    with torch.autocast(images.device.type, enabled=False):
        slopes = F.conv2d(images, kernels, padding=1, groups=count).unflatten(1, (count, 2))
    edges = (slopes.square().sum(2) + STABLE).sqrt()
    if scale == "none":
        return edges
    largest = edges.amax((1, 2, 3), keepdim=True)
    if scale == "max":
        return edges / largest
    if scale != "min_max":
        raise CoterieError(f"scale={scale!r}: expected none, max or min_max")
    smallest = edges.amin((1, 2, 3), keepdim=True)
    return (edges - smallest) / (largest - smallest).clamp(min=STABLE)
