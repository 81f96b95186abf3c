"""Schema of ``student.json`` of a restoration run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from coterie.run_schema import LARGEST_SIDE, Content, Count, Student

Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class Generator(Content):
    """Arguments with which :func:`coterie.networks.one_step.generator.build_generator` builds the network."""

    unet: dict[str, Any]
    latents: dict[str, Any]
    lora: dict[str, Any] | None
    scale: Annotated[int, Field(ge=1, le=16)]
    timestep: Count
    steps: Annotated[int, Field(ge=1, le=100_000)]
    tokens: Annotated[int, Field(ge=1, le=4096)]
    learn_embedding: bool


class RestorationStudent(Student):
    """``tile`` and ``overlap`` in large pixels; ``crop``: size of the training squares; ``method_options``: replace the recipe's options when the
    method is rebuilt without its initial weights.
    """

    task: Literal["restoration"]
    generator: Generator
    crop: Side
    tile: Side
    overlap: Count
    method_options: dict[str, Any]
