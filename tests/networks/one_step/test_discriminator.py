from __future__ import annotations

import pytest
import torch

from coterie.errors import CoterieError
from coterie.networks.one_step.discriminator import NoiseAwareDiscriminator, discriminator_of
from coterie.networks.one_step.unets import build_unet, find_diffusion


@pytest.fixture
def unet(small):
    return find_diffusion("tiny_unet", 4, small).unet


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))


def test_each_position_of_the_mid_block_has_a_score_that_depends_on_time(unet, latents):
    critic = discriminator_of(unet).eval()
    with torch.no_grad():
        early, late = critic(latents, torch.tensor([10, 10])), critic(latents, torch.tensor([900, 10]))
    assert early.shape == (2, 1, 4, 6)  # one level below the latents
    assert not torch.allclose(early[0], late[0], atol=1e-4)
    torch.testing.assert_close(early[1], late[1])
    assert unet.up_blocks is not None  # a copy was halved


def test_it_computes_what_the_network_does_up_to_its_mid_block(unet, latents):
    found = {}
    unet.mid_block.register_forward_hook(lambda module, inputs, output: found.update(mid=output))
    critic = discriminator_of(unet, rank=None).eval()
    times, text = torch.tensor([3, 700]), torch.randn(1, 1, 4)
    critic.embedding.copy_(text)
    with torch.no_grad():
        unet.eval()(latents, times, text.expand(2, -1, -1))
        torch.testing.assert_close(critic(latents, times), critic.head(found["mid"]))


@pytest.mark.parametrize(("rank", "head"), [(2, "mlp"), (2, "linear"), (None, "mlp")])
def test_lora_and_head_alone_are_trained_unless_all_is(unet, rank, head):
    critic = discriminator_of(unet, rank=rank, head=head)
    trained = {name for name, each in critic.named_parameters() if each.requires_grad}
    if rank is None:
        assert len(trained) == len(list(critic.parameters()))
    else:
        assert all(name.startswith("head.") or "lora_" in name for name in trained)
        assert any("lora_" in name for name in trained)
    assert not any("up_blocks" in name for name, _ in critic.named_parameters())
    assert len(critic.head) == (4 if head == "mlp" else 2)


def test_networks_with_further_conditions(latents, small):
    xl = build_unet(
        {
            **small,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 1,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 56,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        }
    )
    assert NoiseAwareDiscriminator(xl)(latents, torch.tensor([5, 6])).shape == (2, 1, 4, 6)
    other = build_unet({**xl.config, "addition_embed_type": None, "class_embed_type": "timestep"})
    with pytest.raises(CoterieError, match="conditions of kind timestep"):
        NoiseAwareDiscriminator(other)
