"""A run's student, or its ensemble, as a folder for use elsewhere, with a model card.

Here stands what is exported and where to; the formats themselves are in ``export_formats.py``, the card in ``model_card.py``,
and how a student is kept inside a run folder in ``student.py``.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from coterie.errors import CoterieError, RunError, did_you_mean
from coterie.export_formats import WRITERS, Subject
from coterie.files import reason_of, usual_mode, write_json, write_text
from coterie.losses import mean_probability
from coterie.methods.method import Method
from coterie.model_card import MARK, model_card, shareable_recipe
from coterie.networks.group import StudentGroup
from coterie.recipe import Recipe, load_recipe
from coterie.student import load_student
from coterie.tasks.construction import NetworkSource, network_names, network_options
from coterie.training.records import RunFolder
from coterie.training.reload import load_method

STAGING = ".export.tmp"
TASK_FORMATS = {
    "image_classification": ("timm", "onnx", "pt2", "safetensors"),
    "text_classification": ("transformers",),
}
# Everything that an export may hold: a folder with anything else in it is not ours to replace.
FILES = {"README.md", "config.json", "model.safetensors", "model.onnx", "model.onnx.data", "model.pt2"}
FILES |= {"student.json", "recipe.yaml", STAGING}
FILES |= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
FILES |= {"vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja"}


class MeanProbability(nn.Module):
    """The students' mean probability as one network: images [B, C, H, W] to log-probabilities [B, K]."""

    def __init__(self, group: StudentGroup) -> None:
        super().__init__()
        self.group = group

    def forward(self, images: Tensor) -> Tensor:
        return mean_probability(self.group(images).logits)


class MethodEnsemble(nn.Module):
    """The method's own ensemble as one network: images [B, C, H, W] to logits [B, K]."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        return self.method.predict(images).ensemble


def export_run(
    run: str | Path,
    format: str | None = None,
    output: str | Path | None = None,
    which: str = "student",
    network: NetworkSource | None = None,
    *,
    trust_code: bool = False,
) -> Path:
    """Export a finished run's student, or its ensemble, as a folder with a model card.

    Args:
        run: the run folder.
        format: ``timm`` (config.json and model.safetensors, for ``timm.create_model("local-dir:FOLDER", pretrained=True)``),
            ``onnx`` (model.onnx), ``pt2`` (model.pt2, from torch.export), both with any batch size, or ``safetensors``; of a run of texts
            ``transformers`` (config.json, model.safetensors and tokenizer, for ``from_pretrained``). None: timm, or transformers.
        output: the export's folder: new, empty or a former export; None: ``<run>/export/<format>``, followed by ``-<which>``
            where that is not the deployed student.
        which: ``student`` (the deployed one), a student's number, ``ensemble`` (mean probability of all students) or ``method``
            (the method's own rule, with its modules).
        network: the untrained network, where the run was trained on one's own.
        trust_code: whether the run may name a method by ``package.module:Class``, whose code is imported for everything but the
            deployed student.

    Returns:
        The export's folder.

    Raises:
        CoterieError: an unknown format or student, a run without one, or a folder that holds something else.
        RunError: the network cannot be exported in this format, or what was exported computes something else.
    """
    if format is not None and format not in WRITERS:
        raise CoterieError(
            f"unknown format {format!r}{did_you_mean(format, WRITERS)}; expected one of {', '.join(WRITERS)}"
        )
    if not (which in {"student", "ensemble", "method"} or which.isdecimal()):
        near = did_you_mean(which, ["student", "ensemble", "method"])
        raise CoterieError(f"cannot export {which!r}{near}; expected student, a student's number, ensemble or method")
    folder = RunFolder(run).require()
    recipe = load_recipe(folder.recipe, trust_code=trust_code or which == "student")  # which imports no method
    fitting = TASK_FORMATS[recipe.task]
    format = format or fitting[0]
    if format not in fitting:
        raise CoterieError(f"format {format!r} is not for task={recipe.task}; expected {' or '.join(fitting)}")
    if format == fitting[0] and which in {"ensemble", "method"}:
        others = (
            f", or format {', '.join(fitting[1:-1])} or {fitting[-1]}" if len(fitting) > 1 else " or a student's number"
        )
        raise CoterieError(f"format {format!r} holds one plain network, not {which!r}; use which=student{others}")
    suffix = "" if which == "student" else f"-{which}"
    target = Path(output) if output is not None else folder.path / "export" / f"{format}{suffix}"
    _require_free(target)
    subject = load_subject(
        folder,
        recipe,
        which,
        copy.deepcopy(network) if isinstance(network, nn.Module) else network,
        trust_code=trust_code,
    )

    def write(staging: Path) -> None:
        check = WRITERS[format](subject, staging, folder.gallery)
        if format not in {"timm", "transformers"}:
            write_json(staging / "student.json", {"which": which, **subject.description})
        if format == "safetensors" and which == "method":
            write_text(staging / "recipe.yaml", shareable_recipe(recipe))
        environment = folder.read_environment()
        card = model_card(
            format=format,
            which=which,
            description=subject.description,
            parameters=subject.parameters,
            recipe=recipe,
            summary=folder.read_summary(),
            environment=environment,
            check=check,
        )
        write_text(staging / "README.md", card)

    _fill(target, write)
    return target


def load_subject(
    folder: RunFolder, recipe: Recipe, which: str, network: NetworkSource | None, *, trust_code: bool = False
) -> Subject:
    """Load what is exported from a finished run.

    Raises:
        CoterieError: an unfinished run, a student that is not there, or a missing ``network``.
    """
    if which == "student":
        module = network if network is None or isinstance(network, nn.Module) else network()
        student = load_student(folder.path, module)
        return Subject(student, student.state_dict(), folder.read_description(), folder.tokenizer)
    method = load_method(folder.path, network, trust_code=trust_code)
    description = folder.read_description()
    summary = folder.read_summary()
    students = method.group.num_students
    if which.isdecimal():
        number = int(which)
        if number >= students:
            raise CoterieError(f"which={which}: the run has {students} student(s), numbered from 0 to {students - 1}")
        student = method.students.student(number).eval()
        figures = dict(enumerate(summary.get("students", []))).get(number, {})
        described = {**description, **_built_by(recipe, description, number), "student": number, "figures": figures}
        return Subject(student, student.state_dict(), described, folder.tokenizer)
    rule = "mean_probability" if which == "ensemble" else "method"
    described = {key: value for key, value in description.items() if key not in {"network", "options", "student"}}
    described["networks"] = [_built_by(recipe, description, number) for number in range(students)]
    described["figures"] = summary.get("ensemble", {}).get(rule, {})
    if which == "ensemble":
        plain = nn.ModuleList(method.students.student(number) for number in range(students))
        return Subject(MeanProbability(method.students).eval(), plain.state_dict(), described)
    method.label_loss = nn.Identity()  # serves training only
    return Subject(MethodEnsemble(method).eval(), method.state_dict(), described)


def _built_by(recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
    """How one of the students is built."""
    if description["network"] is None:
        return {"network": None, "options": {}}
    if recipe.task == "text_classification":
        from coterie.tasks.text_networks import shown, student_names

        known = student_names(recipe)
        return {"network": shown(known[number if len(known) > 1 else 0]), "config": description["configs"][number]}
    names = network_names(recipe)
    name = names[number if len(names) > 1 else 0]
    return {"network": name, "options": network_options(recipe, name, tuple(description["input_size"]))}


def _require_free(target: Path) -> None:
    """The folder must be new, empty, or a former export with nothing else in it."""
    if target.exists() and not target.is_dir():
        raise CoterieError(f"{str(target)!r} is a file; an export is a folder: choose another --output")
    present = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if not present - {STAGING}:
        return
    card = target / "README.md"
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise CoterieError(f"{str(target)!r} is not empty and holds no export; choose another --output")
    if foreign := sorted(present - FILES):
        raise CoterieError(
            f"{str(target)!r} holds an export and {foreign[0]!r}; move that away or choose another --output"
        )


def _fill(target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder inside ``target``, then move its files to their places; on failure nothing has changed.

    Raises:
        CoterieError: the folder cannot be made.
        RunError: the disk is full.
    """
    made = [parent for parent in [target, *target.parents] if not parent.exists()]
    staging = target / STAGING
    try:
        target.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        mode = usual_mode(staging)
    except OSError as error:
        _remove_empty(made)
        raise CoterieError(f"cannot write to {str(target)!r}: {error.strerror}") from None
    try:
        write(staging)
        for path in staging.iterdir():
            path.chmod(mode)  # some libraries write files that none but their owner may read
        # The card goes first: it marks the folder as an export, should the process end between two moves.
        written = sorted((path.name for path in staging.iterdir()), key=lambda name: name != "README.md")
        for name in written:
            os.replace(staging / name, target / name)
        for stale in FILES - {STAGING, *written}:
            (target / stale).unlink(missing_ok=True)
    except Exception as error:  # libraries write here, each with errors of its own
        reason = reason_of(error, staging)
        if reason is None:
            raise
        raise RunError(f"cannot write {str(target)!r}: {reason}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
