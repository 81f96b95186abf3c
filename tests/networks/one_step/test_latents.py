from __future__ import annotations

import diffusers
import pytest
import torch

from coterie.errors import CoterieError
from coterie.networks.one_step.latents import Autoencoder, Unshuffle, build_latents, find_latents


@pytest.fixture
def images():
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def small_kl():
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=4,
    )


def test_rearranged_pixels_come_back(images):
    latents = Unshuffle(4)
    found = latents.encode(images)
    assert found.shape == (1, 48, 4, 4)
    torch.testing.assert_close(latents.decode(found), images)
    assert 0.5 < found.std() < 2


def test_autoencoders_are_frozen_scaled_and_let_gradients_pass(images, tmp_path):
    model = small_kl()
    model.save_pretrained(tmp_path / "vae")
    latents = find_latents("auto", str(tmp_path), 4)
    assert isinstance(latents, Autoencoder)
    assert (latents.factor, latents.channels) == (2, 4)
    with torch.no_grad():
        expected = model.eval().encode(images).latent_dist.mode() * 0.18215
        torch.testing.assert_close(latents.encode(images), expected)
        torch.testing.assert_close(latents.decode(expected), model.decode(expected / 0.18215).sample)
    codes = expected.clone().requires_grad_()
    latents.decode(codes).sum().backward()
    assert codes.grad.abs().sum() > 0
    assert not any(each.requires_grad for each in latents.parameters())
    latents.train()
    assert not latents.model.training
    again = build_latents(latents.describe())
    again.load_state_dict(latents.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.encode(images), expected)


def test_tiny_ones_too(images, tmp_path):
    torch.manual_seed(0)
    widths = (4, 4)
    model = diffusers.AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    model.save_pretrained(tmp_path)
    latents = find_latents(str(tmp_path), "tiny_unet", 4)
    assert latents.kind == "AutoencoderTiny"
    with torch.no_grad():
        found = latents.encode(images)
        assert found.shape == (1, 4, 16 // latents.factor, 16 // latents.factor)
        assert latents.decode(found).shape == images.shape


def test_what_is_meant_and_what_is_not_there(tmp_path):
    assert isinstance(find_latents("auto", "tiny_unet", 2), Unshuffle)
    assert find_latents("none", "tiny_unet", 2).channels == 12
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(CoterieError, match="holds VQModel, expected AutoencoderKL or AutoencoderTiny"):
        find_latents(str(tmp_path), "tiny_unet", 2)
    with pytest.raises(CoterieError, match="there is no folder"):
        find_latents("./nowhere", "tiny_unet", 2)
    with pytest.raises(CoterieError, match="no autoencoder 'VQModel'"):
        build_latents({"kind": "VQModel"})
