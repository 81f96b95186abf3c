"""What the writers of formats share: a network's graph, and whether what was exported computes what PyTorch computes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import RunError
from coterie.export.subject import Subject
from coterie.tasks.images.predict import load_images

TOLERANCE = 1e-4  # of the logits, or of the largest of them where that is above 1
CHECKED_BATCH_SIZES = (1, 3)


def traced(
    network: nn.Module, examples: tuple[Tensor, ...], dynamic_shapes: tuple[dict[int, Any], ...]
) -> torch.export.ExportedProgram:
    """The network's graph, without anything of this machine in it. The program keeps its examples."""
    program = torch.export.export(network, examples, dynamic_shapes=dynamic_shapes)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # names the files of this installation
    return program


def traced_images(subject: Subject) -> torch.export.ExportedProgram:
    """The graph for batches of images of any size, with nothing of the data in it."""
    # Zeros, because the program keeps its example; two of them, because a batch of one would be taken for a constant.
    example = torch.zeros(2, *subject.description["input_size"])
    return traced(subject.network, (example,), ({0: torch.export.Dim("batch")},))


@contextlib.contextmanager
def exporting(format: str) -> Iterator[None]:
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


def images_to_compare(gallery: Path, description: dict[str, Any]) -> tuple[Tensor, str]:
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
def difference_of(network: nn.Module, exported: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """The :func:`relative_difference` over batches of several sizes."""
    largest = 0.0
    for size in CHECKED_BATCH_SIZES:
        expected, actual = network(images[:size]), exported(images[:size])
        if actual.shape != expected.shape:
            raise RunError(f"the export gives {tuple(actual.shape)} for a batch of {size}, not {tuple(expected.shape)}")
        largest = max(largest, relative_difference(expected, actual))
    return largest


def relative_difference(expected: Tensor, actual: Tensor) -> float:
    """Largest difference of logits, relative to the largest of them where that is above 1; NaN counts as infinite."""
    scale = max(1.0, expected.abs().max().item())
    return torch.nan_to_num((actual - expected).abs() / scale, nan=float("inf")).max().item()


def require_close(difference: float, format: str) -> None:
    if difference > TOLERANCE:
        raise RunError(
            f"the {format} export computes other logits than PyTorch: they differ by {difference:.2g}, at most {TOLERANCE:g} is allowed"
        )
