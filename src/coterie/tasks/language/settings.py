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
        "stdlib": "docstrings of Python's standard library, as this Python has them; needs no network",
        "FILE": "a text file; or rows (.csv, .tsv, .json, .jsonl, .parquet) of texts, prompts and completions, or chats",
        "FOLDER": "such files, in train/, val/ and test/ or alone",
        "hf-text://USER/NAME": "a data set of the Hugging Face Hub (extra `hub`)",
    }

    name: Text = Field(
        "stdlib",
        description="stdlib (docstrings of Python's standard library), a file (.txt, .csv, .tsv, .json, .jsonl, .parquet), a folder of such files, or hf-text://user/dataset.",
    )
    text: str | None = Field("text", description="Column of whole texts; null: there is none.")
    prompt: str | None = Field("prompt", description="Column of prompts, read together with `completion`.")
    completion: str | None = Field("completion", description="Column of completions, read together with `prompt`.")
    messages: str | None = Field(
        "messages",
        description="Column of chats, lists of {role, content}, written out by the tokenizer's chat template.",
    )
    block_length: Annotated[int, Field(ge=2)] = Field(
        256,
        description="Tokens a row. 256 suits small models and short documents on a CPU; a pretrained network learns its long range from 1024 and more.",
    )
    packing: Literal["auto", "packed", "documents"] = Field(
        "auto",
        description="packed: documents one after the other, the end-of-text token between them, cut every `block_length` tokens. documents: one a row, cut off at `block_length`. auto: packed for texts, documents for prompts and chats.",
    )
    loss_on: Literal["auto", "all", "completion"] = Field(
        "auto",
        description="Which tokens are learnt: all, or completions and the assistant's turns only. auto: completion where there are prompts or chats.",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Share of the training documents held out where the data bring no validation split (of stdlib: of the modules); 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Share of the documents held out as the test split, before validation, where the data bring none; their validation split then stays validation. 0: none. auto: a fifth where they bring neither, and a lone validation split is the test split.",
    )
    train_limit: Positive | None = Field(None, description="Keep this many training documents.")
    stream: Positive | None = Field(
        None,
        description="hf-text:// only: read the first so many documents of each split over the network and download no more; null: download all.",
    )


class LoraSettings(Section):
    """LoRA: small trained matrices beside frozen weights; they are merged into the weights of the deployed student."""

    rank: Positive | None = Field(None, description="Of the matrices that are added; null: no LoRA, all is trained.")
    alpha: Positive = Field(16, description="What is added counts by alpha / rank.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Of what goes into the added matrices.")
    targets: Text | list[str] | None = Field(
        None,
        description="Names of the layers that get them, a list or parted by commas, or all-linear (but the output embedding); null: peft's own for the architecture.",
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
        description="A folder as save_pretrained writes it, a name of the Hugging Face Hub, a .gguf file, a .json file of a configuration's values, or a list of these for different students; auto: a small Llama of the task's own.",
    )
    pretrained: bool | Auto = Field(
        AUTO, description="Start from the folder's, the Hub's or the file's weights; auto: where there are some."
    )
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings())
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Numbers of the layers of the weights that are kept, from 0; null: all."
    )
    every: Positive | None = Field(None, description="Keep each so-manieth layer of the weights, the first one always.")
    gradient_checkpointing: bool = Field(
        False,
        description="Compute each layer's activations once more in the backward pass instead of keeping them: less memory, more time.",
    )


class LanguageTeacher(TeacherRecipe):
    """A causal language model as teacher, with the students' tokenizer: a finished run, a folder, a name on the Hub or a .gguf file."""

    network: Text | None = Field(
        None, description="A folder with its weights, a name of the Hugging Face Hub, or a .gguf file."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of its weights; bfloat16 takes half the memory."
    )


class LanguageMethod(MethodRecipe):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    name: str = Field(
        "dml",
        description="Two students that teach one another; with a teacher, name one that it serves: rlkd, kd. See `coterie list methods`.",
    )


SETTINGS = TaskSettings(LanguageData, LanguageNetwork, LanguageTeacher, LanguageMethod)


def data_of(recipe: Recipe) -> LanguageData:
    """Return the recipe's ``data``, typed for language models."""
    return cast(LanguageData, recipe.data)


def network_of(recipe: Recipe) -> LanguageNetwork:
    """Return the recipe's ``network``, typed for language models."""
    return cast(LanguageNetwork, recipe.network)
