"""The sections of a recipe: settings, defaults and bounds. Reading and writing them is ``coterie.recipe``'s work."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

AUTO: Final = "auto"  # a setting that is chosen when the data and networks are known, see coterie.recipe.fitting
Auto = Literal["auto"]
Value = TypeVar("Value")
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


def _text(value: object) -> object:
    """A path object is as good as its text."""
    return str(value) if isinstance(value, Path) else value


Text = Annotated[str, BeforeValidator(_text)]


def _several(value: object) -> object:
    """One name is as good as a list of one; names may be separated by commas."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) and value.strip() else value


def settled(value: Value | Auto) -> Value:
    """A setting that was ``auto`` and by now has a value.

    Raises:
        RuntimeError: it has none: the recipe was not fitted.
    """
    if value == AUTO:
        raise RuntimeError("a setting is still auto: the recipe must be fitted to its data first")
    return value


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataRecipe(Section):
    name: Text = Field(
        "digits",
        description="digits, cifar10, cifar100, cinic10, fashion_mnist, a folder of images, or hf://user/dataset.",
    )
    root: Text | None = Field(
        None,
        description="Where the named data set lies or is downloaded to: torchvision's files, a folder tree or .npz.",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Share of the training images held out, stratified and seeded, where the data bring no validation split; 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Share of each class held out as the test split, before validation, where the data bring none; their validation split then stays validation. 0: none. auto: a fifth where they bring neither, and a lone validation split is the test split.",
    )
    validation_seed: int = Field(
        0, description="Seed of both splits; apart from `seed`, so that all seeds share one split."
    )
    train_limit: Positive | None = Field(
        None, description="Keep this many training images, the same number of each class."
    )
    image_size: Positive | Auto | None = Field(
        AUTO,
        description="Side in pixels to which images are brought; null: the data's or the network's; auto: what suits the network and the images.",
    )
    normalize: Literal["auto", "data", "network", "none"] = Field(
        "auto",
        description="Mean and standard deviation: the network's where it is pretrained, else the data set's (auto).",
    )
    crop_padding: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="Zero padding before the random crop of small images; null: an eighth of the side (4 at 32 pixels).",
    )
    crop_scale: Annotated[float, Field(gt=0, le=1)] | Auto | None = Field(
        AUTO,
        description="Smallest share of the area of a streamed image that a random crop shows; null: timm's 0.08, for large data sets. auto: by the number of images.",
    )
    flip: bool | None = Field(None, description="Random horizontal flip; null: yes, except for digits.")
    cutout: Annotated[int, Field(ge=0)] = Field(0, description="Side in pixels of a square that is blanked; 0: none.")
    auto_augment: str | None = Field(None, description="timm's policy for folders of images, such as rand-m9-mstd0.5.")
    mixup: Annotated[float, Field(ge=0)] = Field(0.0, description="Alpha of mixup's Beta distribution; 0: none.")
    cutmix: Annotated[float, Field(ge=0)] = Field(0.0, description="Alpha of cutmix's Beta distribution; 0: none.")
    views: Literal["auto", "shared", "per_student"] = Field(
        "auto", description="One augmented view for all students, or one for each; auto: what the method asks for."
    )
    in_memory: bool | None = Field(
        None,
        description="Keep the pixels in memory and augment in batches on the device; null: yes up to 64 pixels a side.",
    )
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(
        None, description="Processes that decode images; null: one for each core."
    )
    skip_bad_images: bool = Field(
        False, description="Leave out images that cannot be decoded, and count them, instead of stopping."
    )
    incomplete_classes: Literal["refuse", "accept"] = Field(
        "refuse",
        description="A class without training images, with one image only where a split is to be carved, or missing from validation or test: stop, or go on without.",
    )


class TextRecipe(Section):
    """What `task=text_classification` reads besides `data.name`, which is then a CSV or JSON file, a folder with train, validation and test files, or hf-text://user/dataset."""

    columns: list[str] = Field(
        default_factory=lambda: ["text"],
        min_length=1,
        max_length=2,
        description="Column of the text; two for pairs of texts, such as a question and a sentence.",
    )
    label: str = Field("label", description="Column of the class: a name or a number.")
    max_length: Positive = Field(128, description="Tokens after which a text, or a pair, is cut off.")


class NetworkRecipe(Section):
    name: Text | list[str] | None = Field(
        AUTO,
        description="A timm name, or a list of names for students of different architectures; auto: what suits the images' size; null: tiny_cifar. For text: a folder with config.json and tokenizer, or a name of the Hugging Face Hub.",
    )
    pretrained: bool | Auto = Field(
        AUTO,
        description="Start from timm's pretrained weights; for text, from the folder's or the Hub's. auto: for images of one's own, where there are weights and they are to be had within seconds.",
    )
    weights: Text | None = Field(
        None,
        description="File of weights to start from: .safetensors, .pth or .pt, also a checkpoint of another program. A classifier of another number of classes starts anew.",
    )
    freeze: Annotated[int, Field(ge=0)] | Literal["backbone"] = Field(
        0,
        description="Epochs for which only the classifiers and the method's own modules are trained, and the rest is held as it is, BatchNorm's statistics included; backbone: all of them (linear probing).",
    )
    hold_statistics: bool | Auto = Field(
        AUTO,
        description="Keep BatchNorm's running statistics as the weights bring them and normalise by them in training too; its scales and shifts are trained. auto: in pretrained mobile networks, below 5,000 training images.",
    )
    branches: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Number of students; null: the method's default."
    )
    at: str | None = Field(
        None,
        description="Module before which the network is split, `auto`, or `peers` (nothing shared); null: the method's default.",
    )
    trunk_gradient: Literal["sum", "mean"] = Field("sum", description="How the branches' gradients meet at the split.")
    options: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of timm.create_model.")


# Arguments of a method's constructor that other sections of a recipe make.
SET_ELSEWHERE = {"group": "network.*", "label_loss": "training.label_loss", "teachers": "teacher.*", "self": "nothing"}


class MethodRecipe(BaseModel):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field("okdmde", description="See `coterie list methods`, or package.module:Class.")

    @model_validator(mode="after")
    def _refuse_what_is_set_elsewhere(self) -> MethodRecipe:
        for key, where in SET_ELSEWHERE.items():
            if key in self.options:
                raise ValueError(f"the setting {key!r} is made by {where}")
        return self

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class OptimizerRecipe(Section):
    name: str = Field(AUTO, description="Any optimizer of timm; sgd is Nesterov's.")
    learning_rate: Annotated[float, Field(gt=0)] | Auto = Field(
        AUTO, description="The largest rate, after the warm-up."
    )
    weight_decay: Annotated[float, Field(ge=0)] | Auto = Field(AUTO, description="Factor of the decay of weights.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Of optimizers that have one.")
    exclude_norm_and_bias: bool | Auto = Field(
        AUTO, description="No weight decay on vectors and scalars; the papers decay everything."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of the optimizer.")


class ScheduleRecipe(Section):
    name: Literal["constant", "cosine", "multistep", "step", "poly", "tanh"] = Field(
        "cosine", description="How the rate falls; it moves at every step."
    )
    warmup_epochs: Annotated[float, Field(ge=0)] | Auto = Field(
        AUTO, description="Epochs over which the rate rises first."
    )
    warmup_learning_rate: Annotated[float, Field(ge=0)] = Field(1e-5, description="Where the warm-up starts.")
    minimum_learning_rate: Annotated[float, Field(ge=0)] = Field(0.0, description="Where cosine, poly and tanh end.")
    milestones: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: [0.5, 0.75], description="multistep: where the rate falls, as fractions of training."
    )
    decay_rate: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="multistep, step: factor of each fall.")
    decay_epochs: Annotated[float, Field(gt=0)] = Field(30, description="step: epochs between two falls.")
    restarts: list[Positive] = Field(
        default_factory=list,
        description="Epochs that are done when the whole schedule, warm-up included, starts anew, over the epochs to the next one or to the end. `coterie train --resume` with more `training.epochs` adds one.",
    )

    def stretches(self, epochs: int) -> list[tuple[int, int]]:
        """First and last bound, in epochs that are done, of each stretch that has a schedule of its own."""
        bounds = [0, *self.restarts, epochs]
        return list(pairwise(bounds))


class TrainingRecipe(Section):
    epochs: Positive | Auto = Field(AUTO, description="Passes over the training images.")
    batch_size: Positive | Auto = Field(AUTO, description="Images a step over all processes.")
    accumulate: Positive = Field(1, description="Batches whose gradients are added up before the optimizer steps.")
    clip_gradient: Annotated[float, Field(gt=0)] | None = Field(None, description="Largest norm of the gradient.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="bf16 and fp16: mixed precision.")
    compile: bool = Field(False, description="Compile the training step with torch.compile.")
    cuda_graph: bool = Field(
        True,
        description="On a CUDA device, record the forward and backward pass once and replay it: one launch a step, the same results. Not with several processes, `accumulate` or fp16.",
    )
    checkpoint_branches: bool = Field(
        False,
        description="Compute every branch once more in the backward pass instead of keeping its activations: less memory, more time, the same results.",
    )
    cache_teachers: bool = Field(
        True,
        description="Ask the teachers once, before the first step, where that is enough: samples that look the same every epoch (texts; images in memory without augmentation), and a method that reads only logits.",
    )
    channels_last: bool | Literal["auto"] = Field(
        "auto",
        description="Memory format of images and convolutions. auto: true on a CUDA device, on a CPU what suits the networks; what was chosen stands in the run's recipe.",
    )
    device: str | None = Field(None, description="cpu, cuda, mps; null: the best there is.")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Decay of the moving average of all weights, which is then evaluated and deployed."
    )
    label_loss: Literal["cross_entropy", "binary_cross_entropy"] = Field(
        "cross_entropy", description="Loss against the labels; the binary one is summed over the classes."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the target that is spread over all classes."
    )
    class_weights: Literal["none", "balanced"] | list[Annotated[float, Field(ge=0)]] = Field(
        "none", description="One factor for each class, or balanced: inversely proportional to its frequency."
    )
    select: Literal["auto", "last", "best"] = Field(
        "auto",
        description="Which epoch is deployed; best: by validation top-1; auto: best with `patience`, last without, and the run's recipe says which.",
    )
    patience: Positive | None = Field(
        None,
        description="End the training when validation top-1 has not been better for this many evaluations. The learning rate stays planned for all `epochs`.",
    )
    evaluate_every: Positive = Field(1, description="Epochs between evaluations on the validation split.")
    log_every: Positive = Field(
        50, description="Steps between rows of training losses, and between checks for values that are not finite."
    )
    checkpoint_steps: Positive | None = Field(
        None, description="Steps between checkpoints within an epoch; null: one an epoch."
    )
    trackers: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], BeforeValidator(_several)] = Field(
        default_factory=list, description="Where figures are sent besides metrics.jsonl; each needs its extra."
    )


class TeacherRecipe(Section):
    """A frozen network that teaches: a finished run, or a network with its weights."""

    run: Text | None = Field(None, description="Folder of a finished coterie run, whose student teaches.")
    network: Text | None = Field(
        None,
        description="A timm name, with `weights` or `pretrained`; for text a folder with its weights, or a Hub name.",
    )
    weights: Text | None = Field(None, description="File of the network's weights: .safetensors, .pth or .pt.")
    pretrained: bool = Field(False, description="timm's pretrained weights; their classes must be the data's.")
    options: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of timm.create_model.")
    mean: list[float] | None = Field(
        None,
        description="Mean of its inputs, of pixels in 0..1; null: the run's or the pretrained network's, else the student's.",
    )
    std: list[float] | None = Field(None, description="Standard deviation of its inputs; null: as `mean`.")
    image_size: Positive | None = Field(
        None, description="Side in pixels of its inputs, resized on the device; null: as `mean`."
    )


class TeachingRecipe(Section):
    """How teachers join a method that has none of its own (OKDMDE, DML, ...): a divergence for every student."""

    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Of the divergence from the teachers.")
    temperature: Annotated[float, Field(gt=0)] = Field(4.0, description="Of both sides.")
    combination: Literal["mean_probability", "mean_logit"] = Field(
        "mean_probability", description="One prediction of several teachers."
    )
