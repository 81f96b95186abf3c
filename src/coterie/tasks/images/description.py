"""Schema of ``student.json`` of an image run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from coterie.run_schema import ClassStudent, Content, Side


class TeacherNote(Content):
    """The architecture of a finished run's teacher."""

    network: str | None
    options: dict[str, Any] = Field(default_factory=dict)
    image_size: Side | None = None


class ImageStudent(ClassStudent):
    options: dict[str, Any]
    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)]
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming", "random"]
    crop: Annotated[float, Field(gt=0, le=10)]
    teachers: list[TeacherNote] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_channels(self) -> ImageStudent:
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise ValueError(f"expected a mean and a std for each of {self.input_size[0]} channel(s)")
        return self
