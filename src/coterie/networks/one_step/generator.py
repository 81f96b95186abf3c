"""Super-resolution with one step of a diffusion network: the plain network that is trained and deployed.

Source: D3SR (Li et al., NeurIPS 2025, arXiv 2410.04224), section 3.1.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.losses.denoising import predicted_clean
from coterie.networks.one_step.latents import Latents, build_latents
from coterie.networks.one_step.library import config_of
from coterie.networks.one_step.unets import Diffusion, add_lora, blank_embedding, build_unet, has_lora


class OneStepGenerator(nn.Module):
    r"""Enlarges a small image by interpolation, encodes it to latents :math:`z_L`, restores them as :math:`\hat z_H = (z_L - \sqrt{1 -
    \bar\alpha}\,\epsilon_\theta(z_L, T_L, c)) / \sqrt{\bar\alpha}` and decodes.

    No noise is added: the small image's degradation takes its place.

    Args:
        unet: noise predictor, diffusers' UNet2DConditionModel; with LoRA, only LoRA is trained.
        latents: the frozen autoencoder.
        alphas_bar: ᾱ of each time step, [T].
        embedding: c, a text embedding, [1, L, D].
        scale: upscaling factor of each side.
        timestep: T_L.
        learn_embedding: whether c is trained.
        pretrained: whether the network starts from pretrained weights.

    Raises:
        CoterieError: there is no such time step.
    """

    alphas_bar: Tensor
    time: Tensor
    embedding: Tensor

    def __init__(
        self,
        unet: nn.Module,
        latents: Latents,
        alphas_bar: Tensor,
        embedding: Tensor,
        *,
        scale: int = 4,
        timestep: int = 399,
        learn_embedding: bool = False,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= timestep < len(alphas_bar):
            raise CoterieError(f"network.timestep={timestep}: expected 0 to {len(alphas_bar) - 1}")
        self.pretrained = pretrained
        self.unet = unet
        self.latents = latents
        self.scale, self.timestep, self.learn_embedding = scale, timestep, learn_embedding
        self.register_buffer("alphas_bar", alphas_bar.detach().clone().float())
        self.register_buffer("time", torch.tensor(timestep), persistent=False)
        if learn_embedding:
            self.embedding = nn.Parameter(embedding.detach().clone())
        else:
            self.register_buffer("embedding", embedding.detach().clone())
        levels = len(unet.config.block_out_channels) - 1  # type: ignore[arg-type, union-attr]
        self.multiple = latents.factor * 2**levels  # sides of large images must be multiples of it

    @classmethod
    def of(
        cls, diffusion: Diffusion, latents: Latents, *, scale: int, timestep: int, learn_embedding: bool = False
    ) -> OneStepGenerator:
        """Builds a generator from a diffusion model and a time step."""
        return cls(
            diffusion.unet,
            latents,
            diffusion.alphas_bar,
            diffusion.embedding,
            scale=scale,
            timestep=timestep,
            learn_embedding=learn_embedding,
            pretrained=diffusion.pretrained,
        )

    def enlarged(self, low: Tensor) -> Tensor:
        """Interpolates small images [B, 3, h, w] in 0 to 1 (bicubic) to [B, 3, s h, s w]."""
        return F.interpolate(low.float(), scale_factor=float(self.scale), mode="bicubic", align_corners=False).clamp(
            0, 1
        )

    def encode(self, images: Tensor) -> Tensor:
        """Encodes images in 0 to 1 to latents, without gradients."""
        with torch.no_grad():
            return self.latents.encode(2 * images - 1)

    def predict_noise(self, latents: Tensor, times: Tensor) -> Tensor:
        """Returns ε_θ of latents [B, C, h, w] at time steps int64 [B] or 0-d."""
        found: Tensor = self.unet(latents, times, self.embedding.expand(len(latents), -1, -1), return_dict=False)[0]
        return found

    def restore(self, latents: Tensor) -> Tensor:
        """Returns ẑ_H of z_L, float32."""
        return predicted_clean(latents, self.predict_noise(latents, self.time), self.alphas_bar[self.timestep])

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents to images in about 0 to 1, float32; differentiable."""
        return (self.latents.decode(latents).float() + 1) / 2

    def padded(self, images: Tensor) -> Tensor:
        """Pads large images at the right and bottom so that sides are multiples of :attr:`multiple`, by repeating the border."""
        height, width = images.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        return F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images

    def forward(self, low: Tensor) -> Tensor:
        """Maps small images [B, 3, h, w] in 0 to 1 to large ones [B, 3, s h, s w] in 0 to 1."""
        images = self.enlarged(low)
        height, width = images.shape[-2:]
        restored = self.decode(self.restore(self.encode(self.padded(images))))
        return restored[..., :height, :width].clamp(0, 1)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Returns the UNet's trainable parameters, and the text embedding if it is trained."""
        return [each for each in self.parameters() if each.requires_grad]

    def describe(self) -> dict[str, Any]:
        """Returns a description for :func:`build_generator`, without weights; JSON values."""
        lora, unet = None, cast(Any, self.unet)
        if has_lora(unet):
            config = unet.peft_config["default"]
            lora = {"rank": config.r, "alpha": config.lora_alpha, "targets": sorted(config.target_modules)}
        return {
            "unet": config_of(self.unet),
            "latents": self.latents.describe(),
            "lora": lora,
            "scale": self.scale,
            "timestep": self.timestep,
            "steps": len(self.alphas_bar),
            "tokens": self.embedding.shape[1],
            "learn_embedding": self.learn_embedding,
        }


def build_generator(description: dict[str, Any]) -> OneStepGenerator:
    """Builds a generator from :meth:`OneStepGenerator.describe`'s output; weights, embedding and schedule come from its state.

    Raises:
        CoterieError: not a description of a generator.
    """
    unet = build_unet(description["unet"])
    embedding = blank_embedding(description["unet"])[:, :1].expand(-1, description["tokens"], -1)
    generator = OneStepGenerator(
        unet,
        build_latents(description["latents"]),
        torch.ones(description["steps"]),
        embedding,
        scale=description["scale"],
        timestep=description["timestep"],
        learn_embedding=description["learn_embedding"],
    )
    if description["lora"] is not None:
        add_lora(generator.unet, **description["lora"])
    return generator
