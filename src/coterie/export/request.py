"""Checks the arguments of an export before torch is imported, so that invalid ones are refused at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError, did_you_mean
from coterie.export.folder import require_free
from coterie.export.push import require_hub
from coterie.recipe import Recipe, load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks import find_part, known_tasks
from coterie.tasks.formats import Format

MEASURES = "int8.json"  # figures of an int8 file, from the task's quantizer; ``line`` describes them in words


@dataclass(frozen=True)
class Request:
    """The arguments of an export, checked as far as possible without the network.

    Attributes:
        folder: the run folder.
        recipe: the run's recipe.
        format: one of the task's formats.
        which: ``student``, ``ensemble``, ``method`` or a student's number.
        target: the export's folder.
        int8: whether to quantise the export.
        push: the repository to upload to, or None.
        private: whether a new repository is private.
        hub: client of the Hub if ``push`` is given, otherwise None.
        trust_code: whether the run may name a method by its module.
    """

    folder: RunFolder
    recipe: Recipe
    format: Format
    which: str
    target: Path
    int8: bool
    push: str | None
    private: bool
    hub: Any
    trust_code: bool


def check_request(
    run: str | Path,
    format: str | None,
    output: str | Path | None,
    which: str,
    *,
    int8: bool,
    push: str | None,
    private: bool,
    trust_code: bool,
) -> Request:
    """Checks the arguments of :func:`coterie.export.export_run` and returns them as a request.

    Raises:
        CoterieError: see there.
    """
    formats: dict[str, tuple[Format, ...]] = {task: find_part(task, "formats") for task in known_tasks()}
    names = list(dict.fromkeys(each.name for several in formats.values() for each in several))
    if format is not None and format not in names:
        raise CoterieError(
            f"unknown format {format!r}{did_you_mean(format, names)}; expected one of {', '.join(names)}"
        )
    if not (which in {"student", "ensemble", "method"} or which.isdecimal()):
        near = did_you_mean(which, ["student", "ensemble", "method"])
        raise CoterieError(f"cannot export {which!r}{near}; expected student, a student's number, ensemble or method")
    folder = RunFolder(run).require()
    recipe = load_recipe(folder.recipe, trust_code=trust_code or which == "student")  # that imports no method
    fitting = {each.name: each for each in formats[recipe.task]}
    if not fitting:
        raise CoterieError(
            f"task={recipe.task} has no format of export; coterie.load_student({str(run)!r}) is its network"
        )
    if format is not None and format not in fitting:
        raise CoterieError(f"format {format!r} is not for task={recipe.task}; expected {' or '.join(fitting)}")
    chosen = fitting[format or next(iter(fitting))]
    if int8 and not chosen.quantizer:
        able = [
            f"format {each.name!r} of {task}" for task, several in formats.items() for each in several if each.quantizer
        ]
        given = f"format {chosen.name!r}" if any(each.quantizer for each in fitting.values()) else f"task={recipe.task}"
        raise CoterieError(f"--int8 is for {' or '.join(able)}, not for {given}; leave it out")
    if which in {"ensemble", "method"} and not chosen.ensembles:
        able = [each.name for each in fitting.values() if each.ensembles]
        others = (
            f", or format {' or '.join([', '.join(able[:-1]), able[-1]])}"
            if len(able) > 1
            else f", or format {able[0]}"
            if able
            else " or a student's number"
        )
        raise CoterieError(f"format {chosen.name!r} holds one plain network, not {which!r}; use which=student{others}")
    suffix = ("" if which == "student" else f"-{which}") + ("-int8" if int8 else "")
    target = Path(output) if output is not None else folder.path / "export" / f"{chosen.name}{suffix}"
    require_free(target)
    if private and push is None:
        raise CoterieError("--private is of a repository: name it, --push user/name")
    hub = require_hub(push) if push is not None else None
    return Request(folder, recipe, chosen, which, target, int8, push, private, hub, trust_code)
