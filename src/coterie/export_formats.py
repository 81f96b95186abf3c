"""The formats of an export: timm, safetensors, torch.export, ONNX and transformers, each compared with PyTorch as it is written.

A writer puts its files into a folder that is given to it. Which network that is, and where the folder ends up, is decided in
``export.py``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from coterie.errors import CoterieError, RunError
from coterie.files import write_json
from coterie.networks.registration import register
from coterie.prediction import load_images
from coterie.student import prepared_for

TOLERANCE = 1e-4  # of the logits, or of the largest of them where that is above 1
CHECKED_BATCH_SIZES = (1, 3)
# A protobuf file holds at most 2 GiB; weights that come near it are written beside the graph.
LARGEST_ONNX_FILE = 2**31 - 2**24


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        network: images to logits, in eval mode, on the CPU; of a run of texts, a network of transformers.
        tensors: the weights as ``model.safetensors`` holds them.
        description: as in ``student.json``; for several students ``networks`` in place of ``network`` and ``options``.
        tokenizer: folder of a text network's tokenizer.
    """

    network: nn.Module
    tensors: dict[str, Tensor]
    description: dict[str, Any]
    tokenizer: Path | None = None

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


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
    images, origin = _images(gallery, subject.description)
    difference = _difference(subject.network, loaded, images)
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
    images, origin = _images(gallery, subject.description)
    path = folder / "model.pt2"
    program = io.BytesIO()  # torch's own writer ends the process where the disk is full
    with _exporting("pt2"):
        torch.export.save(_traced(subject), program)
    path.write_bytes(program.getbuffer())
    loaded = torch.export.load(path).module()
    difference = _difference(subject.network, loaded, images)
    _require_close(difference, "pt2")
    return (
        f"the reloaded program's logits differ from PyTorch's by {difference:.1g} at batch sizes 1 and 3, on {origin}."
    )


def _write_onnx(subject: Subject, folder: Path, gallery: Path) -> str:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise CoterieError(
            f"format 'onnx' needs the extra of that name ({error}): pip install 'coterie[onnx]'"
        ) from None
    images, origin = _images(gallery, subject.description)
    path = folder / "model.onnx"
    size = sum(tensor.numel() * tensor.element_size() for tensor in subject.network.state_dict().values())
    with _exporting("onnx"):
        program = torch.onnx.export(
            _traced(subject),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=size > LARGEST_ONNX_FILE)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run_session(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])

    difference = _difference(subject.network, run_session, images)
    _require_close(difference, "onnx")
    return f"ONNX Runtime's logits differ from PyTorch's by {difference:.1g} at batch sizes 1 and 3, on {origin}."


def _write_transformers(subject: Subject, folder: Path, gallery: Path) -> str:
    from coterie.networks.sequence_classifier import example_inputs, save_folder

    assert subject.tokenizer is not None
    loaded = save_folder(subject.network, subject.tokenizer, folder)
    tokens, mask, _ = example_inputs(1, subject.description["length"])[:, 0].unbind(1)
    with torch.inference_mode():
        expected, actual = (each(input_ids=tokens, attention_mask=mask).logits for each in (subject.network, loaded))
    if not torch.equal(expected, actual):
        raise RunError("transformers builds the network from the export with other logits")
    return "transformers loads it with bit-equal logits."


def _traced(subject: Subject) -> torch.export.ExportedProgram:
    """The network's graph for batches of any size, without anything of this machine or of the data in it."""
    # Zeros, because the program keeps its example; two of them, because a batch of one would be taken for a constant.
    example = torch.zeros(2, *subject.description["input_size"])
    batch = torch.export.Dim("batch")
    program = torch.export.export(subject.network, (example,), dynamic_shapes=({0: batch},))
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # names the files of this installation
    return program


@contextlib.contextmanager
def _exporting(format: str) -> Iterator[None]:
    """Silence torch's and onnxscript's notes to their own developers, and name the reason of a failure in one line."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:  # the exporters raise many kinds, with pages of text
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"this network cannot be exported as {format}: {type(error).__name__}: {reason}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _images(gallery: Path, description: dict[str, Any]) -> tuple[Tensor, str]:
    """Images to compare logits on, as many as the largest batch, and where they come from, in words."""
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
def _difference(network: nn.Module, exported: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Largest difference of the logits, relative to the largest of them where that is above 1; NaN counts as infinite."""
    largest = 0.0
    for size in CHECKED_BATCH_SIZES:
        expected, actual = network(images[:size]), exported(images[:size])
        if actual.shape != expected.shape:
            raise RunError(f"the export gives {tuple(actual.shape)} for a batch of {size}, not {tuple(expected.shape)}")
        scale = max(1.0, expected.abs().max().item())
        largest = max(largest, torch.nan_to_num((actual - expected).abs() / scale, nan=float("inf")).max().item())
    return largest


def _require_close(difference: float, format: str) -> None:
    if difference > TOLERANCE:
        raise RunError(
            f"the {format} export computes other logits than PyTorch: they differ by {difference:.2g}, at most {TOLERANCE:g} is allowed"
        )


# Each takes what is exported, the folder to fill and the run's gallery, and says what was compared.
WRITERS: dict[str, Callable[[Subject, Path, Path], str]] = {
    "timm": _write_timm,
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "safetensors": _write_safetensors,
    "transformers": _write_transformers,
}
