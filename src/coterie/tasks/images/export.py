"""Writes image classifiers as timm, ONNX, torch.export and safetensors files, and compares all but safetensors with PyTorch.

A writer puts its files into a given folder. ``coterie.export`` selects the network and moves the files to their destination.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from coterie.errors import CoterieError, RunError
from coterie.files import write_json
from coterie.networks.papers.registration import register
from coterie.tasks.exporting import (
    CHECKED_BATCH_SIZES,
    Subject,
    exporting,
    relative_difference,
    require_close,
    require_onnx,
    save_graph,
    traced,
)
from coterie.tasks.images.predict import load_images
from coterie.tasks.images.preprocessing import image_metadata
from coterie.tasks.images.student import prepared_for


def write_timm(subject: Subject, folder: Path, gallery: Path) -> str:
    import timm

    name = subject.description["network"]
    if name is None:
        raise CoterieError(
            "format 'timm' needs a network that timm can build, this run was trained on one of your own; use onnx, pt2 or safetensors"
        )
    _save_weights(subject, folder)
    write_json(folder / "config.json", timm_config(subject.network, subject.description))
    register()
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images, origin = images_to_compare(gallery, subject.description)
    difference = difference_of(subject.network, loaded, images)
    if difference != 0:
        raise RunError(
            f"timm builds {name!r} from the export with other logits, they differ by {difference:.2g}; use onnx or pt2"
        )
    return f"timm loads it with bit-equal logits, at batch sizes 1 and 3 on {origin}."


def timm_config(network: nn.Module, description: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of ``config.json``: the architecture that timm builds, and its preprocessing.

    Args:
        network: a network built by timm.
        description: content of ``student.json``.
    """
    return {
        "architecture": description["network"].partition(".")[0],
        "num_classes": description["num_classes"],
        "num_features": network.num_features,
        "label_names": description["class_names"],
        "model_args": description["options"],
        "pretrained_cfg": prepared_for(network, description),
    }


def write_safetensors(subject: Subject, folder: Path, gallery: Path) -> str:
    _save_weights(subject, folder)
    return ""


def _save_weights(subject: Subject, folder: Path) -> None:
    # Cloned, because safetensors refuses tensors that share memory, as those of a shared trunk do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in subject.tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_pt2(subject: Subject, folder: Path, gallery: Path) -> str:
    images, origin = images_to_compare(gallery, subject.description)
    path = folder / "model.pt2"
    program = io.BytesIO()  # torch's own writer ends the process if the disk is full
    with exporting("pt2"):
        torch.export.save(traced_images(subject), program)
    path.write_bytes(program.getbuffer())
    loaded = torch.export.load(path).module()
    difference = difference_of(subject.network, loaded, images)
    require_close(difference, "pt2")
    return (
        f"the reloaded program's logits differ from PyTorch's by {difference:.1g} at batch sizes 1 and 3, on {origin}."
    )


def write_onnx(subject: Subject, folder: Path, gallery: Path) -> str:
    """Write ``model.onnx``, with preprocessing and class names in its metadata; returns a sentence about what was compared."""
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


def traced_images(subject: Subject) -> torch.export.ExportedProgram:
    """Traces the graph for any batch size; it contains none of the data."""
    # Zeros, because the program keeps its example; two of them, because a batch of one would be specialised to a constant.
    example = torch.zeros(2, *subject.description["input_size"])
    return traced(subject.network, (example,), ({0: torch.export.Dim("batch")},))


def images_to_compare(gallery: Path, description: dict[str, Any]) -> tuple[Tensor, str]:
    """Returns images to compare logits on, as many as the largest batch, and their origin in words."""
    count = max(CHECKED_BATCH_SIZES)
    files = sorted(gallery.glob("*.png"))
    if files:
        chosen = [files[number % len(files)] for number in range(count)]
        return load_images(chosen, description), f"images of {description['data']}"
    generator = torch.Generator().manual_seed(0)
    return torch.randn(
        count, *description["input_size"], generator=generator
    ), "random images, since the run keeps none"


@torch.inference_mode()
def difference_of(network: nn.Module, exported: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Returns the largest :func:`relative_difference` over batches of several sizes."""
    largest = 0.0
    for size in CHECKED_BATCH_SIZES:
        expected, actual = network(images[:size]), exported(images[:size])
        if actual.shape != expected.shape:
            raise RunError(f"the export gives {tuple(actual.shape)} for a batch of {size}, not {tuple(expected.shape)}")
        largest = max(largest, relative_difference(expected, actual))
    return largest
