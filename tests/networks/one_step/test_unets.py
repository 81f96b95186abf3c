from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from coterie.errors import CoterieError
from coterie.networks.one_step.unets import (
    SCHEDULE,
    add_lora,
    alphas_bar,
    find_diffusion,
    has_lora,
    merged,
    tiny_widths,
    without_lora,
)


@pytest.fixture
def pipeline(tmp_path, small):
    """A folder with a UNet and a schedule, as a pipeline's."""
    found = find_diffusion("tiny_unet", 4, small, seed=5)
    found.unet.save_pretrained(tmp_path / "unet")
    DDPMScheduler(**SCHEDULE).save_pretrained(tmp_path / "scheduler")
    return tmp_path, found.unet


def outputs(unet):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    text = torch.randn(1, 1, 4, generator=generator)
    with torch.no_grad():
        return unet.eval()(latents, 399, text, return_dict=False)[0]


@pytest.mark.parametrize("channels", [3, 4, 12, 32, 33, 48, 192])
def test_a_tiny_network_is_as_wide_as_its_latents(channels):
    config = find_diffusion("tiny_unet", channels).unet.config
    assert config.in_channels == config.out_channels == channels
    assert min(config.block_out_channels) >= channels
    assert tuple(config.block_out_channels) == tiny_widths(channels)
    asked = find_diffusion("tiny_unet", channels, {"block_out_channels": [8, 16]}).unet.config
    assert list(asked.block_out_channels) == [8, 16]


def test_the_schedule_is_stable_diffusions():
    found = alphas_bar(SCHEDULE)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(found, (1 - betas).cumprod(0), atol=1e-5, rtol=1e-4)


def test_weights_are_read_and_an_architecture_alone(pipeline):
    folder, unet = pipeline
    found = find_diffusion(str(folder), 4)
    assert found.pretrained
    torch.testing.assert_close(outputs(found.unet), outputs(unet))
    bare = find_diffusion(str(folder), 4, pretrained=False)
    assert not bare.pretrained
    assert not torch.equal(outputs(bare.unet), outputs(unet))
    assert find_diffusion(str(folder / "unet"), 4).embedding.shape == (1, 1, 4)
    with pytest.raises(CoterieError, match="latents of 4 channels, and the autoencoder gives 48"):
        find_diffusion(str(folder), 48)
    with pytest.raises(CoterieError, match="there is no folder"):
        find_diffusion("./nowhere", 4)


def test_other_predictions_are_refused(pipeline):
    folder, _ = pipeline
    DDPMScheduler(**SCHEDULE, prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    with pytest.raises(CoterieError, match="predicts v_prediction"):
        find_diffusion(str(folder), 4)


def test_the_text_is_the_empty_prompts(pipeline):
    transformers = pytest.importorskip("transformers")
    folder, _ = pipeline
    config = transformers.CLIPTextConfig(
        vocab_size=8,
        hidden_size=4,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        max_position_embeddings=6,
    )
    torch.manual_seed(1)
    encoder = transformers.CLIPTextModel(config).eval()
    encoder.save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}')
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"model_max_length": 6, "pad_token": "<|endoftext|>"}')
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1, 1, 1, 1, 1]])).last_hidden_state
    torch.testing.assert_close(find_diffusion(str(folder), 4).embedding, expected)


def test_lora_is_added_merged_and_left_out(pipeline):
    _, unet = pipeline
    before = outputs(unet)
    add_lora(unet, rank=2, alpha=4)
    torch.testing.assert_close(outputs(unet), before)
    with torch.no_grad():
        for name, each in unet.named_parameters():
            if "lora_B" in name:
                each.normal_(std=0.1)
    changed = outputs(unet)
    assert (changed - before).abs().max() > 1e-3
    plain = merged(unet)
    assert not has_lora(plain)
    assert not any("lora" in name for name in plain.state_dict())
    torch.testing.assert_close(outputs(plain), changed, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs(without_lora(unet)), before)
    assert has_lora(unet)


def test_layers_that_are_not_there(pipeline):
    with pytest.raises(CoterieError, match="no layer's name ends in to_x"):
        add_lora(pipeline[1], targets=["to_q", "to_x"])


def test_a_misspelt_name_is_corrected():
    with pytest.raises(CoterieError, match=r"there is no folder 'tiny_une' \(did you mean 'tiny_unet'\?\)"):
        find_diffusion("tiny_une", 4)
