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
        "photos": "two photographs that come with scikit-learn: one is learnt from, one is the test; needs no network",
        "more_photos": "these and four that come with scikit-image (extra `restoration`); needs no network",
        "FOLDER": "a folder of large, sharp images, in train/, val/ and test/ or alone",
    }

    name: Text = Field(
        "photos",
        description="photos (scikit-learn's two photographs), more_photos (with scikit-image's), or a folder of large, sharp images.",
    )
    low: Text | None = Field(
        None,
        description="A folder of the small images, laid out and named as those of the folder `name`; null: they are made of the large ones.",
    )
    scale: Literal[2, 4] = Field(4, description="How many times larger a side becomes.")
    crop: Annotated[int, Field(ge=16)] = Field(
        64, description="Side of the square that is cut from a large image, in its pixels; 512 for Stable Diffusion."
    )
    degradation: Literal["bicubic", "first_order", "real_esrgan"] = Field(
        "first_order",
        description="How small images are made: made smaller only; blur, noise and JPEG besides; or Real-ESRGAN's two orders of these. A function of `seed`, epoch and sample.",
    )
    flip: bool = Field(True, description="Train on all eight ways to turn and mirror a square.")
    evaluation: Literal["tiles", "whole"] = Field(
        "tiles", description="Measure squares of `crop` pixels side by side, or whole images one by one."
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Share of the training images held out where the data bring no validation split; of fewer than four images, a strip at the right of each. 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Share of the images held out as the test split, before validation, where the data bring none; their validation split then stays validation. 0: none. auto: a fifth where they bring neither, and a lone validation split is the test split.",
    )
    train_limit: Positive | None = Field(None, description="Keep this many training squares.")
    dists: Text = Field(
        "random",
        description="Backbone of the DISTS that is measured: vgg16 (downloaded once), a file of DISTS's channel weights, or random, which needs no download and is no DISTS.",
    )
    lpips: bool = Field(False, description="Measure LPIPS too; its VGG-16 is downloaded once.")
    workers: Positive = Field(2, description="Threads that cut and degrade images while the step before is computed.")

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
        description="Of the matrices that are added; null: none, all weights are trained. auto: 16 (the paper's) beside weights, none from nothing.",
    )
    alpha: Positive = Field(16, description="What is added counts by alpha / rank; 16 (the paper's).")
    targets: list[str] | None = Field(
        None,
        description="Ends of the names of the layers that get them; null: attention, feed-forward layers and convolutions.",
    )


class RestorationNetwork(NetworkRecipe):
    """The diffusion network that restores an image in one step: a folder or name of diffusers, or the name of a small one."""

    places: ClassVar[tuple[str, ...]] = ("name", "autoencoder")
    names: ClassVar = {"tiny_unet": "a small untrained UNet2DConditionModel", "none": "no autoencoder"}

    name: Text | None = Field(
        AUTO,
        description="tiny_unet, or a folder or name of the Hub with a pipeline of diffusers (unet/, vae/, ...) or a UNet2DConditionModel; auto: tiny_unet.",
    )
    pretrained: bool | Auto = Field(
        AUTO, description="Start from the weights that are named; auto: where there are some."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="tiny_unet only: further values of diffusers' UNet2DConditionModel."
    )
    autoencoder: Text = Field(
        AUTO,
        description="Folder or name of an AutoencoderKL or AutoencoderTiny, frozen; none: pixels are rearranged into channels, without loss. auto: the pipeline's own, else none.",
    )
    unshuffle: Literal[1, 2, 4, 8] = Field(
        4, description="Without an autoencoder: side of the square that becomes one position."
    )
    timestep: Annotated[int, Field(ge=1, le=999)] | Auto = Field(
        AUTO,
        description="T_L, the time of the one step. auto: 399 with weights that are there, as in the released code of the authors' OSDFace, since the paper does not say; 49 from nothing.",
    )
    learn_embedding: bool = Field(False, description="Train the text embedding too, from that of the empty prompt on.")
    lora: AdapterSettings = Field(default_factory=AdapterSettings)
    gradient_checkpointing: bool = Field(
        False,
        description="Compute activations once more in the backward pass instead of keeping them: less memory, more time.",
    )
    tile: Annotated[int, Field(ge=16)] = Field(
        512, description="Side in large pixels above which an image is restored in tiles."
    )
    overlap: Annotated[int, Field(ge=0)] = Field(
        64, description="Large pixels that neighbouring tiles share, over which they are blended."
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

    name: str = Field("dfosd", description="dfosd, or a method to compare it with: regression, vsd.")


SETTINGS = TaskSettings(RestorationData, RestorationNetwork, method=RestorationMethod)


def data_of(recipe: Recipe) -> RestorationData:
    """Return the recipe's ``data``, typed for restoration."""
    return cast(RestorationData, recipe.data)


def network_of(recipe: Recipe) -> RestorationNetwork:
    """Return the recipe's ``network``, typed for restoration."""
    return cast(RestorationNetwork, recipe.network)
