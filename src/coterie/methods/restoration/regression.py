"""Regression: one step of a diffusion network, trained on the squared error only. The baseline of the other methods."""

from __future__ import annotations

from torch import Tensor

from coterie.data.nested import Inputs
from coterie.methods.progress import Progress
from coterie.methods.restoration.restorer import Restorer, spatial_loss
from coterie.networks.one_step.generator import OneStepGenerator


class Regression(Restorer):
    """The mean squared error of the restored image.

    Args:
        generator: the one-step network.

    Losses: ``spatial``.
    """

    def __init__(self, generator: OneStepGenerator) -> None:
        super().__init__(generator)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        _, restored = self.restored(inputs)
        return {"spatial": spatial_loss(restored, targets)}
