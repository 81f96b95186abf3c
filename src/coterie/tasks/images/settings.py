"""The sections ``data``, ``network`` and ``teacher`` of ``task=image_classification``. Nothing heavy is imported."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from coterie.recipe import Recipe
from coterie.recipe.sections import (
    AUTO,
    Auto,
    ClassDataRecipe,
    NetworkRecipe,
    Positive,
    TaskSettings,
    TeacherRecipe,
    Text,
)
from coterie.tasks.images.data.catalogue import DATA, require_place


class ImageData(ClassDataRecipe):
    """The images, their preprocessing and their augmentation."""

    places: ClassVar[tuple[str, ...]] = ("name", "root")
    names: ClassVar = DATA
    names_with_validation: ClassVar = frozenset({"cinic10"})
    without_effect: ClassVar[tuple[str, ...]] = ("workers",)
    training_only: ClassVar[tuple[str, ...]] = (
        *ClassDataRecipe.training_only,
        *("normalize", "crop_padding", "crop_scale", "flip", "cutout", "auto_augment", "mixup", "cutmix"),
    )

    name: Text = Field(
        "digits",
        description="digits, cifar10, cifar100, cinic10, fashion_mnist, a folder of images, wds://path.tar (WebDataset), parquet://path.parquet, or hf://user/dataset.",
    )
    root: Text | None = Field(
        None,
        description="Folder that holds the named data set or to which it is downloaded: torchvision's files, a folder tree or .npz.",
    )
    stream: bool = Field(
        False,
        description="hf:// only: read the parquet files over the network during training instead of downloading the data set first.",
    )
    image_size: Positive | Auto | None = Field(
        AUTO,
        description="Image size (side in pixels) after resizing; null: the pretrained network's, else the images' own (224 if they are streamed); auto: chosen for the network and the images.",
    )
    normalize: Literal["auto", "data", "network", "none"] = Field(
        "auto",
        description="Mean and standard deviation for normalisation: the pretrained network's (network) or the data set's (data); auto: network if it is pretrained, else data.",
    )
    crop_padding: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="Zero padding in pixels before the random crop, for images in memory; null: an eighth of the side (4 at 32 pixels).",
    )
    crop_scale: Annotated[float, Field(gt=0, le=1)] | Auto | None = Field(
        AUTO,
        description="Smallest area of a random crop, as a fraction of a streamed image; null: timm's 0.08, for large data sets. auto: 0.35 below 20,000 training images, else null.",
    )
    flip: bool | None = Field(None, description="Random horizontal flip; null: yes, except for digits.")
    cutout: Annotated[int, Field(ge=0)] = Field(
        0, description="Cutout: side in pixels of a random square that is blanked; 0: none."
    )
    auto_augment: str | None = Field(
        None, description="timm's augmentation policy for streamed images, such as rand-m9-mstd0.5."
    )
    mixup: Annotated[float, Field(ge=0)] = Field(0.0, description="Alpha of mixup's Beta distribution; 0: none.")
    cutmix: Annotated[float, Field(ge=0)] = Field(0.0, description="Alpha of cutmix's Beta distribution; 0: none.")
    in_memory: bool | None = Field(
        None,
        description="Keep images in memory and augment them in batches on the device; null: if `image_size` is at most 64, or they are small already (at most 64 pixels a side, all of one size).",
    )
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(
        None, description="Number of processes that decode images; null: one per core."
    )
    skip_bad_images: bool = Field(
        False,
        description="Skip and count images that cannot be decoded, and rows without a class, instead of stopping.",
    )

    @model_validator(mode="after")
    def _check_stream(self) -> Self:
        if self.stream and not self.name.startswith("hf://"):
            raise ValueError(f"stream=true applies to hf://user/dataset, not to {self.name}")
        return self

    def require_place(self) -> None:
        require_place(self.name)


class ImageNetwork(NetworkRecipe):
    """Networks of timm, or a custom network."""

    places: ClassVar[tuple[str, ...]] = ("weights",)

    name: Text | list[str] | None = Field(
        AUTO,
        description="A timm name, or a list of names for students of different architectures; auto: for your own images by their size (resnet20_cifar up to 48 pixels, else mobilenetv4_conv_small), for named data sets tiny_cifar; null: tiny_cifar.",
    )
    pretrained: bool | Auto = Field(
        AUTO,
        description="Start from timm's pretrained weights. auto: for your own images, if timm has weights and they are cached or their server answers within seconds.",
    )
    weights: Text | None = Field(
        None,
        description="File of initial weights: .safetensors, .pth or .pt, also a checkpoint of another program. A classifier for another number of classes is initialised anew.",
    )
    at: str | None = Field(
        None,
        description="Module before which the network is split into shared trunk and branches, `auto`, or `peers` (nothing shared); null: the method's default.",
    )
    trunk_gradient: Literal["sum", "mean"] = Field(
        "sum", description="How gradients of the branches are combined at the split."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of timm.create_model.")

    def of_one(self) -> Self:
        return super().of_one().model_copy(update={"at": None})

    @property
    def weights_of(self) -> str | None:
        return f"weights of {self.weights}" if self.weights else super().weights_of


class ImageTeacher(TeacherRecipe):
    """A frozen teacher: a finished run, or a network of timm with its weights."""

    places: ClassVar[tuple[str, ...]] = ("run", "weights")

    network: Text | None = Field(
        None,
        description="A timm name, with `weights` or `pretrained`.",
    )
    weights: Text | None = Field(None, description="File of the network's weights: .safetensors, .pth or .pt.")
    pretrained: bool = Field(
        False, description="Use timm's pretrained weights; their classes must be those of the data."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of timm.create_model.")
    mean: list[float] | None = Field(
        None,
        description="Mean for normalising the teacher's inputs, for pixels in 0..1; null: the run's or the pretrained network's, else the student's.",
    )
    std: list[float] | None = Field(
        None, description="Standard deviation for normalising the teacher's inputs; null: as `mean`."
    )
    image_size: Positive | None = Field(
        None, description="Image size (side in pixels) of the teacher's inputs, resized on the device; null: as `mean`."
    )


SETTINGS = TaskSettings(ImageData, ImageNetwork, ImageTeacher)


def data_of(recipe: Recipe) -> ImageData:
    """Returns the recipe's ``data``, typed for images."""
    return cast(ImageData, recipe.data)


def network_of(recipe: Recipe) -> ImageNetwork:
    """Returns the recipe's ``network``, typed for images."""
    return cast(ImageNetwork, recipe.network)


def teachers_of(recipe: Recipe) -> list[ImageTeacher]:
    """Returns the recipe's teachers, typed for images."""
    return cast(list[ImageTeacher], recipe.all_teachers())
