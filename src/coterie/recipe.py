"""What a run is: the settings, their defaults and bounds, YAML in and out, and ``key=value`` overrides.

Knows nothing of torch. What only a network or a method can judge (a split point, a constructor argument of a method)
is checked where that network or method is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from coterie.errors import CoterieError, did_you_mean

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


def _text(value: object) -> object:
    """A path object is as good as its text."""
    return str(value) if isinstance(value, Path) else value


Text = Annotated[str, BeforeValidator(_text)]


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
    validation_seed: int = Field(
        0, description="Seed of that split; apart from `seed`, so that all seeds share one split."
    )
    train_limit: Positive | None = Field(
        None, description="Keep this many training images, the same number of each class."
    )
    image_size: Positive | None = Field(
        None, description="Side in pixels to which images are brought; null: the data's or the network's."
    )
    normalize: Literal["auto", "data", "network", "none"] = Field(
        "auto",
        description="Mean and standard deviation: the network's where it is pretrained, else the data set's (auto).",
    )
    crop_padding: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="Zero padding before the random crop of small images; null: an eighth of the side (4 at 32 pixels).",
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


class NetworkRecipe(Section):
    name: Text | list[str] | None = Field(
        None, description="A timm name, or a list of names for students of different architectures; null: tiny_cifar."
    )
    pretrained: bool = Field(False, description="Start from timm's pretrained weights.")
    branches: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Number of students; null: the method's default."
    )
    at: str | None = Field(
        None,
        description="Module before which the network is split, `auto`, or `peers` (nothing shared); null: the method's default.",
    )
    trunk_gradient: Literal["sum", "mean"] = Field("sum", description="How the branches' gradients meet at the split.")
    options: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of timm.create_model.")


class MethodRecipe(BaseModel):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field("okdmde", description="See `coterie list methods`, or package.module:Class.")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class OptimizerRecipe(Section):
    name: str = Field("sgd", description="Any optimizer of timm; sgd is Nesterov's.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(0.1, description="The largest rate, after the warm-up.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4, description="Also of normalisation layers and biases.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Of optimizers that have one.")
    exclude_norm_and_bias: bool = Field(
        False, description="No weight decay on vectors and scalars; the papers decay everything."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of the optimizer.")


class ScheduleRecipe(Section):
    name: Literal["constant", "cosine", "multistep", "step", "poly", "tanh"] = Field(
        "cosine", description="How the rate falls; it moves at every step."
    )
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(0.0, description="Epochs over which the rate rises first.")
    warmup_learning_rate: Annotated[float, Field(ge=0)] = Field(1e-5, description="Where the warm-up starts.")
    minimum_learning_rate: Annotated[float, Field(ge=0)] = Field(0.0, description="Where cosine, poly and tanh end.")
    milestones: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: [0.5, 0.75], description="multistep: where the rate falls, as fractions of training."
    )
    decay_rate: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="multistep, step: factor of each fall.")
    decay_epochs: Annotated[float, Field(gt=0)] = Field(30, description="step: epochs between two falls.")


class TrainingRecipe(Section):
    epochs: Positive = Field(30, description="Passes over the training images.")
    batch_size: Positive = Field(128, description="Images a step over all processes.")
    accumulate: Positive = Field(1, description="Batches whose gradients are added up before the optimizer steps.")
    clip_gradient: Annotated[float, Field(gt=0)] | None = Field(None, description="Largest norm of the gradient.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="bf16 and fp16: mixed precision.")
    compile: bool = Field(False, description="Compile the training step with torch.compile.")
    channels_last: bool = Field(True, description="Memory format of images and convolutions.")
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
    select: Literal["last", "best"] = Field("last", description="Which epoch is deployed; best: by validation top-1.")
    evaluate_every: Positive = Field(1, description="Epochs between evaluations on the validation split.")
    log_every: Positive = Field(
        50, description="Steps between rows of training losses, and between checks for values that are not finite."
    )
    checkpoint_steps: Positive | None = Field(
        None, description="Steps between checkpoints within an epoch; null: one an epoch."
    )
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        default_factory=list, description="Where figures are sent besides metrics.jsonl; each needs its extra."
    )


SECTIONS = ("data", "network", "method")


class Recipe(Section):
    """Everything that determines a run. ``data: digits`` is short for ``data: {name: digits}``."""

    data: DataRecipe = Field(default_factory=lambda: DataRecipe())
    network: NetworkRecipe = Field(default_factory=lambda: NetworkRecipe())
    method: MethodRecipe = Field(default_factory=lambda: MethodRecipe())
    optimizer: OptimizerRecipe = Field(default_factory=lambda: OptimizerRecipe())
    schedule: ScheduleRecipe = Field(default_factory=lambda: ScheduleRecipe())
    training: TrainingRecipe = Field(default_factory=lambda: TrainingRecipe())
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="before")
    @classmethod
    def _expand_names(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        short = {k: {"name": v} for k, v in value.items() if k in SECTIONS and isinstance(v, (str, list, Path))}
        return {**value, **short}

    @model_validator(mode="after")
    def _check_together(self) -> Recipe:
        if self.schedule.warmup_epochs >= self.training.epochs:
            raise ValueError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g} must be below training.epochs={self.training.epochs}"
            )
        if self.training.label_smoothing and self.training.label_loss == "binary_cross_entropy":
            raise ValueError("training.label_smoothing applies to training.label_loss=cross_entropy only")
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe | None = None, overrides: Iterable[str] = (), **sections: Any
) -> Recipe:
    """Build a recipe from a YAML file, a mapping or nothing, then ``key=value`` overrides, then keyword sections.

    Args:
        source: path of a YAML file, nested mapping, a recipe, or None for the defaults.
        overrides: ``"section.key=value"`` strings; values are read as YAML. ``"data=digits"`` sets ``data.name``.
        sections: ``training={"epochs": 3}`` or ``data="digits"``.

    Raises:
        CoterieError: a missing or malformed file, an unknown key (with the nearest right spelling) or a wrong value.
    """
    tree = _read(source)
    for name, value in sections.items():
        _merge(tree, name, value)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise CoterieError(f"{override!r} is not a setting: expected key=value, such as training.epochs=30")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        value = _number_with_exponent(value)
        parent, _, last = key.rpartition(".")
        _merge(tree, parent or last, {last: value} if parent else value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise CoterieError(_explain(error)) from None


def _number_with_exponent(value: object) -> object:
    """YAML 1.1 reads 5e-8 as text, because it has no point; people who type it mean a number."""
    if isinstance(value, str):
        try:
            return float(value) if value[:1] in "+-.0123456789" and "e" in value.lower() else value
        except ValueError:
            return value
    if isinstance(value, dict):
        return {k: _number_with_exponent(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_number_with_exponent(v) for v in value]
    return value


def _read(source: str | Path | Mapping[str, Any] | Recipe | None) -> dict[str, Any]:
    if source is None:
        return {}
    if isinstance(source, Recipe):
        return source.model_dump()
    if isinstance(source, Mapping):
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in source.items()}
    path = Path(source)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CoterieError(f"cannot read the recipe {str(path)!r}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CoterieError(f"{str(path)!r} is not a YAML recipe: {' '.join(str(error).split())[:200]}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise CoterieError(
            f"{str(path)!r} is not a recipe: expected keys such as data, network, method; found {type(tree).__name__}"
        )
    return _number_with_exponent(tree)  # type: ignore[return-value]


def _merge(tree: dict[str, Any], key: str, value: object) -> None:
    """Set ``tree[key]`` in place; a mapping is merged into what is there, a name replaces the section's name."""
    head, _, rest = key.partition(".")
    if rest:
        value = {rest.partition(".")[0]: value} if "." not in rest else _nest(rest, value)
    old = tree.get(head)
    if isinstance(old, (str, list)) and head in SECTIONS:
        old = {"name": old}
    if isinstance(value, (str, list, Path)) and head in SECTIONS:
        value = {"name": value}
    if isinstance(old, Mapping) and isinstance(value, Mapping):
        merged = dict(old)
        for inner, item in value.items():
            _merge(merged, inner, item)
        value = merged
    tree[head] = value


def _nest(key: str, value: object) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nest(rest, value) if rest else value}


def _explain(error: ValidationError) -> str:
    """The first problem in one line, in the user's words."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"] if not str(part).startswith(("constrained", "list[", "literal["))]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = known_keys()
        inside = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
        near = did_you_mean(key, inside) or did_you_mean(key, known)
        listing = "" if near else f"; expected one of {', '.join(k.rpartition('.')[2] for k in inside)}"
        return f"unknown setting {key!r}{near}{listing}"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}={first['input']!r}: {message[0].lower()}{message[1:]}"


def known_keys() -> list[str]:
    """Every setting's full name, such as ``training.epochs``; a method's own settings come with the method."""
    keys = []
    for name, field in Recipe.model_fields.items():
        keys.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += [f"{name}.{inner}" for inner in field.annotation.model_fields]
    return keys


def differing_keys(first: Recipe, second: Recipe) -> list[str]:
    """Names of the settings in which two recipes differ."""

    def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        return flat

    left, right = flatten(first.model_dump(mode="json")), flatten(second.model_dump(mode="json"))
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
