"""Frozen encoders from images to latents and back: autoencoders of diffusers, or pixels rearranged into channels."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks.one_step.library import build_model, config_of, load_model, part_of, require_place

KINDS = ("AutoencoderKL", "AutoencoderTiny")
SPREAD = (
    2.0  # the standard deviation of pixels in -1 to 1 is about one half; diffusion models expect latents of about 1
)


class Unshuffle(nn.Module):
    """Pixel unshuffle in place of an autoencoder: each square of pixels becomes the channels of one position. Lossless.

    Args:
        factor: side of the square.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.channels = 3 * factor**2

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in -1 to 1 to [B, 3 f^2, H / f, W / f]."""
        return SPREAD * F.pixel_unshuffle(images, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse."""
        return F.pixel_shuffle(latents, self.factor) / SPREAD

    def describe(self) -> dict[str, Any]:
        """Returns a description for :func:`build_latents`."""
        return {"kind": "none", "factor": self.factor}


class Autoencoder(nn.Module):
    """A frozen autoencoder of diffusers; its decoder is differentiable.

    Args:
        model: an AutoencoderKL or AutoencoderTiny.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.kind = type(model).__name__
        config = model.config
        widths = config.block_out_channels if self.kind == "AutoencoderKL" else config.encoder_block_out_channels
        self.factor = 2 ** (len(widths) - 1)
        self.channels: int = config.latent_channels
        self.scaling = float(config.scaling_factor or 1.0)
        self.shift = float(getattr(config, "shift_factor", None) or 0.0)

    def train(self, mode: bool = True) -> Autoencoder:
        """Stays in eval mode."""
        return super().train(False)

    def encode(self, images: Tensor) -> Tensor:
        """Encodes [B, 3, H, W] in -1 to 1 to latents with a standard deviation of about 1; uses the mode of a distribution."""
        found = self.model.encode(images)
        latents: Tensor = found.latent_dist.mode() if self.kind == "AutoencoderKL" else found.latents
        return (latents - self.shift) * self.scaling

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents to images [B, 3, H, W] in about -1 to 1."""
        images: Tensor = self.model.decode(latents / self.scaling + self.shift).sample
        return images

    def describe(self) -> dict[str, Any]:
        """Returns a description for :func:`build_latents`, without weights."""
        return {"kind": self.kind, "config": config_of(self.model)}


Latents = Unshuffle | Autoencoder


def find_latents(name: str, network: str, unshuffle: int) -> Latents:
    """Returns the autoencoder that a recipe names.

    Args:
        name: ``auto``, ``none``, a folder, or a Hub name.
        network: the name of the diffusion network, whose pipeline may have one.
        unshuffle: side of the pixel square that becomes one position, if there is no autoencoder.

    Raises:
        CoterieError: it cannot be loaded.
    """
    if name == "none" or (name == "auto" and network == "tiny_unet"):
        return Unshuffle(unshuffle)
    if name == "auto":
        place = require_place(network)
        subfolder = part_of(place, "vae")
        return Unshuffle(unshuffle) if subfolder is None else _load(place, subfolder)
    place = require_place(name)
    return _load(place, part_of(place, "vae"))


def _load(place: str, subfolder: str | None) -> Autoencoder:
    reasons = []
    for kind in KINDS:
        if _class_of(place, subfolder) in (None, kind):
            try:
                return Autoencoder(load_model(kind, place, subfolder))
            except CoterieError as error:
                reasons.append(str(error))
    raise CoterieError(
        reasons[0] if reasons else f"{place!r} holds {_class_of(place, subfolder)}, expected {' or '.join(KINDS)}"
    )


def _class_of(place: str, subfolder: str | None) -> str | None:
    """Returns the class that a folder's configuration names; None if it names none."""
    import json
    from pathlib import Path

    file = Path(place) / (subfolder or ".") / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return None
    return str(found) if found else None


def build_latents(description: dict[str, Any]) -> Latents:
    """Builds latents from the output of ``describe``, without weights.

    Raises:
        CoterieError: not a description of latents.
    """
    if description.get("kind") == "none":
        return Unshuffle(description["factor"])
    if description.get("kind") not in KINDS:
        raise CoterieError(f"no autoencoder {description.get('kind')!r}: expected none, {' or '.join(KINDS)}")
    return Autoencoder(build_model(description["kind"], description["config"]))
