"""VSD: a one-step network distilled from a multi-step diffusion model, as OSEDiff does (Wu et al., NeurIPS 2024, arXiv 2406.08177)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses.denoising import noised, predicted_clean, score_difference_loss
from coterie.losses.perceptual import EdgeChannels, EdgeScale
from coterie.methods.method import Unused
from coterie.methods.options import AtLeastOne, NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.restoration.restorer import (
    UNUSED_PERCEPTUAL,
    Likeness,
    Perceptual,
    Restorer,
    random_times,
    spatial_loss,
)
from coterie.networks.one_step.generator import OneStepGenerator
from coterie.networks.one_step.unets import add_lora, without_lora

ENDS = (
    0.02,
    0.98,
)  # range of the drawn time steps, as a share; the outermost carry no information; recalled from OSEDiff's code


class VSD(Restorer):
    r"""Variational score distillation, which DFOSD avoids: trains the restored latents to be as likely under a frozen diffusion model as its own samples.

    The teacher's score is compared with that of a second model, which starts from the same weights and learns to denoise the generator's outputs:

    .. math::
        L = \overline{(\hat x_H - x_H)^2} + \lambda_2 \text{LPIPS}(\hat x_H, x_H) + \lambda_1 L_{VSD}(\hat z_H), \qquad
        L_{own} = \overline{(\epsilon - \epsilon_{own}(F(\hat z_H, t), t))^2}

    :math:`L_{VSD}` is :func:`coterie.losses.denoising.score_difference_loss`.

    Args:
        generator: the one-step network, which starts from the teacher's weights.
        perceptual, perceptual_weight: OSEDiff's are lpips and 2. ``none`` by default: a comparison with other methods needs the same term for all.
        dists_backbone, edges, edge_scale: settings of DISTS, as for ``dfosd``; here ``auto`` is always vgg16.
        distillation_weight: λ1, 1 (paper).
        rank: rank of the second model's LoRA; null: full fine-tuning. OSEDiff's is 4; 16 here, as in the other methods.
        own_learning_rate, own_weight_decay: settings of the second model's AdamW; 5e-5 and 0.01 (paper).

    OSEDiff's teacher uses classifier-free guidance with a text prompt for each image. This is omitted: here the text is one fixed embedding.

    Losses: ``spatial``, the perceptual term, ``distillation``, ``own_noise``.

    Raises:
        CoterieError: a generator without pretrained weights.
    """

    unused: ClassVar[Unused] = UNUSED_PERCEPTUAL

    def __init__(
        self,
        generator: OneStepGenerator,
        *,
        perceptual: Perceptual = "none",
        perceptual_weight: NonNegative = 2.0,
        dists_backbone: str = "auto",
        edges: EdgeChannels = "mean",
        edge_scale: EdgeScale = "none",
        distillation_weight: NonNegative = 1.0,
        rank: AtLeastOne | None = 16,
        own_learning_rate: Positive = 5e-5,
        own_weight_decay: NonNegative = 0.01,
    ) -> None:
        super().__init__(generator)
        if not generator.pretrained:
            raise CoterieError(
                "vsd distils a diffusion model: network needs weights; method=denoising trains a small one"
            )
        backbone = "vgg16" if dists_backbone == "auto" else dists_backbone
        self.likeness = Likeness(perceptual, backbone, edges, edge_scale)
        teacher = without_lora(generator.unet).requires_grad_(False).eval()
        self._frozen = (teacher, *([self.likeness.network] if self.likeness.network is not None else []))
        self.own = without_lora(generator.unet).requires_grad_(True)
        if rank is not None:
            add_lora(self.own, rank=rank, alpha=rank, seed=2)
        self.perceptual_weight, self.distillation_weight = perceptual_weight, distillation_weight
        self.own_learning_rate, self.own_weight_decay = own_learning_rate, own_weight_decay

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        latents, restored = self.restored(inputs)
        losses = {"spatial": spatial_loss(restored, targets)}
        if self.likeness.network is not None:
            losses[self.likeness.name] = self.perceptual_weight * self.likeness(restored, targets)
        share, times, noise = self._draw(latents)
        with torch.no_grad():
            sample = noised(latents, noise, share)
            teacher, own = (
                predicted_clean(sample, self._noise_of(network, sample, times), share)
                for network in (self._frozen[0], self.own)
            )
        losses["distillation"] = self.distillation_weight * score_difference_loss(latents, teacher, own)
        share, times, noise = self._draw(latents)
        found = self._noise_of(self.own, noised(latents.detach(), noise, share), times)
        losses["own_noise"] = (found.float() - noise).square().mean()
        return losses

    def _draw(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws ᾱ [B], time steps [B] and noise for latents."""
        steps = len(self.generator.alphas_bar)
        times = random_times(len(latents), round(ENDS[0] * steps), round(ENDS[1] * steps), latents.device)
        return self.generator.alphas_bar[times], times, torch.randn_like(latents)

    def _noise_of(self, network: torch.nn.Module, sample: Tensor, times: Tensor) -> Tensor:
        text = self.generator.embedding.detach().expand(len(sample), -1, -1)
        found: Tensor = network(sample, times, text, return_dict=False)[0]
        return found

    def without_sources(self) -> dict[str, Any]:
        return {"perceptual": "none"}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        parameters = [each for each in self.own.parameters() if each.requires_grad]
        return {"own": torch.optim.AdamW(parameters, lr=self.own_learning_rate, weight_decay=self.own_weight_decay)}
