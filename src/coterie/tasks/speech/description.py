"""Schema of ``student.json`` of a speech run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from coterie.run_schema import Content, Student


class SpeechTeacherNote(Content):
    network: str
    config: dict[str, Any]
    normalize: bool


class SpeechStudent(Student):
    """``normalize``: whether its clips are normalised to mean 0 and variance 1."""

    task: Literal["speech"]
    config: dict[str, Any]
    sample_rate: Annotated[int, Field(ge=1)]
    normalize: bool
    teachers: list[SpeechTeacherNote] = Field(min_length=1)
