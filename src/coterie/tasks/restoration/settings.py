"""Recipe sections specific to ``task=restoration``: ``data``, ``network`` and ``method``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from coterie.errors import CoterieError, did_you_mean
from coterie.recipe import Recipe
from coterie.recipe.sections import (
    AUTO,
    Auto,
    DataRecipe,
    MethodRecipe,
    NetworkRecipe,
    Positive,
    Section,
    TaskSettings,
    Text,
)


class RestorationData(DataRecipe):
    """The images, their cropping, and how small and degraded ones are made of them."""

    places: ClassVar[tuple[str, ...]] = ("name", "low", "dists")
    without_effect: ClassVar[tuple[str, ...]] = ("workers",)
    names: ClassVar = {
        "photos": "two photographs that come with scikit-learn, one for training and one for testing; needs no network",
        "more_photos": "these two and four that come with scikit-image (extra `restoration`); needs no network",
        "FOLDER": "a folder of large, sharp images, in train/, val/ and test/ or without these sub-folders",
    }

    name: Text = Field(
        "photos",
        description="photos (scikit-learn's two photographs), more_photos (with scikit-image's), or a folder of large, sharp images.",
    )
    low: Text | None = Field(
        None,
        description="Folder of the small images, with the layout and file names of the folder `name`; null: they are made from the large ones.",
    )
    scale: Literal[2, 4] = Field(4, description="Upscaling factor of each side.")
    crop: Annotated[int, Field(ge=16)] = Field(
        64, description="Side of the square training crop, in pixels of the large image; 512 for Stable Diffusion."
    )
    degradation: Literal["bicubic", "first_order", "real_esrgan"] = Field(
        "first_order",
        description="How small images are made from large ones: downscaling only (bicubic); blur, noise and JPEG in addition (first_order); or these applied twice, as in Real-ESRGAN. In training a function of `seed`, epoch and sample; in evaluation fixed by `validation_seed`.",
    )
    flip: bool = Field(True, description="Augment crops by random flips and 90-degree rotations (eight orientations).")
    evaluation: Literal["tiles", "whole"] = Field(
        "tiles", description="Evaluate on adjacent squares of `crop` pixels, or on whole images one by one."
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Fraction of the training images held out as the validation split if the data have none; with fewer than four images, a strip at the right of each. 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Fraction of the images held out as the test split if the data have none, before `validation` is split off; an existing validation split stays the validation split. 0: none. auto: 0.2 if the data have neither split; a validation split alone becomes the test split.",
    )
    train_limit: Positive | None = Field(None, description="Keep this many training squares.")
    dists: Text = Field(
        "random",
        description="Backbone of the DISTS metric: vgg16 (downloaded once), a file of DISTS's channel weights, or random, which needs no download but does not give DISTS values.",
    )
    lpips: bool = Field(False, description="Also measure LPIPS; its VGG-16 is downloaded once.")
    workers: Positive = Field(
        2, description="Number of threads that crop and degrade images while the previous step runs."
    )

    @model_validator(mode="after")
    def _check(self) -> RestorationData:
        if self.crop % self.scale:
            raise ValueError(f"crop={self.crop} is no multiple of scale={self.scale}")
        if self.low is not None and self.degradation != type(self).model_fields["degradation"].default:
            raise ValueError("degradation has no effect where low names the small images")
        if self.low is not None and self.name in self.names:
            raise ValueError(f"low goes with a folder of large images, not with name={self.name}")
        return self

    def require_place(self) -> None:
        """See :meth:`coterie.recipe.sections.DataRecipe.require_place`."""
        for key, place in (("name", self.name), ("low", self.low)):
            if place is None or place in ("photos", "more_photos") or Path(place).expanduser().is_dir():
                continue
            known = ["photos", "more_photos"] if key == "name" else []
            words = f"expected {', '.join(known)} or a folder of images" if known else "expected a folder of images"
            raise CoterieError(f"data.{key}={place!r}: {words}{did_you_mean(place, known)}")


class AdapterSettings(Section):
    """LoRA: small trained matrices beside frozen weights."""

    rank: Positive | Auto | None = Field(
        AUTO,
        description="Rank of the LoRA matrices; null: no LoRA, all weights are trained. auto: 16 (the paper's) with pretrained weights, null without them or with method=denoising.",
    )
    alpha: Positive = Field(
        16, description="LoRA scaling: the update is multiplied by alpha / rank; 16 is the paper's."
    )
    targets: list[str] | None = Field(
        None,
        description="Layers that get LoRA, by the ends of their names; null: attention, feed-forward layers and convolutions.",
    )


class RestorationNetwork(NetworkRecipe):
    """The diffusion network that restores an image in one step: a folder or name of diffusers, or the name of a small one."""

    places: ClassVar[tuple[str, ...]] = ("name", "autoencoder")
    names: ClassVar = {"tiny_unet": "a small untrained UNet2DConditionModel", "none": "no autoencoder"}

    name: Text | None = Field(
        AUTO,
        description="tiny_unet, or a folder or Hub name of a diffusers pipeline (unet/, vae/, ...) or a UNet2DConditionModel; auto: tiny_unet.",
    )
    pretrained: bool | Auto = Field(
        AUTO, description="Start from the weights of the folder or Hub name; auto: if there are any."
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="tiny_unet only: further keyword arguments of diffusers' UNet2DConditionModel.",
    )
    autoencoder: Text = Field(
        AUTO,
        description="Folder or Hub name of a frozen AutoencoderKL or AutoencoderTiny; none: pixels are rearranged into channels without loss (pixel unshuffle). auto: the pipeline's own, else none.",
    )
    unshuffle: Literal[1, 2, 4, 8] = Field(
        4,
        description="Without an autoencoder: pixel unshuffle factor, the side of the square of pixels that becomes one position.",
    )
    timestep: Annotated[int, Field(ge=1, le=999)] | Auto = Field(
        AUTO,
        description="Diffusion timestep T_L of the one step. auto: 399 with pretrained weights or method=denoising, as in the released code of the authors' OSDFace, since the paper does not give it; else 49.",
    )
    learn_embedding: bool = Field(
        False, description="Also train the text embedding, initialised with that of the empty prompt."
    )
    lora: AdapterSettings = Field(default_factory=AdapterSettings)
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass instead of storing them: less memory, more time.",
    )
    tile: Annotated[int, Field(ge=16)] = Field(
        512, description="Side of a tile, in pixels of the large image; larger images are restored in tiles."
    )
    overlap: Annotated[int, Field(ge=0)] = Field(
        64, description="Overlap of neighbouring tiles, in pixels of the large image, over which they are blended."
    )

    @model_validator(mode="after")
    def _check(self) -> RestorationNetwork:
        if self.freeze != 0:
            raise ValueError("freeze has no effect on restoration; lora trains little beside frozen weights")
        if self.branches not in (None, 1):
            raise ValueError(f"branches={self.branches}: restoration trains one network")
        if 2 * self.overlap > self.tile:
            raise ValueError(f"overlap={self.overlap} is above half of tile={self.tile}")
        if self.options and self.name not in (AUTO, "tiny_unet"):
            raise ValueError(f"options are of tiny_unet, and {self.name} has a configuration of its own")
        return self


class RestorationMethod(MethodRecipe):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    name: str = Field(
        "dfosd",
        description="Name of the method: dfosd, or regression or vsd for comparison. See `coterie list methods`.",
    )


SETTINGS = TaskSettings(RestorationData, RestorationNetwork, method=RestorationMethod)


def data_of(recipe: Recipe) -> RestorationData:
    """Return the recipe's ``data``, typed for restoration."""
    return cast(RestorationData, recipe.data)


def network_of(recipe: Recipe) -> RestorationNetwork:
    """Return the recipe's ``network``, typed for restoration."""
    return cast(RestorationNetwork, recipe.network)
