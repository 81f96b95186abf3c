"""Evaluation of restored and interpolated images on a split, batch by batch; memory does not grow with the split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from coterie.data.batch import EvaluationLoader
from coterie.errors import RunError
from coterie.losses.perceptual import sobel_magnitude
from coterie.methods.restoration.restorer import Restorer
from coterie.metrics.images import high_frequency_power, psnr, sorted_distance, spectrum, ssim
from coterie.metrics.sums import exact_sum, value_of
from coterie.networks.dists import DISTS, SMALLEST
from coterie.networks.lpips import LPIPS
from coterie.networks.one_step.tiles import in_tiles
from coterie.tasks.evaluation import Evaluation

MOST_DB = 100.0  # limit for equal images, whose PSNR would make every mean infinite
BINS = 24  # of the spectra


@dataclass(frozen=True)
class RestorationEvaluation(Evaluation):
    """Attributes:
    spectra: mean power by frequency of ``restored``, ``bicubic`` and ``true`` images, from 0 to 0.5 cycles per pixel.
    """

    spectra: dict[str, list[float]]


def enlarger(method: Restorer, tile: int, overlap: int) -> Callable[[Tensor], Tensor]:
    """Return a function from small images to large ones; it works in tiles if an image is larger than a tile."""
    scale = method.generator.scale

    def restore(low: Tensor) -> Tensor:
        if max(low.shape[-2:]) * scale <= tile:
            return method.predict(low)
        return torch.cat([in_tiles(method.predict, each[None], scale, tile, overlap) for each in low])

    return restore


class _Sums:
    """Sums of the figures of one kind of image."""

    def __init__(self, distances: list[DISTS | LPIPS], device: torch.device) -> None:
        self.distances = distances
        self.names = ["psnr", "ssim", *(each.name for each in distances), "edges", "power"]
        self.values = torch.zeros(len(self.names), 3, dtype=torch.int64, device=device)
        self.spectrum = torch.zeros(BINS, 3, dtype=torch.int64, device=device)

    def add(self, images: Tensor, true: Tensor, counted: Tensor) -> None:
        """Add the images [B, 3, H, W] that count."""
        found = [psnr(images, true).clamp(max=MOST_DB), ssim(images, true)]
        found += [each(images, true) for each in self.distances]
        edges = sorted_distance(sobel_magnitude(images), sobel_magnitude(true))
        rows = torch.stack([*found, edges, high_frequency_power(images)])
        self.values += exact_sum(torch.where(counted, rows, 0.0))
        self.spectrum += exact_sum(torch.where(counted, spectrum(images, BINS).T, 0.0))


@torch.inference_mode()
def measure(
    method: Restorer,
    loader: EvaluationLoader,
    accelerator: Accelerator,
    distances: list[DISTS | LPIPS],
    tile: int,
    overlap: int,
) -> RestorationEvaluation:
    """Compare restored and interpolated images with the true ones on a whole split, in eval mode.

    Args:
        method: the method; it is set to eval mode.
        loader: batches of the split.
        accelerator: the sums of its processes are added up.
        distances: networks for perceptual distances, on the device.
        tile, overlap: see :func:`coterie.networks.one_step.tiles.in_tiles`.

    Raises:
        RunError: restored images are not finite.
    """
    method.eval()
    restore = enlarger(method, tile, overlap)
    device = accelerator.device
    usable: list[DISTS | LPIPS] | None = None
    sums: dict[str, _Sums] = {}
    statistics: dict[str, Tensor] = {}
    for batch in loader:
        low, true = batch.inputs, batch.targets
        counted = batch.indices >= 0
        with accelerator.autocast():
            restored = restore(low).float()
            found = method.statistics(low, true, restored)
        if usable is None:
            usable = distances if min(true.shape[-2:]) >= SMALLEST else []
            sums = {"restored": _Sums(usable, device), "bicubic": _Sums(usable, device), "true": _Sums([], device)}
        images = {"restored": restored, "bicubic": method.generator.enlarged(low), "true": true}
        for name, each in images.items():
            sums[name].add(each, true, counted)
        for name, values in found.items():
            total = exact_sum(torch.where(counted, values, 0.0))
            statistics[name] = statistics[name] + total if name in statistics else total
    count = loader.num_samples

    def mean(total: Tensor) -> Any:
        return (value_of(accelerator.reduce(total, "sum")) / count).tolist()

    means = {name: mean(each.values) for name, each in sums.items()}
    figures = {name: _figures(sums[name].names, means[name], means["true"][-1]) for name in ("restored", "bicubic")}
    if not all(map(torch.isfinite, torch.tensor(list(figures["restored"].values())))):
        raise RunError(
            "restored images are not finite: training has diverged. Try a lower optimizer.learning_rate, training.clip_gradient, or training.precision=fp32."
        )
    spectra = {name: mean(each.spectrum) for name, each in sums.items()}
    own: dict[str, Any] = {
        "deployed": {"student": 0, **figures["restored"]},
        "students": [figures["restored"]],
        "mean_student": dict(figures["restored"]),
        "bicubic": figures["bicubic"],
        "statistics": {name: mean(each) for name, each in statistics.items()},
    }
    return RestorationEvaluation(own, spectra=spectra)


def _figures(names: list[str], values: list[float], true_power: float) -> dict[str, float]:
    """Return values by the keys of the declared figures; power becomes the ratio to that of the true images."""
    found = dict(zip(names, values, strict=True))
    power = found.pop("power")
    found["high_frequency"] = power / true_power if true_power > 0 else 0.0
    return found
