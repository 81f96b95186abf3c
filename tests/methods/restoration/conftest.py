from __future__ import annotations

import pytest
import torch

from coterie.networks.one_step.generator import OneStepGenerator
from coterie.networks.one_step.latents import Unshuffle
from coterie.networks.one_step.unets import add_lora, find_diffusion

SMALL = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 4, "cross_attention_dim": 4}


@pytest.fixture
def make_generator():
    def make(lora=2, pretrained=False):
        latents = Unshuffle(4)
        diffusion = find_diffusion("tiny_unet", latents.channels, SMALL)
        generator = OneStepGenerator.of(diffusion, latents, scale=4, timestep=399)
        generator.pretrained = pretrained
        if lora is not None:
            add_lora(generator.unet, rank=lora, alpha=lora)
        return generator

    return make


@pytest.fixture
def batch():
    """Small and large images."""
    generator = torch.Generator().manual_seed(0)
    high = torch.nn.functional.interpolate(torch.rand(3, 3, 4, 4, generator=generator), (32, 32), mode="bicubic")
    return torch.nn.functional.interpolate(high, (8, 8), mode="area").clamp(0, 1), high.clamp(0, 1)
