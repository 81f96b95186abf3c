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
        "stdlib": "docstrings of the running Python's standard library: the first sentence is the query, the rest the document; needs no network",
        "FILE": "rows (.csv, .tsv, .json, .jsonl, .parquet) of a query and its document",
        "FOLDER": "such files by split, or a folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/",
        "hf-text://USER/NAME": "a data set of the Hugging Face Hub (extra `hub`)",
    }

    name: Text = Field(
        "stdlib",
        description="stdlib (docstrings of Python's standard library), a file of pairs (.csv, .tsv, .json, .jsonl, .parquet), a folder of such files, a folder in BEIR's layout, or hf-text://user/dataset.",
    )
    query: str = Field("query", description="Column of queries.")
    document: str = Field("document", description="Column of the documents relevant to the queries.")
    negatives: str = Field(
        "negatives",
        description="Column of hard negatives (documents not relevant to the query), one document or a list; read if present.",
    )
    max_negatives: Annotated[int, Field(ge=0)] = Field(
        1,
        description="Maximum number of hard negatives of each pair that a batch holds in addition to the documents of its queries.",
    )
    unlabelled: Text | None = Field(
        None,
        description="File of further queries without known documents: one per line (.txt), or rows with the column of queries. Their vectors are matched to the teacher's.",
    )
    pseudo_queries: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Number of pseudo-queries per training pair: half are training queries with some words dropped, half are spans of training documents. They are treated as unlabelled queries.",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Fraction of the training queries (stdlib: of the modules) held out as the validation split if the data have none; 0: none.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="Fraction of the queries held out as the test split if the data have none, before `validation` is split off; an existing validation split stays the validation split. 0: none. auto: 0.2 if the data have neither split; a validation split alone becomes the test split.",
    )
    train_limit: Positive | None = Field(None, description="Keep this many training pairs.")


class RetrievalNetwork(NetworkRecipe):
    """The encoder to train: a folder or name of sentence-transformers or transformers, or a .json file with the values of a configuration."""

    name: Text | None = Field(
        AUTO,
        description="A folder saved by sentence-transformers or transformers, a Hugging Face Hub name, or a .json file with configuration values; auto: the teacher's network if `layers` is set, else a small BERT.",
    )
    pretrained: bool | Auto = Field(
        AUTO, description="Start from the weights of the folder or Hub name; auto: if there are any."
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Indices of the pretrained layers to keep, from 0; null: all."
    )
    documents: Literal["auto", "student", "teacher"] = Field(
        "auto",
        description="Which encoder encodes documents. teacher: the student encodes queries only and searches the teacher's frozen document vectors, so that an existing index stays valid. auto: teacher if there is one.",
    )
    projection: bool | Auto = Field(
        AUTO,
        description="Add a linear layer from the student's width to the teacher's, as part of the student; auto: if the widths differ.",
    )
    pooling: Literal["auto", "mean", "cls"] = Field(
        "auto",
        description="How token vectors are pooled, for networks without a pooling of their own; auto: mean.",
    )
    max_length: Positive | None = Field(
        None, description="Maximum number of tokens of a text; null: the network's own limit, else 256."
    )


class RetrievalTeacher(TeacherRecipe):
    """A dual encoder as teacher (a finished run, a folder or name of sentence-transformers), or a cross-encoder (a folder or name)."""

    network: Text | None = Field(None, description="A folder with the weights, or a Hugging Face Hub name.")
    batch_size: Positive = Field(32, description="Texts, or pairs of texts, per batch of the teacher.")
    kind: Literal["auto", "dual", "cross"] = Field(
        "auto",
        description="dual: a dual encoder, which encodes queries and documents separately. cross: a cross-encoder, which reads both together and scores the pair. auto: detected from the folder.",
    )
    pooling: Literal["none", "mean", "cls_sep"] = Field(
        "none",
        description="How a cross-encoder's token states are pooled into vectors. none: no vectors, scores only. mean: means over the query's and over the document's tokens of the joint encoding. cls_sep: the first and the last token. With mean or cls_sep it is trained first: its head is removed, and the score is the inner product.",
    )
    candidates: Positive = Field(
        3,
        description="Number of further documents that a cross-encoder scores for each training query, and that a batch holds: the data's hard negatives, then BM25's best.",
    )
    scale: Annotated[float, Field(gt=0)] = Field(
        0.05,
        description="Factor on a cross-encoder's logits; the scaled scores are compared with inner products of unit vectors. 0.05 with method.temperature=0.05 gives the softmax of the logits themselves.",
    )
    reranked: Positive = Field(
        20, description="Number of top BM25 documents that a cross-encoder reranks for its own figures."
    )
    epochs: Positive = Field(
        1, description="Epochs over all training pairs when a cross-encoder is trained (teacher.pooling)."
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        5e-5, description="Learning rate when a cross-encoder is trained (teacher.pooling)."
    )


class RetrievalMethod(MethodRecipe):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    name: str = Field(
        "contrastive",
        description="Name of the method. Without a teacher: contrastive (labels only). With a teacher: embed_distill, margin_mse.",
    )


SETTINGS = TaskSettings(RetrievalData, RetrievalNetwork, RetrievalTeacher, RetrievalMethod)


def data_of(recipe: Recipe) -> RetrievalData:
    """Return the recipe's ``data``, typed for retrieval."""
    return cast(RetrievalData, recipe.data)


def network_of(recipe: Recipe) -> RetrievalNetwork:
    """Return the recipe's ``network``, typed for retrieval."""
    return cast(RetrievalNetwork, recipe.network)
