"""Reads and writes recipes: YAML, and ``key=value`` overrides. The settings are defined in ``coterie.recipe.sections``.

This module does not import torch. Settings that only a network or a method can validate (a split point, an argument of a method's
constructor) are checked when that network or method is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo

from coterie.errors import CoterieError
from coterie.recipe.errors import explain
from coterie.recipe.sections import (
    AUTO,
    DataRecipe,
    MethodRecipe,
    NetworkRecipe,
    OptimizerRecipe,
    ScheduleRecipe,
    Section,
    TaskSettings,
    TeacherRecipe,
    TeachingRecipe,
    TrainingRecipe,
)
from coterie.recipe.tree import SECTIONS, changes_of, merge, read_tree
from coterie.tasks import UNNAMED, find_part, known_tasks

OLDER_TEXTS = {"columns": ["text"], "label": "label", "max_length": 128}  # defaults of a former section
BY_TASK = tuple(TaskSettings._fields)  # sections that each task defines


class Recipe(Section):
    """All settings of a run. ``data: digits`` is short for ``data: {name: digits}``.

    A loaded recipe is an instance of the task's subclass (:func:`recipe_of`), whose sections ``data``, ``network``, ``method`` and ``teacher``
    are defined by the task.
    """

    task: str = Field(UNNAMED, description="Name of the task, see `coterie list tasks`.")
    data: DataRecipe = Field(default_factory=lambda: DataRecipe())
    network: NetworkRecipe = Field(default_factory=lambda: NetworkRecipe())
    method: MethodRecipe = Field(default_factory=lambda: MethodRecipe())
    optimizer: OptimizerRecipe = Field(default_factory=lambda: OptimizerRecipe())
    schedule: ScheduleRecipe = Field(default_factory=lambda: ScheduleRecipe())
    training: TrainingRecipe = Field(default_factory=lambda: TrainingRecipe())
    teacher: TeacherRecipe | None = None
    teachers: list[TeacherRecipe] = Field(default_factory=list, description="Several teachers.")
    teaching: TeachingRecipe = Field(default_factory=lambda: TeachingRecipe())
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="Seed of the run: initial weights, order of samples, augmentation."
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_names(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        short = {k: {"name": v} for k, v in value.items() if k in SECTIONS and isinstance(v, (str, list, Path))}

        def taught(entry: object) -> object:
            return {"run": str(entry)} if isinstance(entry, (str, Path)) else entry

        if "teacher" in value:
            short["teacher"] = taught(value["teacher"])  # type: ignore[assignment]
        if isinstance(value.get("teachers"), list):
            short["teachers"] = [taught(entry) for entry in value["teachers"]]  # type: ignore[assignment]
        return {**value, **short}

    @model_validator(mode="after")
    def _check_together(self) -> Recipe:
        epochs, warmup = self.training.epochs, self.schedule.warmup_epochs
        stretches = [] if epochs == AUTO else self.schedule.stretches(epochs)
        if any(end <= start for start, end in stretches):
            raise ValueError(
                f"schedule.restarts={self.schedule.restarts}: expected rising numbers below training.epochs={epochs}"
            )
        shortest = min((end - start for start, end in stretches), default=None)
        if warmup != AUTO and shortest is not None and warmup >= shortest:
            bound = f"training.epochs={shortest}" if len(stretches) == 1 else f"the {shortest} epochs between restarts"
            raise ValueError(f"schedule.warmup_epochs={warmup:g} must be below {bound}")
        if self.training.label_smoothing and self.training.label_loss == "binary_cross_entropy":
            raise ValueError("training.label_smoothing applies to training.label_loss=cross_entropy only")
        if self.teacher is not None and self.teachers:
            raise ValueError("set teacher (one) or teachers (a list), not both")
        return self

    def all_teachers(self) -> list[TeacherRecipe]:
        """Returns the recipe's teachers: none, one or several."""
        return [self.teacher] if self.teacher is not None else list(self.teachers)

    @property
    def without_effect(self) -> set[str]:
        """Settings that do not affect results, only speed or tracking."""
        return {"training.trackers", *(f"data.{key}" for key in self.data.without_effect)}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles by value, because the classes of tasks are created at run time."""
        return load_recipe, (self.model_dump(),)


def recipe_of(task: str) -> type[Recipe]:
    """Returns the class of a task's recipes.

    Raises:
        CoterieError: the task is unknown.
    """
    return _with_settings(find_part(task, "settings"))


@lru_cache
def _with_settings(settings: TaskSettings) -> type[Recipe]:
    """Creates a subclass of :class:`Recipe` with a task's sections."""
    teacher: Any = settings.teacher
    fields: dict[str, Any] = {
        "data": (settings.data, Field(default_factory=settings.data)),
        "network": (settings.network, Field(default_factory=settings.network)),
        "method": (settings.method, Field(default_factory=settings.method)),
        "teacher": (teacher | None, None),
        "teachers": (
            list[teacher],
            Field(default_factory=list, description=Recipe.model_fields["teachers"].description),
        ),
    }
    return create_model("Recipe", __base__=Recipe, __module__=__name__, **fields)


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe | None = None,
    overrides: Iterable[str] = (),
    *,
    trust_code: bool = False,
    **sections: Any,
) -> Recipe:
    """Build a recipe from a YAML file, a mapping or the defaults, then apply keyword sections, then ``key=value`` overrides.

    Args:
        source: path of a YAML file, nested mapping, a recipe, or None for the defaults.
        overrides: ``"section.key=value"`` strings; values are parsed as YAML. ``"data=digits"`` sets ``data.name``.
        trust_code: whether a file may name a method by ``package.module:Class``, which is imported when the recipe is used. Overrides,
            mappings and sections come from the caller and are trusted.
        sections: ``training={"epochs": 3}`` or ``data="digits"``.

    Raises:
        CoterieError: the file is missing or malformed, a key is unknown (with the nearest known spelling), a value is invalid, or
            the file names code without ``trust_code``.
    """
    tree, typed = read_tree(source), dict[str, Any]()
    for name, value in changes_of(overrides, sections):
        merge(tree, name, value)
        merge(typed, name, value)
    task = tree.get("task", UNNAMED)
    if not isinstance(task, str):
        raise CoterieError(f"task={task!r}: expected one of {', '.join(known_tasks())}")
    try:
        recipe = recipe_of(task).model_validate(_of_today(tree, task))
    except ValidationError as error:
        raise CoterieError(
            explain(error, known_keys(task), {each: known_keys(each) for each in known_tasks()})
        ) from None
    is_own_word = isinstance(typed.get("method"), Mapping) and "name" in typed["method"]
    if isinstance(source, (str, Path)) and not trust_code and not is_own_word:
        require_no_code(recipe, str(source))
    return recipe


def _of_today(tree: dict[str, Any], task: str) -> dict[str, Any]:
    """Converts the tree of an older recipe, from before each task had its own settings and when every recipe had all sections.

    Settings of the recipe's task are kept, and default values of other tasks' settings are dropped. Other values stay, and are refused
    by validation.
    """
    texts = tree.get("text")
    if not isinstance(texts, Mapping):
        return tree
    tree = {key: value for key, value in tree.items() if key != "text"}
    settings, general = find_part(task, "settings"), find_part(UNNAMED, "settings")

    def own(section: object, part: str) -> object:
        if not isinstance(section, Mapping):
            return section
        others = {
            key: field
            for key, field in getattr(general, part).model_fields.items()
            if key not in getattr(settings, part).model_fields
        }
        return {
            key: value
            for key, value in section.items()
            if key not in others or value != others[key].get_default(call_default_factory=True)
        }

    tree |= {part: own(tree[part], part) for part in BY_TASK if part in tree}
    if isinstance(tree.get("teachers"), list):
        tree["teachers"] = [own(each, "teacher") for each in tree["teachers"]]
    known = settings.data.model_fields
    changed = {key: value for key, value in texts.items() if key in known or value != OLDER_TEXTS.get(key)}
    if changed:
        merge(tree, "data", changed)
    return tree


def require_no_code(recipe: Recipe, source: str) -> None:
    """Refuse a recipe from a file whose method is code to import rather than one of coterie's.

    Raises:
        CoterieError: the method is code to import.
    """
    if ":" in recipe.method.name:
        raise CoterieError(
            f"{source!r} names code to import, method={recipe.method.name[:80]}; "
            "if you trust it, add --trust-code (in Python trust_code=True)"
        )


def section_of(annotation: object) -> type[BaseModel] | None:
    """Returns the section class of a field, optional or not; None for a plain value or a list."""
    for kind in (annotation, *get_args(annotation)) if get_origin(annotation) is not list else ():
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def settings_in(name: str, field: FieldInfo) -> dict[str, FieldInfo]:
    """Returns the settings of a section by full name, nested sections included; a plain value gives itself."""
    section = section_of(field.annotation)
    if section is None:
        return {name: field}
    return {
        key: each
        for inner, inside in section.model_fields.items()
        for key, each in settings_in(f"{name}.{inner}", inside).items()
    }


def known_keys(task: str = UNNAMED) -> list[str]:
    """Returns every setting's full name, such as ``training.epochs``, except the settings of methods."""
    fields = recipe_of(task).model_fields
    return [key for name, field in fields.items() for key in dict.fromkeys([name, *settings_in(name, field)])]


def differing_keys(first: Recipe, second: Recipe) -> list[str]:
    """Returns the names of the settings in which two recipes differ."""

    def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        return flat

    left, right = flatten(first.model_dump(mode="json")), flatten(second.model_dump(mode="json"))
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
