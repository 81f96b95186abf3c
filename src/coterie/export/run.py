"""From a run to an export: what is exported, in which format, and where to."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from coterie.errors import CoterieError, did_you_mean
from coterie.export.folder import fill, require_free
from coterie.export.formats import FORMATS, WRITERS
from coterie.export.model_card import model_card, shareable_recipe
from coterie.export.push import push as upload
from coterie.export.push import require_hub
from coterie.export.quantization import data_to_quantize, quantize
from coterie.export.subject import load_subject
from coterie.files import write_json, write_text
from coterie.recipe import load_recipe
from coterie.tasks.construction import NetworkSource
from coterie.training.records import RunFolder


def export_run(
    run: str | Path,
    format: str | None = None,
    output: str | Path | None = None,
    which: str = "student",
    network: NetworkSource | None = None,
    *,
    int8: bool = False,
    push: str | None = None,
    private: bool = False,
    trust_code: bool = False,
) -> Path:
    """Export a finished run's student, or its ensemble, as a folder with a model card.

    Args:
        run: the run folder.
        format: ``timm`` (config.json and model.safetensors, for ``timm.create_model("local-dir:FOLDER", pretrained=True)``),
            ``onnx`` (model.onnx), ``pt2`` (model.pt2, from torch.export), both with any batch size, or ``safetensors``; of a run of texts
            ``transformers`` (config.json, model.safetensors and tokenizer, for ``from_pretrained``) or ``onnx``. None: timm, or transformers.
        output: the export's folder: new, empty or a former export; None: ``<run>/export/<format>``, followed by ``-<which>``
            where that is not the deployed student.
        which: ``student`` (the deployed one), a student's number, ``ensemble`` (mean probability of all students) or ``method``
            (the method's own rule, with its modules).
        network: the untrained network, where the run was trained on one's own.
        int8: quantise the ONNX file of a run of images with its training images, and measure it beside the float one on the run's
            evaluation split: ``int8.json``, see :func:`coterie.export.quantization.quantize`. The folder's default name ends in ``-int8``.
        push: ``user/name`` of a repository of the Hugging Face Hub to which the folder is uploaded; it is made where there is none.
        private: whether a new repository is private.
        trust_code: whether the run may name a method by ``package.module:Class``, whose code is imported for everything but the
            deployed student.

    Returns:
        The export's folder.

    Raises:
        CoterieError: an unknown format or student, a run without one, a folder that holds something else, or, with ``int8``, another format or
            data that are not to be had; with ``push``, a name, token or connection that will not do.
        RunError: the network cannot be exported in this format, what was exported computes something else, or the Hub refuses it.
    """
    if format is not None and format not in FORMATS:
        raise CoterieError(
            f"unknown format {format!r}{did_you_mean(format, FORMATS)}; expected one of {', '.join(FORMATS)}"
        )
    if not (which in {"student", "ensemble", "method"} or which.isdecimal()):
        near = did_you_mean(which, ["student", "ensemble", "method"])
        raise CoterieError(f"cannot export {which!r}{near}; expected student, a student's number, ensemble or method")
    folder = RunFolder(run).require()
    recipe = load_recipe(folder.recipe, trust_code=trust_code or which == "student")  # which imports no method
    writers = WRITERS[recipe.task]
    fitting = list(writers)
    format = format or fitting[0]
    if format not in fitting:
        raise CoterieError(f"format {format!r} is not for task={recipe.task}; expected {' or '.join(fitting)}")
    if int8 and (format != "onnx" or recipe.task != "image_classification"):
        given = f"format {format!r}" if format != "onnx" else f"task={recipe.task}"
        raise CoterieError(f"--int8 is for format 'onnx' of image_classification, not for {given}; leave it out")
    if which in {"ensemble", "method"} and (format == fitting[0] or recipe.task == "text_classification"):
        images = recipe.task == "image_classification"
        others = f", or format {', '.join(fitting[1:-1])} or {fitting[-1]}" if images else " or a student's number"
        raise CoterieError(f"format {format!r} holds one plain network, not {which!r}; use which=student{others}")
    suffix = ("" if which == "student" else f"-{which}") + ("-int8" if int8 else "")
    target = Path(output) if output is not None else folder.path / "export" / f"{format}{suffix}"
    require_free(target)
    if private and push is None:
        raise CoterieError("--private is of a repository: name it, --push user/name")
    hub = require_hub(push) if push is not None else None
    data = data_to_quantize(folder, recipe) if int8 else None
    subject = load_subject(
        folder,
        recipe,
        which,
        copy.deepcopy(network) if isinstance(network, nn.Module) else network,
        trust_code=trust_code,
    )

    def write(staging: Path) -> None:
        check = writers[format](subject, staging, folder.gallery)
        measures = None
        if data is not None:
            measures = quantize(staging, data)
            check = f"before it was quantised, {check}"
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
            int8=measures,
            repository=push,
            tokenizer_file=(staging / "tokenizer.json").is_file(),
        )
        write_text(staging / "README.md", card)

    fill(target, write)
    if push is not None:
        upload(hub, target, push, private)
    return target
