"""Noise-aware discriminator: the first half of a diffusion network, and a small head that scores each position.

Source: D3SR (Li et al., NeurIPS 2025, arXiv 2410.04224), section 3.2 and figure 3. Training only, never exported.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks.one_step.unets import add_lora, blank_embedding
from coterie.randomness import derive_seed, seeded

Head = Literal["mlp", "linear"]


class NoiseAwareDiscriminator(nn.Module):
    """Maps noised latents [B, C, h, w] and time steps [B] to logits [B, 1, h / f, w / f] (high: real), one for each position of the mid block.

    Args:
        unet: diffusers' UNet2DConditionModel; this module takes ownership and removes its second half.
        rank, alpha: settings of LoRA; rank None: full fine-tuning.
        embedding: text embedding, [1, L, D]; None, or a width that the network does not accept: zeros. What the paper uses is not known.
        head: ``mlp``: two 1x1 convolutions (figure 3 shows two layers); ``linear``: one.
        seed: seed of LoRA and head.

    If the network has SDXL's additional conditions, it gets a zero pooled text embedding and the time ids of an uncropped image of eight times the latents'
    size.

    Raises:
        CoterieError: a network with other conditions.
    """

    embedding: Tensor

    def __init__(
        self,
        unet: nn.Module,
        *,
        rank: int | None = 16,
        alpha: int = 16,
        targets: Sequence[str] | None = None,
        embedding: Tensor | None = None,
        head: Head = "mlp",
        seed: int = 0,
    ) -> None:
        super().__init__()
        model: Any = unet
        config = model.config
        if config.addition_embed_type not in (None, "text_time") or config.class_embed_type is not None:
            raise CoterieError(
                f"the discriminator's network takes conditions of kind {config.addition_embed_type or config.class_embed_type}, which it cannot be given here"
            )
        for part in ("up_blocks", "conv_norm_out", "conv_act", "conv_out"):
            setattr(model, part, None)
        model.requires_grad_(True)
        if rank is not None:
            add_lora(model, rank=rank, alpha=alpha, targets=targets, seed=derive_seed(seed, "discriminator"))
        self.unet = model
        blank = blank_embedding(config)
        fits = embedding is not None and embedding.shape[-1] == blank.shape[-1]
        self.register_buffer("embedding", (embedding if fits and embedding is not None else blank).detach().clone())
        width = config.block_out_channels[-1]
        with seeded(derive_seed(seed, "head")):
            layers: list[nn.Module] = [nn.Conv2d(width, 1, 1)]
            if head == "mlp":
                layers = [nn.Conv2d(width, width // 4, 1), nn.SiLU(), nn.Conv2d(width // 4, 1, 1)]
            self.head = nn.Sequential(nn.GroupNorm(min(32, config.norm_num_groups), width), *layers)

    def forward(self, latents: Tensor, times: Tensor) -> Tensor:
        """Returns logits, float32."""
        unet, count = self.unet, len(latents)
        text = self.embedding.to(latents.dtype).expand(count, -1, -1)
        embedded = unet.time_embedding(unet.get_time_embed(sample=latents, timestep=times))
        conditions: dict[str, Tensor] = {}
        if unet.config.addition_embed_type == "text_time":
            height, width = (8 * side for side in latents.shape[-2:])
            ids = torch.tensor([height, width, 0, 0, height, width], dtype=latents.dtype, device=latents.device)
            pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
            conditions = {"text_embeds": latents.new_zeros(count, pooled), "time_ids": ids.expand(count, -1)}
            added = unet.get_aug_embed(emb=embedded, encoder_hidden_states=text, added_cond_kwargs=conditions)
            embedded = embedded + added
        if unet.time_embed_act is not None:
            embedded = unet.time_embed_act(embedded)
        text = unet.process_encoder_hidden_states(encoder_hidden_states=text, added_cond_kwargs=conditions)
        values = unet.conv_in(latents)
        for block in (*unet.down_blocks, unet.mid_block):
            attends = getattr(block, "has_cross_attention", False)
            found = block(values, embedded, **({"encoder_hidden_states": text} if attends else {}))
            values = found[0] if isinstance(found, tuple) else found
        scores: Tensor = self.head(values)
        return scores.float()


def discriminator_of(unet: nn.Module, **options: Any) -> NoiseAwareDiscriminator:
    """Builds a discriminator from a copy of a diffusion network, see :class:`NoiseAwareDiscriminator`."""
    return NoiseAwareDiscriminator(copy.deepcopy(unet), **options)
