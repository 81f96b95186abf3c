"""Writes the folder of an export (network, model card, and files of the format), and uploads it if requested."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from coterie.data.batch import Loaders
from coterie.errors import CoterieError
from coterie.export.folder import fill
from coterie.export.model_card import model_card, shareable_recipe
from coterie.export.push import push
from coterie.export.request import MEASURES, Request
from coterie.export.subject import load_subject
from coterie.files import write_json, write_text
from coterie.networks.branching import NetworkSource
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.running.reload import load_run_data
from coterie.tasks import find_named
from coterie.tasks.exporting import require_onnx


def write_export(request: Request, network: NetworkSource | None = None) -> Path:
    """Write the export; returns the folder.

    Args:
        request: from :func:`coterie.export.request.check_request`.
        network: the untrained network, if the run was trained on a custom module.

    Raises:
        CoterieError: the student does not exist, or the data for quantisation are missing.
        RunError: the network cannot be exported in this format, the exported file computes something else, or the Hub refuses it.
    """
    folder, recipe, format, which = request.folder, request.recipe, request.format, request.which
    data = _data_to_quantize(folder, recipe) if request.int8 else None
    subject = load_subject(
        folder,
        recipe,
        which,
        copy.deepcopy(network) if isinstance(network, nn.Module) else network,
        trust_code=request.trust_code,
    )

    def write(staging: Path) -> None:
        check = find_named(format.writer)(subject, staging, folder.gallery)
        measures = None
        if data is not None:
            measures = find_named(format.quantizer)(staging, data)
            write_json(staging / MEASURES, measures)
            check = f"before it was quantised, {check}"
        if format.described:
            write_json(staging / "student.json", {"which": which, **subject.description})
        if format.name == "safetensors" and which == "method":
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
            repository=request.push,
            tokenizer_file=(staging / "tokenizer.json").is_file(),
        )
        write_text(staging / "README.md", card)

    fill(request.target, write)
    if request.push is not None:
        push(request.hub, request.target, request.push, request.private)
    return request.target


def _data_to_quantize(folder: RunFolder, recipe: Recipe) -> Loaders:
    """Loads the run's own data, prepared as in its evaluation, on the CPU.

    Raises:
        CoterieError: the data are missing, or no longer what the run was trained on.
    """
    require_onnx()
    try:
        return load_run_data(folder, recipe)
    except CoterieError as error:
        raise CoterieError(f"--int8 needs the data of the run, to calibrate and to measure: {error}") from None
