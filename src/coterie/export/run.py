"""Exports a run: the arguments are checked first, and torch is imported only afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coterie.export.request import check_request

if TYPE_CHECKING:
    from coterie.networks.branching import NetworkSource


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
            ``onnx`` (model.onnx), ``pt2`` (model.pt2, from torch.export), both with any batch size, or ``safetensors``; for a run of texts
            ``transformers`` (config.json, model.safetensors and tokenizer, for ``from_pretrained``) or ``onnx``. None: timm, or transformers.
        output: the export's folder: new, empty or a previous export; None: ``<run>/export/<format>``, followed by ``-<which>``
            unless the deployed student is exported.
        which: ``student`` (the deployed one), a student's number, ``ensemble`` (mean probability of all students) or ``method``
            (the method's own rule, with its modules).
        network: the untrained network, if the run was trained on a custom module.
        int8: quantise the ONNX file of a run of images, calibrated on its training images, and compare it with the float one on the run's
            evaluation split (``int8.json``). The folder's default name ends in ``-int8``.
        push: ``user/name`` of a repository of the Hugging Face Hub to which the folder is uploaded; it is created if it does not exist.
        private: whether a new repository is private.
        trust_code: whether the run may name a method by ``package.module:Class``. Its code is imported for all exports except that of
            the deployed student.

    Returns:
        The export's folder.

    Raises:
        CoterieError: the format or student is unknown, the run has no student, or the folder holds something else; with ``int8``, the format
            does not support it or the data are missing; with ``push``, the name, token or connection is invalid.
        RunError: the network cannot be exported in this format, the exported file computes something else, or the Hub refuses it.
    """
    request = check_request(run, format, output, which, int8=int8, push=push, private=private, trust_code=trust_code)
    from coterie.export.writing import write_export

    return write_export(request, network)
