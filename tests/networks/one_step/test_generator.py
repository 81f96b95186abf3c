from __future__ import annotations

import json

import pytest
import torch

from coterie.errors import CoterieError
from coterie.losses.denoising import noised
from coterie.networks.one_step.generator import OneStepGenerator, build_generator
from coterie.networks.one_step.latents import Unshuffle
from coterie.networks.one_step.unets import find_diffusion, has_lora


def test_with_the_true_noise_the_step_gives_the_clean_latents(make_generator, low, monkeypatch):
    generator = make_generator()
    clean = generator.encode(generator.enlarged(low))
    noise = torch.randn_like(clean)
    monkeypatch.setattr(generator, "predict_noise", lambda latents, times: noise)
    share = generator.alphas_bar[399]
    torch.testing.assert_close(generator.restore(noised(clean, noise, share)), clean, atol=1e-5, rtol=1e-4)


def test_images_have_the_scale_whatever_their_size(make_generator, low):
    generator = make_generator()
    assert generator.multiple == 8
    for height, width in ((8, 8), (7, 5)):
        found = generator(low[..., :height, :width])
        assert found.shape == (2, 3, 4 * height, 4 * width)
        assert 0 <= found.min() <= found.max() <= 1


def test_lora_alone_is_trained_and_the_gradient_reaches_it(make_generator, low):
    generator = make_generator()
    names = {name for name, each in generator.named_parameters() if each.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    latents = generator.restore(generator.encode(generator.enlarged(low)))
    generator.decode(latents).square().mean().backward()
    second = [each.grad for name, each in generator.named_parameters() if "lora_B" in name]
    assert all(each is not None for each in second)
    assert sum(each.abs().sum().item() for each in second) > 0
    assert not any(each.grad is not None for each in generator.parameters() if not each.requires_grad)


def test_lora_changes_nothing_at_the_start_and_is_a_function_of_its_seed(make_generator, low):
    with torch.no_grad():
        torch.testing.assert_close(make_generator(lora=4)(low), make_generator(lora=None)(low))
    first, second = make_generator().state_dict(), make_generator().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_embedding_may_be_trained(make_generator):
    assert "embedding" not in dict(make_generator().named_parameters())
    generator = make_generator(learn_embedding=True)
    assert generator.embedding.requires_grad
    assert any(each is generator.embedding for each in generator.trained_parameters())


@pytest.mark.parametrize("lora", [4, None])
def test_it_is_built_again_from_its_description(make_generator, low, lora):
    generator = make_generator(lora=lora)
    with torch.no_grad():
        for each in generator.trained_parameters():
            each.add_(torch.randn_like(each) * 0.05)
        again = build_generator(json.loads(json.dumps(generator.describe())))
        again.load_state_dict(generator.state_dict())
        assert has_lora(again.unet) == (lora is not None)
        torch.testing.assert_close(again(low), generator(low))
    assert {name for name, each in again.named_parameters() if each.requires_grad} == {
        name for name, each in generator.named_parameters() if each.requires_grad
    }


def test_no_such_time():
    latents = Unshuffle(2)
    diffusion = find_diffusion("tiny_unet", latents.channels)
    with pytest.raises(CoterieError, match="timestep=1000: expected 0 to 999"):
        OneStepGenerator.of(diffusion, latents, scale=4, timestep=1000)
