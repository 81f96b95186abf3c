from __future__ import annotations

import pytest
import torch

from coterie.networks.one_step.generator import OneStepGenerator
from coterie.networks.one_step.latents import Unshuffle
from coterie.networks.one_step.unets import add_lora, find_diffusion

SMALL = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 4, "cross_attention_dim": 4}


@pytest.fixture
def small():
    return SMALL


@pytest.fixture
def make_generator():
    def make(lora=4, pretrained=False, **options):
        latents = Unshuffle(4)
        diffusion = find_diffusion("tiny_unet", latents.channels, SMALL)
        generator = OneStepGenerator.of(diffusion, latents, scale=4, timestep=399, **options)
        generator.pretrained = pretrained
        if lora is not None:
            add_lora(generator.unet, rank=lora, alpha=lora)
        return generator

    return make


@pytest.fixture
def low():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
