"""The sections of a recipe: settings, defaults and bounds. ``coterie.recipe`` reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from coterie.errors import CoterieError

AUTO: Final = "auto"  # resolved when the data and networks are known, see coterie.recipe.fitting
Auto = Literal["auto"]
OWN_DATA: Final = "own data"  # the name of data sets that were passed as objects
Value = TypeVar("Value")
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


def _text(value: object) -> object:
    """Converts a path object to text."""
    return str(value) if isinstance(value, Path) else value


Text = Annotated[str, BeforeValidator(_text)]


def _several(value: object) -> object:
    """Converts one name, or names separated by commas, to a list."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) and value.strip() else value


def resolved(value: Value | Auto) -> Value:
    """Returns the value of a setting that may be ``auto`` until it is resolved.

    Raises:
        CoterieError: it is still ``auto``: the recipe was not fitted, or a run's recipe is damaged.
    """
    if value == AUTO:
        raise CoterieError(
            "a setting is still auto, which no run's recipe leaves: it is damaged, or was never fitted to its data"
        )
    return value


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Located(Section):
    """A section with settings that are paths or names."""

    places: ClassVar[tuple[str, ...]] = ()  # these settings
    names: ClassVar[Mapping[str, str]] = MappingProxyType(
        {}
    )  # values that are never paths, whatever is in the working directory, with their meaning

    def located(self) -> dict[str, Any]:
        """Returns the values of ``places``, unchanged."""
        return {key: getattr(self, key) for key in self.places}

    def absolute(self) -> Self:
        """Returns a copy with absolute paths."""

        def path(value: Any) -> Any:
            if isinstance(value, list):
                return [path(each) for each in value]
            if not value or value in self.names or "://" in value:
                return value
            found = Path(value).expanduser()
            return str(found.absolute()) if found.exists() else value

        return self.model_copy(update={key: path(value) for key, value in self.located().items()})


class DataRecipe(Located):
    """Data settings that all tasks share. Each task defines its own ones, see :class:`TaskSettings`."""

    places: ClassVar[tuple[str, ...]] = ("name",)
    without_effect: ClassVar[tuple[str, ...]] = ()  # settings that affect speed, not results
    training_only: ClassVar[tuple[str, ...]] = ("train_limit", "views")  # settings that no evaluation reads
    names_with_validation: ClassVar[frozenset[str]] = frozenset()  # data sets that have a validation split
    files_have_splits: ClassVar[bool] = False  # whether a single file may hold several splits

    name: Text = Field("", description="The data set.")
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Fraction of the training samples held out as the validation split if the data have none; 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Fraction of the samples held out as the test split if the data have none, before `validation` is split off; an existing validation split stays the validation split. 0: none. auto: 0.2 if the data have neither split; a validation split alone becomes the test split.",
    )
    validation_seed: int = Field(
        0,
        description="Seed of the validation and test splits; separate from `seed`, so that runs with different seeds share the splits.",
    )
    train_limit: Positive | None = Field(None, description="Keep this many training samples.")
    views: Literal["auto", "shared", "per_student"] = Field(
        "auto",
        description="One augmented view of each sample for all students, or one for each student; auto: as the method requires.",
    )

    def require_place(self) -> None:
        """Refuse an unknown name, as far as this can be checked before heavy imports.

        Raises:
            CoterieError: there is no such data set, file or folder.
        """


class ClassDataRecipe(DataRecipe):
    """Additional data settings for classification: the same share of every class is held out."""

    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Fraction of the training samples held out as the validation split if the data have none, stratified and seeded; 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Fraction of each class held out as the test split if the data have none, before `validation` is split off; an existing validation split stays the validation split. 0: none. auto: 0.2 if the data have neither split; a validation split alone becomes the test split.",
    )
    train_limit: Positive | None = Field(
        None, description="Keep this many training samples, spread over the classes as evenly as possible."
    )
    incomplete_classes: Literal["refuse", "accept"] = Field(
        "refuse",
        description="What to do if a class has no training samples, has only one where a split is held out, or is missing from validation or test: stop with an error (refuse), or continue (accept).",
    )


class NetworkRecipe(Located):
    """Network settings that all tasks share."""

    places: ClassVar[tuple[str, ...]] = ("name",)

    name: Text | list[str] | None = Field(
        AUTO, description="Name of the network, or a list of names for different students."
    )
    pretrained: bool | Auto = Field(AUTO, description="Start from pretrained weights; auto: if they are available.")
    freeze: Annotated[int, Field(ge=0)] | Literal["backbone"] = Field(
        0,
        description="Number of first epochs in which only the classifiers and the method's own modules are trained; all else is frozen, BatchNorm's running statistics included. backbone: all epochs (linear probing).",
    )
    hold_statistics: bool | Auto = Field(
        AUTO,
        description="Freeze BatchNorm's running statistics at their pretrained values and normalise with them in training too; its scales and shifts are still trained. auto: true for pretrained mobile networks with fewer than 5,000 training images.",
    )
    branches: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Number of students; null: the method's default."
    )

    def of_one(self) -> Self:
        """Returns a copy without the settings for the number of students and what they share."""
        return self.model_copy(update={"branches": None})

    @property
    def weights_of(self) -> str | None:
        """The source of the initial weights, in words; None: random initialisation."""
        return "pretrained" if self.pretrained is True else None


# Arguments of a method's constructor that come from other sections of a recipe.
SET_ELSEWHERE = {"group": "network.*", "label_loss": "training.label_loss", "teachers": "teacher.*", "self": "nothing"}


class MethodRecipe(BaseModel):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field("okdmde", description="Name of a method, see `coterie list methods`, or package.module:Class.")

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
    name: str = Field(AUTO, description="Name of any timm optimizer; sgd uses Nesterov momentum.")
    learning_rate: Annotated[float, Field(gt=0)] | Auto = Field(
        AUTO, description="Peak learning rate, after the warm-up."
    )
    weight_decay: Annotated[float, Field(ge=0)] | Auto = Field(AUTO, description="Weight decay coefficient.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum, for optimizers that have one.")
    exclude_norm_and_bias: bool | Auto = Field(
        AUTO,
        description="Apply no weight decay to vectors and scalars (biases, norm layers); the papers apply it to everything.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of the optimizer.")


class ScheduleRecipe(Section):
    name: Literal["constant", "cosine", "multistep", "step", "poly", "tanh"] = Field(
        "cosine", description="Learning-rate schedule after the warm-up, updated at every step."
    )
    warmup_epochs: Annotated[float, Field(ge=0)] | Auto = Field(AUTO, description="Epochs of linear warm-up.")
    warmup_learning_rate: Annotated[float, Field(ge=0)] = Field(
        1e-5, description="Learning rate at the start of the warm-up."
    )
    minimum_learning_rate: Annotated[float, Field(ge=0)] = Field(
        0.0, description="cosine, poly, tanh: final learning rate."
    )
    milestones: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: [0.5, 0.75],
        description="multistep: when the learning rate drops, as fractions of training.",
    )
    decay_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="multistep, step: factor of each learning-rate drop."
    )
    decay_epochs: Annotated[float, Field(gt=0)] = Field(30, description="step: epochs between two learning-rate drops.")
    restarts: list[Positive] = Field(
        default_factory=list,
        description="Numbers of finished epochs at which the whole schedule, warm-up included, restarts; it then spans the epochs to the next restart or to the end. `coterie train --resume` with more `training.epochs` adds one.",
    )

    def stretches(self, epochs: int) -> list[tuple[int, int]]:
        """Returns the start and end of each stretch with its own schedule, as numbers of finished epochs."""
        bounds = [0, *self.restarts, epochs]
        return list(pairwise(bounds))


class TrainingRecipe(Section):
    epochs: Positive | Auto = Field(AUTO, description="Passes over the training samples.")
    batch_size: Positive | Auto = Field(AUTO, description="Samples per batch, over all processes.")
    accumulate: Positive = Field(
        1, description="Number of batches over which gradients are accumulated before an optimizer step."
    )
    clip_gradient: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Maximum norm of the gradient; null: no clipping."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="bf16 and fp16: mixed precision.")
    compile: bool = Field(False, description="Compile the training step with torch.compile.")
    cuda_graph: bool = Field(
        True,
        description="On a CUDA device, capture the forward and backward pass as a CUDA graph, once per batch shape, and replay it: one launch a step, same results. Not used with several processes, `accumulate`, `shard`, `checkpoint_branches` or fp16.",
    )
    shard: bool = Field(
        False,
        description="Shard students, teachers and optimizer over the processes, block by block (FSDP2), instead of a full copy in each. Language models only.",
    )
    checkpoint_branches: bool = Field(
        False,
        description="Recompute the activations of every branch in the backward pass instead of storing them: less memory, more time, same results.",
    )
    cache_teachers: bool = Field(
        True,
        description="Compute the teachers' logits once, before the first step, if samples are the same in every epoch (texts; images in memory without augmentation) and the method reads only logits.",
    )
    channels_last: bool | Literal["auto"] = Field(
        "auto",
        description="Use the channels-last memory format for images and convolutions. auto: true on a CUDA device; on a CPU for convolutional networks. The run's recipe records the choice.",
    )
    device: str | None = Field(None, description="cpu, cuda or mps; null: the best one available.")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay of an exponential moving average of all weights, which is then evaluated and deployed; null: none.",
    )
    label_loss: Literal["cross_entropy", "binary_cross_entropy"] = Field(
        "cross_entropy", description="Loss on the labels; binary_cross_entropy is summed over the classes."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Fraction of the target probability spread evenly over all classes."
    )
    class_weights: Literal["none", "balanced"] | list[Annotated[float, Field(ge=0)]] = Field(
        "none",
        description="Weight of each class in the loss: none, a list with one factor per class, or balanced (inversely proportional to class frequency).",
    )
    select: Literal["auto", "last", "best"] = Field(
        "auto",
        description="Epoch whose weights are deployed; best: by the task's first figure on validation (top-1 for classification); auto: best with `patience`, else last. The run's recipe records the choice.",
    )
    patience: Positive | None = Field(
        None,
        description="Early stopping: end training after this many evaluations without improvement of the task's first figure on validation. The learning-rate schedule still spans all `epochs`.",
    )
    evaluate_test: bool = Field(
        True,
        description="Evaluate on the test split at the end. false leaves it unused, for runs that serve to choose something: their figures are those of the validation split.",
    )
    evaluate_every: Positive = Field(1, description="Epochs between evaluations on the validation split.")
    log_every: Positive = Field(
        50, description="Steps between logged rows of training losses, and between checks for non-finite values."
    )
    checkpoint_steps: Positive | None = Field(
        None, description="Steps between checkpoints within an epoch; null: one checkpoint per epoch."
    )
    trackers: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], BeforeValidator(_several)] = Field(
        default_factory=list,
        description="Experiment trackers that receive figures in addition to metrics.jsonl; each needs its extra.",
    )


class TeacherRecipe(Located):
    """A frozen teacher: the student of a finished run, or a network with its weights."""

    places: ClassVar[tuple[str, ...]] = ("run", "network")

    run: Text | None = Field(None, description="Folder of a finished coterie run, whose student is the teacher.")
    network: Text | None = Field(None, description="A network with its weights.")


class TaskSettings(NamedTuple):
    """The sections of a recipe that a task defines."""

    data: type[DataRecipe]
    network: type[NetworkRecipe] = NetworkRecipe
    teacher: type[TeacherRecipe] = TeacherRecipe
    method: type[MethodRecipe] = MethodRecipe


class TeachingRecipe(Section):
    """How teachers are added to a method that has none (OKDMDE, DML, ...): a divergence term for every student."""

    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Weight of the divergence from the teachers.")
    temperature: Annotated[float, Field(gt=0)] = Field(
        4.0, description="Softmax temperature of students and teachers in the divergence."
    )
    combination: Literal["mean_probability", "mean_logit"] = Field(
        "mean_probability",
        description="How predictions of several teachers are averaged: as probabilities or as logits.",
    )
