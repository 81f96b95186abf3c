"""Schema of ``student.json`` of a retrieval run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coterie.run_schema import LARGEST_LENGTH, Content, Count, Student


class Module(Content):
    type: Literal["Transformer", "Pooling", "Dense", "Normalize"]


class Encoder(Content):
    """Output of :func:`coterie.tasks.retrieval.encoders.describe_encoder`."""

    modules: list[Module] = Field(min_length=1)
    max_length: int = Field(ge=1, le=LARGEST_LENGTH)
    prompts: dict[str, str]
    default_prompt: str | None
    similarity: Literal["cosine", "dot"]


class TeacherNote(Content):
    network: str
    digest: str
    width: Count | None  # None for a cross-encoder that returns only scores


class RetrievalStudent(Student):
    """``documents``: who encodes them, the student or the teacher."""

    task: Literal["retrieval"]
    encoder: Encoder
    documents: Literal["student", "teacher"]
    teachers: list[TeacherNote] = Field(max_length=1)
