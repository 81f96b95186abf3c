"""The sections ``data``, ``network`` and ``teacher`` of ``task=text_classification``. Nothing heavy is imported."""

from __future__ import annotations

from typing import ClassVar, cast

from pydantic import Field

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


class TextData(ClassDataRecipe):
    """The texts, and their columns."""

    names: ClassVar = {
        "FILE": "rows (.csv, .tsv, .json, .jsonl) with a column of texts, or two, and one of classes",
        "FOLDER": "files of this kind, named train, validation and test",
        "hf-text://USER/NAME": "a data set of the Hugging Face Hub (extra `hub`)",
    }

    name: Text = Field(
        "",
        description="A CSV, TSV, JSON or JSON-lines file, a folder with train, validation and test files, or hf-text://user/dataset.",
    )
    columns: list[str] = Field(
        default_factory=lambda: ["text"],
        min_length=1,
        max_length=2,
        description="Column of the text; two for pairs of texts, such as a question and a sentence.",
    )
    label: str = Field("label", description="Column of the class, as a name or a number.")
    max_length: Positive = Field(
        128, description="Maximum number of tokens of a text or pair; longer ones are truncated."
    )


class TextNetwork(NetworkRecipe):
    """Sequence classifiers of transformers; students share no trunk."""

    name: Text | list[str] | None = Field(
        AUTO,
        description="A folder with config.json and tokenizer, a Hugging Face Hub name, or a list of these for students of different architectures.",
    )
    pretrained: bool | Auto = Field(
        AUTO, description="Start from the weights of the folder or Hub name; auto: if there are any."
    )


class TextTeacher(TeacherRecipe):
    """A frozen teacher: a finished run, or a folder or Hub name with its weights."""

    network: Text | None = Field(None, description="A folder with the weights, or a Hugging Face Hub name.")


SETTINGS = TaskSettings(TextData, TextNetwork, TextTeacher)


def data_of(recipe: Recipe) -> TextData:
    """Returns the recipe's ``data``, typed for texts."""
    return cast(TextData, recipe.data)
