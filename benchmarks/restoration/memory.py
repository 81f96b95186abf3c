"""Estimates the memory of a step of D3SR at the published scale, without a GPU and without weights.

    python -m benchmarks.restoration.memory      # writes benchmarks/results/restoration/memory.md

All networks are built on torch's meta device, from the published configurations of Stable Diffusion 2.1-base, its autoencoder and SDXL's UNet. DFOSD's
forward pass runs there without computing values, and every tensor that is saved for the backward pass is counted, each storage once. Attention is counted as
fused kernels save it: queries, keys, values and the result. Not counted are the backward pass's gradients of activations, workspaces of
libraries, and fragmentation. Values are for float32; under bf16 most activations take half, but not those of DISTS.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from benchmarks import shared
from coterie.files import write_text
from coterie.methods.restoration.dfosd import DFOSD
from coterie.networks import dists
from coterie.networks.one_step.discriminator import NoiseAwareDiscriminator
from coterie.networks.one_step.generator import OneStepGenerator
from coterie.networks.one_step.latents import Autoencoder
from coterie.networks.one_step.unets import add_lora

RESULTS = shared.RESULTS / "restoration"
BATCH, CROP, SCALE, RANK = 8, 512, 4, 16
SD21: dict[str, Any] = {
    "sample_size": 64,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
XL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


class FusedAttention(torch.autograd.Function):
    """Saves the tensors that a fused kernel saves; values do not matter."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        result = query.clone()
        context.save_for_backward(query, key, value, result)
        return result


def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    return FusedAttention.apply(query, key, value)


def build(checkpointing: bool, xl: bool) -> DFOSD:
    """Build the method with all its networks on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21)
        add_lora(unet, rank=RANK, alpha=RANK)
        latents = Autoencoder(AutoencoderKL(**VAE))
        generator = OneStepGenerator(unet, latents, torch.ones(1000), torch.zeros(1, 77, 1024), scale=SCALE)
        method = DFOSD(generator, adversary="none", dists_backbone="random")
        likeness = method.likeness.network
        assert isinstance(likeness, dists.DISTS)
        likeness.stages = dists._stages(1).requires_grad_(False)
        method.discriminator = NoiseAwareDiscriminator(UNet2DConditionModel(**(XL if xl else SD21)), rank=RANK)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    return method.to("meta").train()


def gibibytes(count: int) -> float:
    return count / 2**30


def measure(checkpointing: bool, xl: bool) -> dict[str, float]:
    """Return memory in GiB, by purpose."""
    method = build(checkpointing, xl)
    kept: dict[int, int] = {}
    weights = {each.untyped_storage()._cdata for each in method.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    side = CROP // SCALE
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = method(torch.empty(BATCH, 3, side, side), torch.empty(BATCH, 3, CROP, CROP))
    assert set(losses) >= {"spatial", "adversarial", "discriminator"}
    frozen = sum(each.nbytes for each in method.parameters()) + sum(
        each.nbytes for part in method._frozen for each in part.parameters()
    )
    trained = sum(each.nbytes for each in method.parameters() if each.requires_grad)
    return {
        "weights": gibibytes(frozen),
        "gradients and AdamW": gibibytes(3 * trained),
        "activations": gibibytes(sum(kept.values())),
    }


def main() -> None:
    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    torch.autocast = lambda *_, **__: contextlib.nullcontext()  # type: ignore[assignment, misc]  # which the meta device has not
    rows = []
    for xl in (False, True):
        for checkpointing in (False, True):
            found = measure(checkpointing, xl)
            name = f"{'SDXL' if xl else 'Stable Diffusion 2.1'}{', gradient checkpointing in the generator' if checkpointing else ''}"
            total, halved = sum(found.values()), sum(found.values()) - found["activations"] / 2
            rows.append(
                f"| {name} | " + " | ".join(f"{value:.1f}" for value in (*found.values(), total, halved)) + " |"
            )
            print(rows[-1], flush=True)
    text = [
        "# Memory of a step of DFOSD at the published scale",
        "",
        f"`benchmarks/restoration/memory.py`, an estimate: batch {BATCH}, squares of {CROP} pixels, x{SCALE}, LoRA of rank {RANK}; GiB. Nothing of this was run on a GPU. DISTS's activations stay in float32 under bf16 too, so that the last column is too low by some of them.",
        "",
        "| discriminator of | weights | gradients and AdamW | activations, float32 | together | with activations of bf16 |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text(RESULTS / "memory.md", "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
