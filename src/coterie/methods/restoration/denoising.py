"""Denoising: trains a diffusion model of sharp images, from which the other methods start if there are no published weights."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses.denoising import noised
from coterie.methods.progress import Progress
from coterie.methods.restoration.restorer import Restorer, random_times
from coterie.networks.one_step.generator import OneStepGenerator
from coterie.networks.one_step.unets import has_lora


class Denoising(Restorer):
    r"""Predicts the noise in latents of the large images, :math:`\overline{(\epsilon - \epsilon_\theta(z_t, t))^2}`, at random time steps; small images are not
    used.

    Its metrics show how well one step of the plain diffusion model restores: hardly at all. Its purpose is the exported folder, which other runs use as
    ``network``.

    Args:
        generator: its UNet is trained as a whole.

    Losses: ``noise``. Source: DDPM (Ho et al., NeurIPS 2020, arXiv 2006.11239), equation 14.

    Raises:
        CoterieError: a network with LoRA.
    """

    def __init__(self, generator: OneStepGenerator) -> None:
        super().__init__(generator)
        if has_lora(generator.unet):
            raise CoterieError("denoising trains a whole diffusion model: set network.lora.rank=null")

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        generator = self.generator
        clean = generator.encode(targets).float()
        times = random_times(len(clean), 0, len(generator.alphas_bar), clean.device)
        noise = torch.randn_like(clean)
        found = generator.predict_noise(noised(clean, noise, generator.alphas_bar[times]), times)
        return {"noise": (found.float() - noise).square().mean()}
