"""Figures of restoration, computed by :mod:`coterie.metrics.images`. This module does not import torch, so that a report can read it."""

from __future__ import annotations

from coterie.tasks.figures import Figure

FIGURES: tuple[Figure, ...] = (
    Figure("psnr", "PSNR", "higher", ".2f", unit="dB", meaning="peak signal over noise, of the luma; at most 100"),
    Figure("ssim", "SSIM", "higher", meaning="structural similarity, of the luma"),
    Figure("dists", "DISTS", "lower", optional=True, meaning="distance in structure and texture"),
    Figure("dists_equal", "DISTS*", "lower", optional=True, meaning="DISTS with equal weights for VGG-16's channels"),
    Figure(
        "dists_random", "DISTS†", "lower", optional=True, meaning="the formula of DISTS on a random network: no DISTS"
    ),
    Figure("lpips", "LPIPS", "lower", optional=True, meaning="distance of VGG-16's features"),
    Figure(
        "high_frequency",
        "fine detail",
        None,
        ".3f",
        meaning="power above 0.25 cycles a pixel, over the true images’: 1 is as much",
    ),
    Figure(
        "edges",
        "edge distance",
        "lower",
        ".4f",
        meaning="between the distributions of edge magnitudes of image and true image",
    ),
)
