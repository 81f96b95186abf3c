"""Export of a restoration network as a folder of diffusers, as LoRA weights alone, or as one graph."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from coterie.errors import CoterieError, RunError
from coterie.files import write_json
from coterie.networks.one_step.generator import OneStepGenerator
from coterie.networks.one_step.latents import Autoencoder
from coterie.networks.one_step.library import load_model
from coterie.networks.one_step.unets import SCHEDULE, has_lora, merged, without_lora
from coterie.tasks.exporting import Subject, exporting, relative_difference, require_close, traced

LORA_FILE = "pytorch_lora_weights.safetensors"


def _generator(subject: Subject) -> OneStepGenerator:
    return cast(OneStepGenerator, subject.network)


def _probe(generator: OneStepGenerator, crop: int) -> Tensor:
    """Return a small image of random pixels with the training size."""
    side = crop // generator.scale
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def with_merged_lora(generator: OneStepGenerator) -> OneStepGenerator:
    """Return a copy with LoRA merged into its weights."""
    plain = copy.deepcopy(generator)
    plain.unet = merged(plain.unet)
    return plain.eval()


def write_diffusers(subject: Subject, folder: Path, gallery: Path) -> str:
    """See :class:`coterie.tasks.formats.Format`. Writes ``unet/`` with LoRA merged, ``vae/`` if there is one, ``scheduler/``, the text embedding, and the constants of the step.

    Raises:
        RunError: the network that diffusers loads from the folder computes something else.
    """
    from diffusers import DDPMScheduler

    generator = _generator(subject)
    plain = with_merged_lora(generator)
    cast(Any, plain.unet).save_pretrained(folder / "unet")
    step: dict[str, Any] = {
        "scale": plain.scale,
        "timestep": plain.timestep,
        "alpha_bar": plain.alphas_bar[plain.timestep].item(),
        "multiple": plain.multiple,
    }
    if isinstance(plain.latents, Autoencoder):
        cast(Any, plain.latents.model).save_pretrained(folder / "vae")
        step |= {"scaling": plain.latents.scaling, "shift": plain.latents.shift}
    else:
        step["unshuffle"] = plain.latents.factor
    scheduler: Any = DDPMScheduler(**_schedule(plain.alphas_bar))
    scheduler.save_pretrained(folder / "scheduler")
    save_file({"embedding": plain.embedding.detach().contiguous()}, folder / "embedding.safetensors")
    write_json(folder / "one_step.json", step)
    plain.unet = load_model("UNet2DConditionModel", str(folder), "unet")
    if isinstance(plain.latents, Autoencoder):
        plain.latents = Autoencoder(load_model(plain.latents.kind, str(folder), "vae"))
    small = _probe(generator, subject.description["crop"])
    with torch.inference_mode():
        difference = relative_difference(generator(small), plain(small))
    require_close(difference, "diffusers")
    how = "with LoRA added to the weights, " if has_lora(generator.unet) else ""
    return f"{how}images by the networks that diffusers loads from the folder differ from the run's by at most {difference:.1e}, on one of {small.shape[-1]}x{small.shape[-1]} pixels."


def _schedule(alphas_bar: Tensor) -> dict[str, Any]:
    """Return settings of a scheduler with these ᾱ: Stable Diffusion's, or a list of the noise of each step."""
    from coterie.networks.one_step.unets import alphas_bar as of

    if len(alphas_bar) == SCHEDULE["num_train_timesteps"] and torch.allclose(of(SCHEDULE), alphas_bar, atol=1e-6):
        return dict(SCHEDULE)
    earlier = torch.cat([torch.ones(1), alphas_bar[:-1]])
    return {"num_train_timesteps": len(alphas_bar), "trained_betas": (1 - alphas_bar / earlier).tolist()}


def write_lora(subject: Subject, folder: Path, gallery: Path) -> str:
    """See :class:`coterie.tasks.formats.Format`. Writes only the LoRA weights, in the format of diffusers and peft.

    Raises:
        CoterieError: the network has no LoRA.
        RunError: the weights loaded from the folder compute something else.
    """
    generator = _generator(subject)
    if not has_lora(generator.unet):
        raise CoterieError("this network was trained without LoRA (network.lora.rank=null): export format diffusers")
    unet: Any = generator.unet
    unet.save_lora_adapter(folder, weight_name=LORA_FILE)
    again = copy.deepcopy(generator)
    plain: Any = without_lora(unet)
    plain.load_lora_adapter(str(folder), prefix=None, weight_name=LORA_FILE)
    again.unet = plain
    small = _probe(generator, subject.description["crop"])
    with torch.inference_mode():
        difference = relative_difference(generator(small), again.eval()(small))
    require_close(difference, "lora")
    return f"beside the weights that training started from, images differ from the run's by at most {difference:.1e}."


class _Fixed(nn.Module):
    """The generator for one image size, with the timestep as a constant of the graph."""

    def __init__(self, generator: OneStepGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, low: Tensor) -> Tensor:
        found: Tensor = self.generator(low)
        return found


def write_pt2(subject: Subject, folder: Path, gallery: Path) -> str:
    """See :class:`coterie.tasks.formats.Format`. Writes ``model.pt2``, the whole step for one image of the training size; larger images must be cut into tiles of this size.

    Raises:
        RunError: the network cannot be traced, or the export computes something else.
    """
    generator = _generator(subject)
    plain = _Fixed(with_merged_lora(generator)).eval()
    small = _probe(generator, subject.description["crop"])
    with exporting("pt2"), torch.no_grad():
        program = io.BytesIO()  # torch's own writer kills the process if the disk is full
        torch.export.save(traced(plain, (small,), ({},)), program)
        (folder / "model.pt2").write_bytes(program.getbuffer())
        loaded = torch.export.load(folder / "model.pt2").module()
    with torch.inference_mode():
        difference = relative_difference(generator(small), loaded(small))
    if not difference < 1:
        raise RunError("the pt2 export computes nothing finite")
    require_close(difference, "pt2")
    return f"images by the graph differ from the run's by at most {difference:.1e}, on one of {small.shape[-1]}x{small.shape[-1]} pixels."
