"""Base class of restoration methods, and the perceptual loss term."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses.perceptual import EdgeChannels, EdgeScale
from coterie.methods.method import Method, Unused
from coterie.networks.dists import DISTS
from coterie.networks.lpips import LPIPS
from coterie.networks.one_step.generator import OneStepGenerator

Perceptual = Literal["none", "lpips", "dists", "ea_dists"]
UNUSED_PERCEPTUAL: Unused = {
    "perceptual=none": ("perceptual_weight", "dists_backbone"),
    "perceptual=lpips": ("dists_backbone",),
    "perceptual!=ea_dists": ("edges", "edge_scale"),
    "perceptual_weight=0": ("perceptual", "dists_backbone", "edges", "edge_scale"),
}  # of the methods with a perceptual term, see :data:`coterie.methods.method.Unused`


class Restorer(Method):
    """Base of the methods that train a generator.

    Args:
        generator: maps small images in 0 to 1 to large ones.
    """

    def __init__(self, generator: OneStepGenerator) -> None:
        super().__init__()
        self.generator = generator
        # Frozen networks that only losses use. They are not submodules, so that they are not saved, averaged or trained.
        self._frozen: tuple[nn.Module, ...] = ()

    @property
    def networks(self) -> nn.Module:
        return self.generator

    @property
    def never_trained(self) -> tuple[str, ...]:
        """Names of weights that are never trained (those under LoRA, and the autoencoder's); checkpoints can omit them."""
        return tuple(name for name, each in self.named_parameters() if not each.requires_grad)

    def _apply(self, function: Any, recurse: bool = True) -> Restorer:
        """Also applies to the frozen networks, so that they move with the module."""
        super()._apply(function, recurse)
        for each in self._frozen:
            each._apply(function)
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The generator's parameters; other networks have their own optimizers."""
        return [{"params": self.generator.trained_parameters()}]

    def student(self) -> nn.Module:
        return copy.deepcopy(self.generator)

    def without_sources(self) -> dict[str, Any]:
        """Returns options that rebuild the method without the pretrained weights it started from, since its weights come from its state. JSON values."""
        return {}

    def predict(self, inputs: Inputs) -> Tensor:
        """Returns large images [B, 3, s h, s w] in 0 to 1 for small ones."""
        images: Tensor = self.generator(inputs)
        return images

    def statistics(self, inputs: Tensor, targets: Tensor, restored: Tensor) -> dict[str, Tensor]:
        """Diagnostics of each sample by name, [B]; evaluation reports their means. Empty by default."""
        return {}

    def restored(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns latents ẑ_H and images in about 0 to 1, for small images; differentiable.

        Raises:
            CoterieError: large images whose sides are not multiples of what the networks need.
        """
        images = self.generator.enlarged(inputs)
        if any(side % self.generator.multiple for side in images.shape[-2:]):
            raise CoterieError(
                f"large images of {images.shape[-2]}x{images.shape[-1]} pixels: expected multiples of {self.generator.multiple}, which the network's levels need"
            )
        latents = self.generator.restore(self.generator.encode(images))
        return latents, self.generator.decode(latents)


def spatial_loss(restored: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of images in 0 to 1, computed in the decoder's range, -1 to 1."""
    return 4 * (restored.float() - targets.float()).square().mean()


class Likeness:
    """The perceptual term.

    Args:
        perceptual: ``lpips``, ``dists`` or ``ea_dists``; ``none``: no term.
        backbone: backbone of DISTS, see :class:`coterie.networks.dists.DISTS`.
        edges, edge_scale: settings of EA-DISTS, see :func:`coterie.losses.perceptual.sobel_magnitude`.

    Attributes:
        network: frozen; None for ``none``.
        name: name of the loss term; it shows if the distance is not DISTS: ``ea_dists_random``.

    Raises:
        CoterieError: weights that are not available.
    """

    def __init__(self, perceptual: Perceptual, backbone: str, edges: EdgeChannels, edge_scale: EdgeScale) -> None:
        self.perceptual, self.edges, self.edge_scale = perceptual, edges, edge_scale
        self.network: DISTS | LPIPS | None = None
        self.name = perceptual
        if perceptual == "lpips":
            self.network = LPIPS()
        elif perceptual != "none":
            self.network = DISTS(backbone)
            self.name = self.network.name if perceptual == "dists" else f"ea_{self.network.name}"  # type: ignore[assignment]

    def __call__(self, restored: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over images in about 0 to 1, 0-d."""
        if isinstance(self.network, DISTS) and self.perceptual == "ea_dists":
            return self.network.edge_aware(restored, targets, self.edges, self.edge_scale).mean()
        assert self.network is not None
        distances: Tensor = self.network(restored, targets)
        return distances.mean()


def random_times(count: int, low: int, high: int, device: torch.device) -> Tensor:
    """Draws a time step for each sample, int64 [count] from low to below high."""
    return torch.randint(low, high, (count,), device=device)
