"""Schema of ``student.json`` of a text run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from coterie.run_schema import LARGEST_LENGTH, ClassStudent, Content, Count


class TextTeacherNote(Content):
    network: str
    config: dict[str, Any]
    class_order: list[Count] | None = None
    slot: Annotated[int, Field(ge=0, lt=64)]


class TextStudent(ClassStudent):
    task: Literal["text_classification"]
    config: dict[str, Any]
    configs: list[dict[str, Any]] = Field(min_length=1)
    length: Annotated[int, Field(ge=1, le=LARGEST_LENGTH)]
    teachers: list[TextTeacherNote] = Field(default_factory=list)
