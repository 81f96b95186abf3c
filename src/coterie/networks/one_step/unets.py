"""Diffusion UNets by name, folder or configuration, their text embeddings, and LoRA on their layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks.hugging_face import quiet_transformers
from coterie.networks.one_step.library import (
    build_model,
    config_of,
    load_model,
    part_of,
    quiet_diffusers,
    require_place,
)
from coterie.randomness import derive_seed, seeded

TINY = "tiny_unet"
UNET = "UNet2DConditionModel"
TOKENS = 77  # length of Stable Diffusion's text embedding
TINY_TOKENS = 1
# Two levels, attention at the lower one; like diffusers' own tests, slightly larger.
TINY_WIDTHS = (32, 64)
TINY_CONFIG: dict[str, Any] = {
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
# Stable Diffusion's, also used for models without a schedule.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
# Attention, feed-forward layers and convolutions, as in OSEDiff and OSDFace; recalled.
TARGETS: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
TARGETS += ("conv1", "conv2", "conv_shortcut", "conv_in", "conv_out", "downsamplers.0.conv", "upsamplers.0.conv")


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model of latents.

    Attributes:
        unet: predicts the noise.
        alphas_bar: ᾱ of each time step, float32 [T].
        embedding: text embedding, float32 [1, L, D], the same for every image.
        pretrained: whether it has pretrained weights.
    """

    unet: nn.Module
    alphas_bar: Tensor
    embedding: Tensor
    pretrained: bool


def find_diffusion(
    name: str,
    channels: int | None = None,
    options: Mapping[str, Any] | None = None,
    pretrained: bool = True,
    seed: int = 0,
) -> Diffusion:
    """Loads or builds the diffusion model of a name.

    Args:
        name: ``tiny_unet``, or a folder or Hub name of a pipeline or a single UNet.
        channels: channels of the latents, for ``tiny_unet``; other models must have as many.
        options: further configuration values of ``tiny_unet``.
        pretrained: whether to load the weights; otherwise only the architecture is used.
        seed: seed of weights that are not loaded.

    Raises:
        CoterieError: it cannot be loaded, does not predict noise, or is for other latents.
    """
    if name == TINY:
        if channels is None:
            raise CoterieError(f"{TINY} needs the number of latent channels")
        sizes = {"in_channels": channels, "out_channels": channels, "block_out_channels": tiny_widths(channels)}
        config = {**TINY_CONFIG, **sizes, **(options or {})}
        return Diffusion(build_unet(config, seed), alphas_bar(SCHEDULE), blank_embedding(config), False)
    place = require_place(name)
    unet = load_model(UNET, place, part_of(place, "unet"))
    if channels is not None and unet.config.in_channels != channels:  # type: ignore[union-attr]
        raise CoterieError(
            f"network {name!r} is for latents of {unet.config.in_channels} channels, and the autoencoder gives {channels}"  # type: ignore[union-attr]
        )
    if not pretrained:
        unet = build_unet(config_of(unet), seed)
    return Diffusion(unet, alphas_bar(_schedule(place, name)), _empty_prompt(place, unet), pretrained)


def tiny_widths(channels: int) -> tuple[int, ...]:
    """Returns the widths of the levels of ``tiny_unet``, none below the channels of its latents.

    A narrower network cannot tell the noise of all channels apart: with 48 channels, the mean squared error of the predicted noise is 0.66 at widths 32 and 64, and 0.42 at 64
    and 64, after equally many steps on the embedded photographs.
    """
    least = -(-channels // TINY_WIDTHS[0]) * TINY_WIDTHS[0]
    return tuple(max(width, least) for width in TINY_WIDTHS)


def build_unet(config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """Builds an untrained UNet from a configuration; its weights are a function of the seed."""
    with seeded(derive_seed(seed, "unet")):
        return build_model(UNET, dict(config))


def alphas_bar(schedule: Mapping[str, Any]) -> Tensor:
    """ᾱ of each time step, float32 [T], by diffusers' DDPMScheduler."""
    with quiet_diffusers() as diffusers:
        found: Tensor = diffusers.DDPMScheduler(**schedule).alphas_cumprod
    return found.float()


def _schedule(place: str, name: str) -> dict[str, Any]:
    """Returns a pipeline's noise schedule; Stable Diffusion's if there is none.

    Raises:
        CoterieError: the model does not predict noise.
    """
    if part_of(place, "scheduler") is None:
        return SCHEDULE
    with quiet_diffusers() as diffusers:
        try:
            config: dict[str, Any] = dict(diffusers.DDPMScheduler.load_config(place, subfolder="scheduler"))
        except Exception:  # a single UNet on the Hub
            return SCHEDULE
    kind = config.get("prediction_type", "epsilon")
    if kind != "epsilon":
        raise CoterieError(
            f"network {name!r} predicts {kind}; the one step is of networks that predict the noise (epsilon)"
        )
    return {key: config[key] for key in SCHEDULE if key in config}


def blank_embedding(config: Mapping[str, Any]) -> Tensor:
    """Returns zeros in place of a text embedding, [1, L, D]: one token for a tiny network, 77 for networks of Stable Diffusion's widths."""
    width = config["cross_attention_dim"]
    width = width if isinstance(width, int) else width[-1]
    return torch.zeros(1, TINY_TOKENS if width < 256 else TOKENS, width)


def _empty_prompt(place: str, unet: Any) -> Tensor:
    """Returns the text embedding of "": saved beside the UNet, else computed by the pipeline's text encoder, else zeros."""
    from safetensors.torch import load_file

    saved = Path(place) / "embedding.safetensors"
    if saved.is_file():
        return load_file(saved)["embedding"].float()
    if part_of(place, "text_encoder") is None or part_of(place, "tokenizer") is None:
        return blank_embedding(unet.config)
    with quiet_transformers() as transformers:
        try:
            tokenizer = transformers.CLIPTokenizer.from_pretrained(place, subfolder="tokenizer")
            encoder = transformers.CLIPTextModel.from_pretrained(place, subfolder="text_encoder").eval()
            tokens = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
            with torch.no_grad():
                found: Tensor = encoder(tokens.input_ids).last_hidden_state.float()
        except Exception as error:  # files, formats: the library raises many exception types
            raise CoterieError(
                f"the text encoder in {place!r} cannot be asked: {' '.join(str(error).split())[:160]}"
            ) from None
    if found.shape[-1] != blank_embedding(unet.config).shape[-1]:
        raise CoterieError(
            f"the text encoder in {place!r} gives {found.shape[-1]} numbers a token, its UNet takes others"
        )
    return found


def add_lora(
    network: nn.Module, *, rank: int = 16, alpha: int = 16, targets: Sequence[str] | None = None, seed: int = 0
) -> None:
    """Adds LoRA to layers of a UNet, in place; afterwards only LoRA is trained.

    Args:
        network: a model of diffusers, or a part of one.
        rank: rank of the added matrices.
        alpha: LoRA's output is scaled by alpha / rank; 16 and 16 are the paper's (D3SR, section 4.1).
        targets: suffixes of layer names; None: those of :data:`TARGETS` that exist.
        seed: seed of the initial values, together with each layer's name. The second matrix starts at zero, so the network's output is unchanged at first.

    Raises:
        CoterieError: peft is not installed, or no layer has such a name.
    """
    with quiet_diffusers():
        try:
            import peft
            from peft.tuners.lora import LoraLayer
        except ImportError:
            raise CoterieError("LoRA needs the package peft: pip install 'coterie[restoration]'") from None
    names = [name for name, _ in network.named_modules()]
    wanted = list(TARGETS if targets is None else targets)
    there = [each for each in wanted if any(name == each or name.endswith(f".{each}") for name in names)]
    if not there or (targets is not None and len(there) < len(wanted)):
        missing = [each for each in wanted if each not in there]
        raise CoterieError(f"network.lora.targets: no layer's name ends in {', '.join(missing)}")
    network.requires_grad_(False)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=there)
    with seeded(derive_seed(seed, "lora")):
        try:
            network.add_adapter(config)  # type: ignore[operator]
        except (ValueError, TypeError) as error:
            raise CoterieError(f"network.lora: {' '.join(str(error).split())[:160]}") from None
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            with seeded(derive_seed(seed, name)):
                module.reset_lora_parameters("default", init_lora_weights=True)


def has_lora(network: nn.Module) -> bool:
    """Whether the network has LoRA."""
    return bool(getattr(network, "_hf_peft_config_loaded", False))


def without_lora(network: nn.Module) -> nn.Module:
    """Returns a plain copy with the original weights, without LoRA; for a network without LoRA, a copy."""
    plain: Any = copy.deepcopy(network)
    if has_lora(plain):
        plain.unload_lora()
    return plain


def merged(network: nn.Module) -> nn.Module:
    """Returns a plain copy with LoRA merged into its weights; for a network without LoRA, a copy."""
    plain: Any = copy.deepcopy(network)
    if has_lora(plain):
        plain.fuse_lora()
        plain.unload_lora()
    return plain.requires_grad_(True)
