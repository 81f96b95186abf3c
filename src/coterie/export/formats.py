"""The formats of an export: timm, safetensors, torch.export, ONNX and transformers, each compared with PyTorch as it is written.

A writer puts its files into a folder that is given to it. Which network that is, and where the folder ends up, is decided in
``run.py``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from coterie.errors import CoterieError, RunError
from coterie.export.agreement import difference_of, exporting, images_to_compare, require_close, traced_images
from coterie.export.onnx import write_onnx
from coterie.export.subject import Subject
from coterie.files import write_json
from coterie.networks.papers.registration import register
from coterie.tasks.images.student import prepared_for


def _write_timm(subject: Subject, folder: Path, gallery: Path) -> str:
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
    """The contents of ``config.json``: what timm builds, and how it prepares images.

    Args:
        network: built by timm.
        description: contents of ``student.json``.
    """
    return {
        "architecture": description["network"].partition(".")[0],
        "num_classes": description["num_classes"],
        "num_features": network.num_features,
        "label_names": description["class_names"],
        "model_args": description["options"],
        "pretrained_cfg": prepared_for(network, description),
    }


def _write_safetensors(subject: Subject, folder: Path, gallery: Path) -> str:
    _save_weights(subject, folder)
    return ""


def _save_weights(subject: Subject, folder: Path) -> None:
    # Clones, because safetensors refuses tensors that share memory, as a trunk does that several students hold.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in subject.tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write_pt2(subject: Subject, folder: Path, gallery: Path) -> str:
    images, origin = images_to_compare(gallery, subject.description)
    path = folder / "model.pt2"
    program = io.BytesIO()  # torch's own writer ends the process where the disk is full
    with exporting("pt2"):
        torch.export.save(traced_images(subject), program)
    path.write_bytes(program.getbuffer())
    loaded = torch.export.load(path).module()
    difference = difference_of(subject.network, loaded, images)
    require_close(difference, "pt2")
    return (
        f"the reloaded program's logits differ from PyTorch's by {difference:.1g} at batch sizes 1 and 3, on {origin}."
    )


def _write_transformers(subject: Subject, folder: Path, gallery: Path) -> str:
    from coterie.tasks.texts.sequence_classifier import example_inputs, save_folder

    assert subject.tokenizer is not None
    loaded = save_folder(subject.network, subject.tokenizer, folder)
    (example,) = example_inputs(1, subject.description["length"])
    texts = {name: example[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        expected, actual = (each(**texts).logits for each in (subject.network, loaded))
    if not torch.equal(expected, actual):
        raise RunError("transformers builds the network from the export with other logits")
    return "transformers loads it with bit-equal logits."


def _write_text_onnx(subject: Subject, folder: Path, gallery: Path) -> str:
    from coterie.export.text_onnx import write_text_onnx

    return write_text_onnx(subject, folder, gallery)


# By task, the default format first. Each takes what is exported, the folder to fill and the run's gallery, and says what was compared.
WRITERS: dict[str, dict[str, Callable[[Subject, Path, Path], str]]] = {
    "image_classification": {
        "timm": _write_timm,
        "onnx": write_onnx,
        "pt2": _write_pt2,
        "safetensors": _write_safetensors,
    },
    "text_classification": {"transformers": _write_transformers, "onnx": _write_text_onnx},
}
