"""What ``student.json`` must hold of a run of restoration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from coterie.run_schema import LARGEST_SIDE, Content, Count, Student

Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class Generator(Content):
    """How :func:`coterie.networks.one_step.generator.build_generator` builds the network."""

    unet: dict[str, Any]
    latents: dict[str, Any]
    lora: dict[str, Any] | None
    scale: Annotated[int, Field(ge=1, le=16)]
    timestep: Count
    steps: Annotated[int, Field(ge=1, le=100_000)]
    tokens: Annotated[int, Field(ge=1, le=4096)]
    learn_embedding: bool


class RestorationStudent(Student):
    """``tile`` and ``overlap`` in large pixels; ``crop``: of the squares that were trained on; ``method_options``: that stand in for the recipe's when the
    method is built again without the weights that it started from.
    """

    task: Literal["restoration"]
    generator: Generator
    crop: Side
    tile: Side
    overlap: Count
    method_options: dict[str, Any]
