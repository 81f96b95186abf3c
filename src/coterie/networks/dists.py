"""The feature network of DISTS: a frozen VGG-16 with smooth pooling. The formula is in :mod:`coterie.losses.perceptual`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.errors import CoterieError, did_you_mean
from coterie.losses.perceptual import EdgeChannels, EdgeScale, dists, sobel_magnitude
from coterie.networks.hub import why_no_answer
from coterie.randomness import derive_seed, seeded

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # VGG-16's convolutions
NARROW = 8  # factor by which the random network is narrower; it is for tests and small experiments
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
BACKBONES = ("vgg16", "random")
SMALLEST = 16  # pixels a side: four poolings


class DISTS(nn.Module):
    """Distance of images by structure and texture; maps two batches [B, 3, H, W] to [B]; 0 for equal images. Frozen; gradients reach the images.

    Args:
        backbone: ``vgg16``: torchvision's ImageNet weights (downloaded once), with equal weights for all channels; ``random``: an untrained narrow network, whose distance is not
            DISTS; or a file of the channel weights ``alpha`` and ``beta``, as published by DISTS's authors and piq (.pt, read without executing code, or .safetensors), with
            torchvision's weights.
        seed: seed of the random network.

    Attributes:
        name: name of the distance: ``dists`` with the published channel weights, ``dists_equal``, or ``dists_random``.

    Source: Ding et al., TPAMI 2020, arXiv 2004.07728, section 3.1, and their code: L2 pooling with a Hanning window of three in place of max-pooling. For the same weights the
    values equal piq's (``benchmarks/restoration/dists_by_piq.py``) for images up to 256 pixels. piq downsamples larger images first; the authors' code does this outside of the
    distance; this class does not.

    Raises:
        CoterieError: weights that are not available or do not fit.
    """

    alpha: Tensor | None
    beta: Tensor | None
    window: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str = "vgg16", *, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("alpha", None)
        self.register_buffer("beta", None)
        self.name = "dists_random" if backbone == "random" else "dists_equal"
        if backbone not in BACKBONES:
            self.name = "dists"
            for name, weights in _channel_weights(backbone).items():
                setattr(self, name, weights)
        self.stages = _stages(NARROW if backbone == "random" else 1)
        if backbone == "random":
            with seeded(derive_seed(seed, "dists")):
                self.stages.apply(_draw)
        else:
            _fill(self.stages, vgg16_weights())
        window = torch.hann_window(5, periodic=False)[1:-1]
        window = torch.outer(window, window)
        self.register_buffer("window", window / window.sum())
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> DISTS:
        """Stays in eval mode."""
        return super().train(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Returns the images themselves and the features of five stages, for images [B, 3 or 1, H, W] in 0 to 1; a single channel is repeated three times.

        Raises:
            CoterieError: images below 16 pixels a side.
        """
        if min(images.shape[-2:]) < SMALLEST:
            raise CoterieError(
                f"DISTS needs images of at least {SMALLEST}x{SMALLEST} pixels, got {list(images.shape[-2:])}"
            )
        images = images.float().expand(-1, 3, -1, -1)
        with torch.autocast(images.device.type, enabled=False):
            found, values = [images], (images - self.mean) / self.std
            for number, stage in enumerate(self.stages):
                values = stage(self._pooled(values) if number else values)
                found.append(values)
        return found

    def _pooled(self, values: Tensor) -> Tensor:
        count = values.shape[1]
        kernel = self.window.expand(count, 1, 3, 3)
        return (F.conv2d(values.square(), kernel, stride=2, padding=1, groups=count) + 1e-12).sqrt()

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Returns distances [B] of images in 0 to 1."""
        return dists(self.features(images), self.features(others), self.alpha, self.beta)

    def edge_aware(
        self, images: Tensor, others: Tensor, channels: EdgeChannels = "mean", scale: EdgeScale = "none"
    ) -> Tensor:
        """EA-DISTS [B]: the distance of the images plus that of their edges, see :func:`coterie.losses.perceptual.sobel_magnitude`.

        Source: D3SR (Li et al., NeurIPS 2025, arXiv 2410.04224), section 3.3; both terms have equal weight, as in the demonstration code of its authors.
        """
        edges = (sobel_magnitude(each, channels, scale) for each in (images, others))
        return self(images, others) + self(*edges)


def _stages(divisor: int) -> nn.ModuleList:
    """VGG-16's convolutions, ``divisor`` times narrower, with uninitialised weights."""
    stages, width = nn.ModuleList(), 3
    for channels in STAGES:
        layers: list[nn.Module] = []
        for wanted in channels:
            convolution = nn.utils.skip_init(nn.Conv2d, width, wanted // divisor, 3, padding=1)
            layers += [convolution, nn.ReLU()]
            width = wanted // divisor
        stages.append(nn.Sequential(*layers))
    return stages


def _draw(module: nn.Module) -> None:
    """Initialises a convolution randomly."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def vgg16_weights() -> dict[str, Tensor]:
    """Returns torchvision's weights, from its cache or downloaded.

    Raises:
        CoterieError: they are not available.
    """
    from torchvision.models import VGG16_Weights

    weights = VGG16_Weights.IMAGENET1K_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not file.is_file():
        import urllib.request

        reason = why_no_answer(lambda: urllib.request.urlopen(weights.url, timeout=3).close())
        if reason is not None:
            raise CoterieError(
                f"DISTS and LPIPS need torchvision's VGG-16 weights, which are not in {str(file.parent)!r}, and {weights.url} gives: {reason}; "
                "data.dists=random and method.dists_backbone=random need none, and are no DISTS"
            )
    state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    return state


def _fill(stages: nn.ModuleList, weights: dict[str, Tensor]) -> None:
    """Copies torchvision's weights into the convolutions, in the order of its ``features``."""
    names = sorted({key.rsplit(".", 1)[0] for key in weights if key.startswith("features.")}, key=_number)
    convolutions = [each for each in stages.modules() if isinstance(each, nn.Conv2d)]
    for name, convolution in zip(names, convolutions, strict=True):
        convolution.load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")})


def _number(name: str) -> int:
    return int(name.rpartition(".")[2])


def _channel_weights(place: str) -> dict[str, Tensor]:
    """Reads ``alpha`` and ``beta`` from a file, one number for each channel of the image and all stages.

    Raises:
        CoterieError: no such file, one that cannot be read, or weights of another shape.
    """
    path = Path(place).expanduser()
    if not path.is_file():
        raise CoterieError(
            f"no backbone of DISTS {place!r}{did_you_mean(place, BACKBONES)}: expected vgg16, random, or a file of the channels' weights alpha and beta"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: state[name].detach().float().flatten() for name in ("alpha", "beta")}
    except Exception as error:  # readers raise many exception types
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CoterieError(f"{place!r} holds no weights alpha and beta that can be read: {reason}") from None
    channels = 3 + sum(stage[-1] for stage in STAGES)
    if any(each.shape != (channels,) for each in found.values()):
        shapes = [list(each.shape) for each in found.values()]
        raise CoterieError(f"{place!r}: alpha and beta are {shapes}, expected {channels} numbers each")
    return found
