"""DFOSD and D3SR: one-step diffusion super-resolution without a teacher (Li et al., NeurIPS 2025, arXiv 2410.04224)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses.adversarial import discriminator_loss, generator_loss, gradient_penalty
from coterie.losses.denoising import noised
from coterie.losses.perceptual import EdgeChannels, EdgeScale
from coterie.methods.method import Unused
from coterie.methods.options import AtLeastOne, NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.restoration.rare import RareAdamW
from coterie.methods.restoration.restorer import (
    UNUSED_PERCEPTUAL,
    Likeness,
    Perceptual,
    Restorer,
    random_times,
    spatial_loss,
)
from coterie.networks.one_step.discriminator import Head, NoiseAwareDiscriminator, discriminator_of
from coterie.networks.one_step.generator import OneStepGenerator
from coterie.networks.one_step.library import config_of
from coterie.networks.one_step.unets import build_unet, find_diffusion, without_lora

Adversary = Literal["auto", "none", "random", "pretrained"]
RANK = 16  # of LoRA on a discriminator's pretrained weights
Source = Annotated[str | dict[str, Any], Field()]


class DFOSD(Restorer):
    r"""Trains a one-step generator against a discriminator built from a pretrained diffusion network, on noised latents.

    With :math:`F(z, t) = \sqrt{\bar\alpha_t}\, z + \sqrt{1 - \bar\alpha_t}\, \epsilon`, restored latents :math:`\hat z_H`, images :math:`\hat x_H`, and D's scores at each
    position of its mid block:

    .. math::
        L = \overline{(\hat x_H - x_H)^2} + \lambda_2 \text{EA-DISTS}(\hat x_H, x_H) - \lambda_1 \overline{\log D(F(\hat z_H, t))}, \qquad
        L_D = -\overline{\log(1 - D(F(\hat z_H, t)))} - \overline{\log D(F(z_H, t))}

    Generator and discriminator learn from the same batch, with the weights before the step; neither's loss reaches the other's parameters.

    Args:
        generator: the one-step network.
        perceptual: the perceptual term; the paper's is ``ea_dists`` (its ablation: better than lpips and dists).
        perceptual_weight: λ2, 1. The paper's value is in a supplement that could not be read; 1 is the value of OSDFace, by the same group, as others implement it.
        dists_backbone: ``vgg16``, ``random``, or a file of DISTS's channel weights, see :class:`coterie.networks.dists.DISTS`; ``auto``: vgg16 for a pretrained generator,
            random for a randomly initialised one; random needs no download and is not DISTS.
        edges, edge_scale: settings of EA-DISTS; mean and none are those of the authors' demonstration, other implementations differ.
        adversary: ``pretrained``: the discriminator starts from pretrained weights; ``random``: from random ones, and all of it is trained; ``none``: no discriminator;
            ``auto``: pretrained if the generator is, else random.
        adversarial_weight: λ1, 0.05. The paper's value is unknown too; other code has 0.02 to 0.8.
        discriminator: pretrained weights: ``auto``: the generator's (DFOSD, Stable Diffusion 2.1 for both); a folder or name of diffusers (D3SR: SDXL's). It must have the
            generator's latent space.
        discriminator_rank: rank of LoRA on pretrained weights; 16 (paper); null: full fine-tuning.
        head: ``mlp``: two layers, as in the paper's figure; ``linear``.
        noise: whether latents are noised; otherwise D sees them without noise, at t = 0.
        shared_noise: whether real and generated latents get the same time steps and noise; the paper does not say, and draws t and ε under separate expectations.
        r1: weight of the gradient penalty at real latents; 0: none, as the paper mentions none.
        discriminator_every: generator steps for each step of the discriminator, 1: the paper says nothing about it. The gradients of the steps between are computed and
            discarded. Several discriminator steps for one generator step are not supported; raise ``discriminator_learning_rate`` instead.
        discriminator_learning_rate, discriminator_weight_decay: settings of D's AdamW; 5e-5 (paper, for both sides) and 0.01 (AdamW's).

    Losses: ``spatial``, ``ea_dists`` (or another perceptual term), ``adversarial``, ``discriminator``, ``penalty``.

    The main paper was read; its supplement and training code are not available; see ``docs/methods/dfosd.md``.

    Raises:
        CoterieError: an option without effect, weights that are not available, or a discriminator for another latent space.
    """

    unused: ClassVar[Unused] = {
        **UNUSED_PERCEPTUAL,
        "adversary=none": (
            "adversarial_weight",
            "discriminator",
            "discriminator_rank",
            "head",
            "noise",
            "shared_noise",
            "r1",
            "discriminator_every",
            "discriminator_learning_rate",
            "discriminator_weight_decay",
        ),
        "adversary=random": ("discriminator", "discriminator_rank"),
        "noise=false": ("shared_noise",),
    }

    def __init__(
        self,
        generator: OneStepGenerator,
        *,
        perceptual: Perceptual = "ea_dists",
        perceptual_weight: NonNegative = 1.0,
        dists_backbone: str = "auto",
        edges: EdgeChannels = "mean",
        edge_scale: EdgeScale = "none",
        adversary: Adversary = "auto",
        adversarial_weight: NonNegative = 0.05,
        discriminator: Source = "auto",
        discriminator_rank: AtLeastOne | None = RANK,
        head: Head = "mlp",
        noise: bool = True,
        shared_noise: bool = False,
        r1: NonNegative = 0.0,
        discriminator_every: AtLeastOne = 1,
        discriminator_learning_rate: Positive = 5e-5,
        discriminator_weight_decay: NonNegative = 0.01,
    ) -> None:
        super().__init__(generator)
        if adversary == "auto":
            adversary = "pretrained" if generator.pretrained or discriminator != "auto" else "random"
        if adversary in ("none", "random") and isinstance(discriminator, str) and discriminator != "auto":
            raise CoterieError(
                f"method.discriminator={discriminator!r} has no effect with method.adversary={adversary}"
            )
        if adversary == "random" and isinstance(discriminator, str) and discriminator_rank != RANK:
            raise CoterieError(
                f"method.discriminator_rank={discriminator_rank} has no effect with method.adversary=random, which trains all of the discriminator"
            )
        if adversary == "pretrained" and discriminator == "auto" and not generator.pretrained:
            raise CoterieError(
                "method.adversary=pretrained: the generator starts from nothing; name weights (method.discriminator), or take method.adversary=random"
            )
        backbone = dists_backbone
        if backbone == "auto":
            backbone = "vgg16" if generator.pretrained else "random"
        self.likeness = Likeness(perceptual, backbone, edges, edge_scale)
        if self.likeness.network is not None:
            self._frozen = (self.likeness.network,)
        self.perceptual_weight, self.adversarial_weight = perceptual_weight, adversarial_weight
        self.noise, self.shared_noise, self.r1 = noise, shared_noise, r1
        self.discriminator_every = discriminator_every
        self.discriminator_learning_rate = discriminator_learning_rate
        self.discriminator_weight_decay = discriminator_weight_decay
        self.adversary = adversary
        self.discriminator: NoiseAwareDiscriminator | None = None
        if adversary != "none":
            self.discriminator = _discriminator(generator, adversary, discriminator, discriminator_rank, head)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        latents, restored = self.restored(inputs)
        losses = {"spatial": spatial_loss(restored, targets)}
        if self.likeness.network is not None:
            losses[self.likeness.name] = self.perceptual_weight * self.likeness(restored, targets)
        if self.discriminator is None:
            return losses
        times, noise = self._draw(latents)
        losses["adversarial"] = self.adversarial_weight * generator_loss(self._frozen_scores(latents, times, noise))
        made = self._scores(latents.detach(), times, noise)
        if not self.shared_noise:
            times, noise = self._draw(latents)
        real = self.generator.encode(targets).float()
        if self.r1:  # fused attention has no second derivative
            with sdpa_kernel(SDPBackend.MATH):
                real_scores = self._scores(real.requires_grad_(), times, noise)
        else:
            real_scores = self._scores(real, times, noise)
        losses["discriminator"] = discriminator_loss(real_scores, made)
        if self.r1:
            losses["penalty"] = self.r1 * gradient_penalty(real_scores, real)
        return losses

    def _draw(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Draws time steps int64 [B] and noise for latents; zeros without ``noise``."""
        if not self.noise:
            return torch.zeros(len(latents), dtype=torch.int64, device=latents.device), torch.zeros_like(latents)
        steps = len(self.generator.alphas_bar)
        return random_times(len(latents), 0, steps, latents.device), torch.randn_like(latents)

    def _noised(self, latents: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        return noised(latents, noise, self.generator.alphas_bar[times]) if self.noise else latents

    def _scores(self, latents: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        assert self.discriminator is not None
        scores: Tensor = self.discriminator(self._noised(latents, times, noise), times)
        return scores

    def _frozen_scores(self, latents: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Scores with detached discriminator weights, so that the gradient reaches the latents only."""
        assert self.discriminator is not None
        trained = {name: each.detach() for name, each in self.discriminator.named_parameters() if each.requires_grad}
        arguments = (self._noised(latents, times, noise), times)
        scores: Tensor = torch.func.functional_call(self.discriminator, trained, arguments)
        return scores

    def without_sources(self) -> dict[str, Any]:
        if self.discriminator is None:
            return {"perceptual": "none", "adversary": "none"}
        return {"perceptual": "none", "adversary": self.adversary, "discriminator": config_of(self.discriminator.unet)}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if self.discriminator is None:
            return {}
        parameters = [each for each in self.discriminator.parameters() if each.requires_grad]
        rate, decay = self.discriminator_learning_rate, self.discriminator_weight_decay
        every = self.discriminator_every
        found: torch.optim.AdamW = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        if every > 1:
            found = RareAdamW(parameters, every, lr=rate, weight_decay=decay)
        return {"discriminator": found}

    def statistics(self, inputs: Tensor, targets: Tensor, restored: Tensor) -> dict[str, Tensor]:
        """``margin`` [B], D(real) - D(generated) as probabilities: at 0 the discriminator sees no difference.

        Time steps are evenly spaced over the batch, and the noise is the same in every evaluation.
        """
        if self.discriminator is None:
            return {}
        real, made = (self.generator.encode(self.generator.padded(each)).float() for each in (targets, restored))
        times = torch.zeros(len(real), dtype=torch.int64)
        noise = torch.zeros(real.shape)
        if self.noise:
            steps = len(self.generator.alphas_bar)
            times = (torch.arange(len(real)) * 2 + 1) * steps // (2 * len(real))
            noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
        times, noise = times.to(real.device), noise.to(real.device)
        shares = [self._scores(each, times, noise).sigmoid().flatten(1).mean(1) for each in (real, made)]
        return {"margin": shares[0] - shares[1]}


def _discriminator(
    generator: OneStepGenerator, adversary: Adversary, source: Source, rank: int | None, head: Head
) -> NoiseAwareDiscriminator:
    """Builds the discriminator from the network that a recipe names.

    Raises:
        CoterieError: it cannot be loaded, or has another latent space.
    """
    options: dict[str, Any] = {"head": head, "embedding": generator.embedding.detach()}
    unet = without_lora(generator.unet)
    if isinstance(source, dict):  # of a finished run: the weights come from its checkpoint
        unet = build_unet(source)
    elif adversary == "random":
        unet = build_unet(dict(unet.config), seed=1)  # type: ignore[arg-type]
    elif source != "auto":
        unet = find_diffusion(source, generator.latents.channels).unet
    return discriminator_of(unet, rank=None if adversary == "random" else rank, **options)
