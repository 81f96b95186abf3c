"""Recipe sections specific to ``task=language_modeling``: ``data``, ``network``, ``method`` and ``teacher``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field, model_validator

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
    TeacherRecipe,
    Text,
)


class LanguageData(DataRecipe):
    """The training documents of a language model, and how rows of tokens are made of them."""

    names: ClassVar = {
        "stdlib": "docstrings of the standard library of the running Python; needs no network",
        "FILE": "a text file; or rows (.csv, .tsv, .json, .jsonl, .parquet) of texts, prompts and completions, or chats",
        "FOLDER": "such files, in train/, val/ and test/ or without these sub-folders",
        "hf-text://USER/NAME": "a data set of the Hugging Face Hub (extra `hub`)",
    }

    name: Text = Field(
        "stdlib",
        description="stdlib (docstrings of Python's standard library), a file (.txt, .csv, .tsv, .json, .jsonl, .parquet), a folder of such files, or hf-text://user/dataset.",
    )
    text: str | None = Field("text", description="Column of full texts; null: none.")
    prompt: str | None = Field("prompt", description="Column of prompts, read together with `completion`.")
    completion: str | None = Field("completion", description="Column of completions, read together with `prompt`.")
    messages: str | None = Field(
        "messages",
        description="Column of chats, lists of {role, content}, formatted with the tokenizer's chat template.",
    )
    block_length: Annotated[int, Field(ge=2)] = Field(
        256,
        description="Tokens per row. 256 suits small models and short documents on a CPU; long-range dependencies of a pretrained network need 1024 or more.",
    )
    packing: Literal["auto", "packed", "documents"] = Field(
        "auto",
        description="packed: documents are concatenated, separated by the end-of-text token, and cut into rows of `block_length` tokens. documents: one document per row, truncated to `block_length`. auto: packed for texts, documents for prompts and chats.",
    )
    loss_on: Literal["auto", "all", "completion"] = Field(
        "auto",
        description="Tokens that the loss covers: all, or only completions and the assistant's turns. auto: completion if the data have prompts or chats.",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Fraction of the training documents (stdlib: of the modules) held out as the validation split if the data have none; 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Fraction of the documents held out as the test split if the data have none, before `validation` is split off; an existing validation split stays the validation split. 0: none. auto: 0.2 if the data have neither split; a validation split alone becomes the test split.",
    )
    train_limit: Positive | None = Field(None, description="Keep this many training documents.")
    stream: Positive | None = Field(
        None,
        description="hf-text:// only: read the first N documents of each split over the network and download no more; null: download all.",
    )


class LoraSettings(Section):
    """LoRA: small trained matrices beside frozen weights; they are merged into the weights of the deployed student."""

    rank: Positive | None = Field(
        None, description="Rank of the LoRA matrices; null: no LoRA, all weights are trained."
    )
    alpha: Positive = Field(16, description="LoRA scaling: the update is multiplied by alpha / rank.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout on the input of the LoRA matrices.")
    targets: Text | list[str] | None = Field(
        None,
        description="Names of the layers that get LoRA, as a list or separated by commas, or all-linear (all but the output embedding); null: peft's default for the architecture.",
    )

    @model_validator(mode="after")
    def _require_rank(self) -> LoraSettings:
        if self.targets == []:
            raise ValueError("targets is empty; name layers, or leave it out")
        if self.rank is None:
            for key, field in type(self).model_fields.items():
                if getattr(self, key) != field.default:
                    raise ValueError(f"{key} has no effect without network.lora.rank")
        return self


class LanguageNetwork(NetworkRecipe):
    """The causal language models to train: a folder, a name on the Hub, a .gguf file, or a .json file with the values of a configuration."""

    name: Text | list[str] | None = Field(
        AUTO,
        description="A folder written by save_pretrained, a Hugging Face Hub name, a .gguf file, a .json file with configuration values, or a list of these for different students; auto: a small Llama defined by this task.",
    )
    pretrained: bool | Auto = Field(
        AUTO, description="Start from the weights of the folder, Hub name or file; auto: if there are any."
    )
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings())
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Indices of the pretrained layers to keep, from 0; null: all."
    )
    every: Positive | None = Field(
        None, description="Keep every N-th pretrained layer, starting with the first; null: all."
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute each layer's activations in the backward pass instead of storing them: less memory, more time.",
    )


class LanguageTeacher(TeacherRecipe):
    """A causal language model as teacher, with the students' tokenizer: a finished run, a folder, a name on the Hub or a .gguf file."""

    network: Text | None = Field(
        None, description="A folder with the weights, a Hugging Face Hub name, or a .gguf file."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Data type of the teacher's weights; bfloat16 takes half the memory."
    )


class LanguageMethod(MethodRecipe):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    name: str = Field(
        "dml",
        description="Name of the method; dml trains two students that teach one another. With a teacher, set a method that uses one: rlkd, kd. See `coterie list methods`.",
    )


SETTINGS = TaskSettings(LanguageData, LanguageNetwork, LanguageTeacher, LanguageMethod)


def data_of(recipe: Recipe) -> LanguageData:
    """Return the recipe's ``data``, typed for language models."""
    return cast(LanguageData, recipe.data)


def network_of(recipe: Recipe) -> LanguageNetwork:
    """Return the recipe's ``network``, typed for language models."""
    return cast(LanguageNetwork, recipe.network)
