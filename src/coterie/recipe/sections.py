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

    name: Text = Field("", description="Which data.")
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of the training samples held out, where the data bring no validation split; 0: none."
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Share held out as the test split, before validation, where the data bring none; their validation split then stays validation. 0: none. auto: a fifth where they bring neither, and a lone validation split is the test split.",
    )
    validation_seed: int = Field(
        0, description="Seed of both splits; apart from `seed`, so that all seeds share one split."
    )
    train_limit: Positive | None = Field(None, description="Keep this many training samples.")
    views: Literal["auto", "shared", "per_student"] = Field(
        "auto", description="One augmented view for all students, or one for each; auto: what the method asks for."
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
        description="Share of the training samples held out, stratified and seeded, where the data bring no validation split; 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Share of each class held out as the test split, before validation, where the data bring none; their validation split then stays validation. 0: none. auto: a fifth where they bring neither, and a lone validation split is the test split.",
    )
    train_limit: Positive | None = Field(
        None, description="Keep this many training samples, the same number of each class."
    )
    incomplete_classes: Literal["refuse", "accept"] = Field(
        "refuse",
        description="A class without training samples, with one sample only where a split is to be carved, or missing from validation or test: stop, or go on without.",
    )


class NetworkRecipe(Located):
    """Network settings that all tasks share."""

    places: ClassVar[tuple[str, ...]] = ("name",)

    name: Text | list[str] | None = Field(AUTO, description="The network, or a list of them for different students.")
    pretrained: bool | Auto = Field(
        AUTO, description="Start from weights that are there; auto: where they are to be had."
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
        """Returns the start and end of each stretch with its own schedule, as numbers of finished epochs."""
        bounds = [0, *self.restarts, epochs]
        return list(pairwise(bounds))


class TrainingRecipe(Section):
    epochs: Positive | Auto = Field(AUTO, description="Passes over the training samples.")
    batch_size: Positive | Auto = Field(AUTO, description="Samples a step over all processes.")
    accumulate: Positive = Field(1, description="Batches whose gradients are added up before the optimizer steps.")
    clip_gradient: Annotated[float, Field(gt=0)] | None = Field(None, description="Largest norm of the gradient.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="bf16 and fp16: mixed precision.")
    compile: bool = Field(False, description="Compile the training step with torch.compile.")
    cuda_graph: bool = Field(
        True,
        description="On a CUDA device, record the forward and backward pass once and replay it: one launch a step, the same results. Not with several processes, `accumulate`, `shard` or fp16.",
    )
    shard: bool = Field(
        False,
        description="Share students, teachers and optimizer out over the processes, block by block (FSDP2), in place of a whole copy in each. Of language models.",
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
        description="Which epoch is deployed; best: by the task's first figure on validation (of classes top-1); auto: best with `patience`, last without, and the run's recipe says which.",
    )
    patience: Positive | None = Field(
        None,
        description="End the training when the task's first figure on validation has not been better for this many evaluations. The learning rate stays planned for all `epochs`.",
    )
    evaluate_test: bool = Field(
        True,
        description="Measure the test split at the end. false leaves it untouched, for runs among which something is chosen: their figures are the validation split's.",
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


class TeacherRecipe(Located):
    """A frozen teacher: the student of a finished run, or a network with its weights."""

    places: ClassVar[tuple[str, ...]] = ("run", "network")

    run: Text | None = Field(None, description="Folder of a finished coterie run, whose student teaches.")
    network: Text | None = Field(None, description="A network with its weights.")


class TaskSettings(NamedTuple):
    """The sections of a recipe that a task defines."""

    data: type[DataRecipe]
    network: type[NetworkRecipe] = NetworkRecipe
    teacher: type[TeacherRecipe] = TeacherRecipe
    method: type[MethodRecipe] = MethodRecipe


class TeachingRecipe(Section):
    """How teachers are added to a method that has none (OKDMDE, DML, ...): a divergence term for every student."""

    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Of the divergence from the teachers.")
    temperature: Annotated[float, Field(gt=0)] = Field(4.0, description="Of both sides.")
    combination: Literal["mean_probability", "mean_logit"] = Field(
        "mean_probability", description="One prediction of several teachers."
    )
