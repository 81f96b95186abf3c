"""What an export is asked for, and what is in its way: checked without torch, so that it is refused at once."""

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

MEASURES = "int8.json"  # what an int8 file costs, by the task's quantizer; ``line`` says it in words


@dataclass(frozen=True)
class Request:
    """An export that nothing is in the way of, as far as can be seen without the network.

    Attributes:
        folder: of the run.
        recipe: the run's.
        format: one of the task's.
        which: ``student``, ``ensemble``, ``method`` or a student's number.
        target: the export's folder.
        int8: whether it is quantised.
        push: the repository it is uploaded to, or None.
        private: whether a new one is private.
        hub: what talks to the Hub, where ``push`` is given.
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
    """The request for what :func:`coterie.export.export_run` is called with.

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
    recipe = load_recipe(folder.recipe, trust_code=trust_code or which == "student")  # which imports no method
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
