"""ONNX: the graph for ONNX Runtime, compared with PyTorch as it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.errors import CoterieError
from coterie.export.agreement import difference_of, exporting, images_to_compare, require_close, traced_images
from coterie.export.preprocessing import image_metadata
from coterie.export.subject import Subject

# A protobuf file holds at most 2 GiB; weights that come near it are written beside the graph.
LARGEST_ONNX_FILE = 2**31 - 2**24


def require_onnx() -> Any:
    """The package onnxruntime.

    Raises:
        CoterieError: it, or what torch needs beside it to write the format, is missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise CoterieError(
            f"format 'onnx' needs the extra of that name ({error}): pip install 'coterie[onnx]'"
        ) from None
    return onnxruntime


def save_graph(
    trace: Callable[[], torch.export.ExportedProgram], path: Path, inputs: list[str], metadata: dict[str, str]
) -> None:
    """Write a network's graph, one output ``logits``.

    Raises:
        RunError: it cannot be traced, or has operations that ONNX has not.
    """
    with exporting("onnx"):
        program = torch.onnx.export(trace(), dynamo=True, input_names=inputs, output_names=["logits"], verbose=False)
    assert program is not None
    program.model.metadata_props.update(metadata)
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value)
    program.save(path, external_data=size > LARGEST_ONNX_FILE)


def write_onnx(subject: Subject, folder: Path, gallery: Path) -> str:
    """Write ``model.onnx``, with the preparation of images and the class names in its metadata; say what was compared."""
    onnxruntime = require_onnx()
    images, origin = images_to_compare(gallery, subject.description)
    path = folder / "model.onnx"
    metadata = image_metadata(subject.description, subject.which)
    save_graph(lambda: traced_images(subject), path, ["images"], metadata)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run_session(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])

    difference = difference_of(subject.network, run_session, images)
    require_close(difference, "onnx")
    return f"ONNX Runtime's logits differ from PyTorch's by {difference:.1g} at batch sizes 1 and 3, on {origin}."
