"""The registry of tasks, one row each. Rows hold only names, so importing this module imports no task.

Another package adds a task with an entry point of the group ``coterie.tasks`` whose object is a :class:`Row`; ``coterie.tasks.TASKS["name"] = Row(...)`` adds
one for the current process. A recipe can only name a registered task: recipe files cannot add code.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import MutableMapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, NamedTuple

from coterie.errors import CoterieError, did_you_mean


class Row(NamedTuple):
    """Locations of the parts of a task, each as ``module:name`` except where noted.

    Attributes:
        line: description of the task, in a line; plain text.
        settings: its sections of a recipe, a :class:`coterie.recipe.sections.TaskSettings`; imports nothing heavy.
        figures: its figures, a tuple of :class:`coterie.tasks.figures.Figure`, the primary one first.
        description: schema of its ``student.json``, a :class:`coterie.run_schema.Student`; imports nothing heavy.
        formats: its export formats, a tuple of :class:`coterie.tasks.formats.Format`, the default first; imports nothing heavy.
        card: the template of its exports' model cards, ``package:file``, which fills the blocks ``use`` and ``input`` of ``base``.
        inputs: a function that finds the samples named on a command line. Its arguments are the words, the run folder, and a function that reads the lines
            of standard input. Imports nothing heavy.
        deployed: a module, see :class:`coterie.tasks.task.Deployed`.
        kind: the :class:`coterie.tasks.task.TaskKind`.
        sample: what a sample is called; plain text.
        panels: a function of a run folder that returns additional parts of its report, a list of :class:`coterie.tasks.panels.Panel`; imports nothing heavy;
            empty: none.
        pipeline: the Hugging Face Hub's name of the task; empty: its name with hyphens. Plain text.
        references: what students are compared with in the final table: keys of an evaluation's figures, with their names. Plain text.
    """

    line: str
    settings: str
    figures: str
    deployed: str
    kind: str
    sample: str = "sample"
    description: str = "coterie.run_schema:Student"
    inputs: str = "coterie.tasks.inputs:as_they_stand"
    formats: str = "coterie.tasks.formats:NONE"
    card: str = ""
    panels: str = ""
    pipeline: str = ""
    references: tuple[tuple[str, str], ...] = ()


UNNAMED = "image_classification"  # default of recipes that name no task, and of runs from before there were others

TASKS: MutableMapping[str, Row] = {
    "image_classification": Row(
        line="Classify images.",
        settings="coterie.tasks.images.settings:SETTINGS",
        figures="coterie.tasks.figures:CLASSIFICATION",
        deployed="coterie.tasks.images.deployed",
        kind="coterie.tasks.images.task:ImageClassification",
        sample="image",
        description="coterie.tasks.images.description:ImageStudent",
        inputs="coterie.tasks.images.inputs:find_samples",
        formats="coterie.tasks.images.formats:FORMATS",
        card="coterie.tasks.images:card.md.jinja",
    ),
    "text_classification": Row(
        line="Classify texts or pairs of texts.",
        settings="coterie.tasks.texts.settings:SETTINGS",
        figures="coterie.tasks.figures:CLASSIFICATION",
        deployed="coterie.tasks.texts.deployed",
        kind="coterie.tasks.texts.task:TextClassification",
        sample="text",
        description="coterie.tasks.texts.description:TextStudent",
        inputs="coterie.tasks.texts.inputs:find_samples",
        formats="coterie.tasks.texts.formats:FORMATS",
        card="coterie.tasks.texts:card.md.jinja",
    ),
    "language_modeling": Row(
        line="Train causal language models on texts, prompts with completions, or chats.",
        settings="coterie.tasks.language.settings:SETTINGS",
        figures="coterie.tasks.language.declared:FIGURES",
        deployed="coterie.tasks.language.deployed",
        kind="coterie.tasks.language.task:LanguageModeling",
        sample="row",
        description="coterie.tasks.language.description:LanguageStudent",
        inputs="coterie.tasks.language.inputs:find_samples",
        formats="coterie.tasks.language.formats:FORMATS",
        card="coterie.tasks.language:card.md.jinja",
        panels="coterie.tasks.language.panels:panels",
        pipeline="text-generation",
    ),
    "retrieval": Row(
        line="Retrieve documents for queries with dual encoders, ranked by inner products.",
        settings="coterie.tasks.retrieval.settings:SETTINGS",
        figures="coterie.tasks.retrieval.declared:FIGURES",
        references=(("bm25", "BM25"),),
        deployed="coterie.tasks.retrieval.deployed",
        kind="coterie.tasks.retrieval.task:Retrieval",
        sample="query text",
        description="coterie.tasks.retrieval.description:RetrievalStudent",
        inputs="coterie.tasks.retrieval.inputs:find_samples",
        formats="coterie.tasks.retrieval.formats:FORMATS",
        card="coterie.tasks.retrieval:card.md.jinja",
        panels="coterie.tasks.retrieval.panels:panels",
        pipeline="sentence-similarity",
    ),
    "restoration": Row(
        line="Restore and upscale small, degraded images in one step of a diffusion network.",
        settings="coterie.tasks.restoration.settings:SETTINGS",
        figures="coterie.tasks.restoration.declared:FIGURES",
        references=(("bicubic", "bicubic interpolation"),),
        deployed="coterie.tasks.restoration.deployed",
        kind="coterie.tasks.restoration.task:Restoration",
        sample="image",
        description="coterie.tasks.restoration.description:RestorationStudent",
        inputs="coterie.tasks.restoration.inputs:find_samples",
        formats="coterie.tasks.restoration.formats:FORMATS",
        card="coterie.tasks.restoration:card.md.jinja",
        panels="coterie.tasks.restoration.panels:panels",
        pipeline="image-to-image",
    ),
    "speech": Row(
        line="Extract speech features with a small encoder distilled from larger ones.",
        settings="coterie.tasks.speech.settings:SETTINGS",
        figures="coterie.tasks.speech.declared:FIGURES",
        deployed="coterie.tasks.speech.deployed",
        kind="coterie.tasks.speech.task:Speech",
        sample="clip",
        description="coterie.tasks.speech.description:SpeechStudent",
        inputs="coterie.tasks.speech.inputs:find_samples",
        formats="coterie.tasks.speech.formats:FORMATS",
        card="coterie.tasks.speech:card.md.jinja",
        panels="coterie.tasks.speech.panels:panels",
        pipeline="feature-extraction",
    ),
}


def known_tasks() -> list[str]:
    """Returns the names of all tasks, including those of other packages."""
    return [*TASKS, *(name for name in _entry_points() if name not in TASKS)]


def find_row(task: str) -> Row:
    """Returns a task's row.

    Raises:
        CoterieError: the task is unknown (the message suggests the nearest name), or its entry point cannot be loaded.
    """
    if task in TASKS:
        return TASKS[task]
    if task in (others := _entry_points()):
        try:
            TASKS[task] = others[task].load()
        except (ImportError, AttributeError) as error:
            raise CoterieError(
                f"task={task} comes from {others[task].value}, which cannot be imported: {error}"
            ) from None
        return TASKS[task]
    known = known_tasks()
    raise CoterieError(f"unknown task {task!r}{did_you_mean(task, known)}; expected one of {', '.join(known)}")


def find_part(
    task: str, part: Literal["settings", "figures", "description", "formats", "inputs", "deployed", "kind", "panels"]
) -> Any:
    """Imports and returns a part of a task.

    Args:
        task: name of the task.
        part: name of the part.

    Raises:
        CoterieError: see :func:`find_row`.
    """
    return find_named(getattr(find_row(task), part))


def find_named(place: str) -> Any:
    """Imports and returns the object at ``module:name``, or a module."""
    module, _, name = place.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


@functools.cache  # reading the metadata of all installed packages takes 20 ms
def _entry_points() -> dict[str, EntryPoint]:
    return {each.name: each for each in entry_points(group="coterie.tasks")}


def sample_of(task: str) -> str:
    """Returns what a sample of a task is called."""
    return find_row(task).sample
