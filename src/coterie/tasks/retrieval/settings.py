"""Recipe sections specific to ``task=retrieval``: ``data``, ``network``, ``method`` and ``teacher``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field

from coterie.recipe import Recipe
from coterie.recipe.sections import (
    AUTO,
    Auto,
    DataRecipe,
    MethodRecipe,
    NetworkRecipe,
    Positive,
    TaskSettings,
    TeacherRecipe,
    Text,
)


class RetrievalData(DataRecipe):
    """Pairs of queries and documents, and unlabelled queries."""

    places: ClassVar[tuple[str, ...]] = ("name", "unlabelled")
    names: ClassVar = {
        "stdlib": "docstrings of Python's standard library, first sentence to the rest, as this Python has them; needs no network",
        "FILE": "rows (.csv, .tsv, .json, .jsonl, .parquet) of a query and its document",
        "FOLDER": "such files by split, or a folder of BEIR: corpus.jsonl, queries.jsonl, qrels/",
        "hf-text://USER/NAME": "a data set of the Hugging Face Hub (extra `hub`)",
    }

    name: Text = Field(
        "stdlib",
        description="stdlib (docstrings of Python's standard library), a file of pairs (.csv, .tsv, .json, .jsonl, .parquet), a folder of such files, a folder as BEIR has it, or hf-text://user/dataset.",
    )
    query: str = Field("query", description="Column of queries.")
    document: str = Field("document", description="Column of the documents that belong to them.")
    negatives: str = Field(
        "negatives",
        description="Column of hard negatives, a document or a list of them, read where there is one: documents that do not belong to the query.",
    )
    max_negatives: Annotated[int, Field(ge=0)] = Field(
        1, description="Of a row's hard negatives that a batch holds besides the documents of its queries."
    )
    unlabelled: Text | None = Field(
        None,
        description="A file of further queries whose documents are not known: one a line (.txt), or rows with the column of queries. Their vectors are matched with the teacher's.",
    )
    pseudo_queries: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Pseudo-queries for each training pair: half of them training queries without some of their words, half spans of training documents. They are treated as unlabelled queries.",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Share of the training queries held out where the data bring no validation split (of stdlib: of the modules); 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Share of the queries held out as the test split, before validation, where the data bring none; their validation split then stays validation. 0: none. auto: a fifth where they bring neither, and a lone validation split is the test split.",
    )
    train_limit: Positive | None = Field(None, description="Keep this many training pairs.")


class RetrievalNetwork(NetworkRecipe):
    """The encoder to train: a folder or name of sentence-transformers or transformers, or a .json file with the values of a configuration."""

    name: Text | None = Field(
        AUTO,
        description="A folder as sentence-transformers or transformers saves it, a name of the Hugging Face Hub, or a .json file of a configuration's values; auto: the teacher's where `layers` are set, else a small BERT.",
    )
    pretrained: bool | Auto = Field(
        AUTO, description="Start from the folder's or the Hub's weights; auto: where there are some."
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Numbers of the layers of the weights that are kept, from 0; null: all."
    )
    documents: Literal["auto", "student", "teacher"] = Field(
        "auto",
        description="Who encodes documents. teacher: the student encodes queries alone, and is compared with the teacher's frozen vectors of documents: an index that stays. auto: the teacher where there is one.",
    )
    projection: bool | Auto = Field(
        AUTO,
        description="A linear layer from the student's width to the teacher's, which is part of the student; auto: where the widths differ.",
    )
    pooling: Literal["auto", "mean", "cls"] = Field(
        "auto",
        description="How token vectors become one, of networks that do not say it themselves; auto: mean.",
    )
    max_length: Positive | None = Field(
        None, description="Tokens of a text at most; null: what the network says, else 256."
    )


class RetrievalTeacher(TeacherRecipe):
    """A dual encoder as teacher (a finished run, a folder or name of sentence-transformers), or a cross-encoder (a folder or name)."""

    network: Text | None = Field(None, description="A folder with its weights, or a name of the Hugging Face Hub.")
    batch_size: Positive = Field(32, description="Texts, or pairs of texts, that it encodes at once.")
    kind: Literal["auto", "dual", "cross"] = Field(
        "auto",
        description="dual: it encodes queries and documents apart. cross: it reads them together, and scores pairs. auto: what the folder says.",
    )
    pooling: Literal["none", "mean", "cls_sep"] = Field(
        "none",
        description="How a cross-encoder gives vectors. none: it gives scores alone. mean: a vector of the query's tokens and one of the document's, of their joint encoding. cls_sep: its first and its last token. With either it is trained first: its head is left out, and the inner product becomes the score.",
    )
    candidates: Positive = Field(
        3,
        description="Documents that a cross-encoder scores with each training query besides its own, and that a batch holds: the data's hard negatives, then BM25's best.",
    )
    scale: Annotated[float, Field(gt=0)] = Field(
        0.05,
        description="Of a cross-encoder's logits: times this they are its scores, which are compared with inner products of vectors of length 1. 0.05 with method.temperature=0.05 gives the softmax of the logits themselves.",
    )
    reranked: Positive = Field(
        20, description="BM25's first documents that a cross-encoder ranks anew for its own figures."
    )
    epochs: Positive = Field(1, description="Of the training with teacher.pooling, over all training pairs.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(5e-5, description="Of the training with teacher.pooling.")


class RetrievalMethod(MethodRecipe):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    name: str = Field(
        "contrastive", description="contrastive: labels alone. With a teacher: embed_distill, margin_mse."
    )


SETTINGS = TaskSettings(RetrievalData, RetrievalNetwork, RetrievalTeacher, RetrievalMethod)


def data_of(recipe: Recipe) -> RetrievalData:
    """Return the recipe's ``data``, typed for retrieval."""
    return cast(RetrievalData, recipe.data)


def network_of(recipe: Recipe) -> RetrievalNetwork:
    """Return the recipe's ``network``, typed for retrieval."""
    return cast(RetrievalNetwork, recipe.network)
