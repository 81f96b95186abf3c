"""Common parts of all tasks' exports: the exported network, its graph, and the check that an export computes the same as PyTorch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError, RunError

TOLERANCE = 1e-4  # on logits, relative to the largest of them if that is above 1
CHECKED_BATCH_SIZES = (1, 3)
# A protobuf file holds at most 2 GiB; weights near that size are written to a separate file.
LARGEST_ONNX_FILE = 2**31 - 2**24


@dataclass(frozen=True)
class Subject:
    """The network to export.

    Attributes:
        network: the network in eval mode, on the CPU: a plain network of its library, or several of them as one module.
        tensors: the weights, as in ``model.safetensors``.
        description: as in ``student.json``; for several students ``networks`` instead of ``network`` and ``options``.
        which: student, a student's number, ensemble or method.
        tokenizer: folder of the network's tokenizer, if it has one.
    """

    network: nn.Module
    tensors: dict[str, Tensor]
    description: dict[str, Any]
    which: str
    tokenizer: Path | None = None

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


def traced(
    network: nn.Module, examples: tuple[Tensor, ...], dynamic_shapes: tuple[dict[int, Any], ...]
) -> torch.export.ExportedProgram:
    """Traces the network's graph, and removes local paths from it. The program keeps its example inputs."""
    program = torch.export.export(network, examples, dynamic_shapes=dynamic_shapes)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # contains paths of this installation
    return program


@contextlib.contextmanager
def exporting(format: str) -> Iterator[None]:
    """Context that silences torch's and onnxscript's developer messages, and reports the reason of a failure in one line."""
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
    except Exception as error:  # the exporters raise many types, with long messages
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"this network cannot be exported as {format}: {type(error).__name__}: {reason}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def relative_difference(expected: Tensor, actual: Tensor) -> float:
    """Returns the largest difference of logits, relative to the largest of them if that is above 1; NaN counts as infinite."""
    scale = max(1.0, expected.abs().max().item())
    return torch.nan_to_num((actual - expected).abs() / scale, nan=float("inf")).max().item()


def require_close(difference: float, format: str) -> None:
    if difference > TOLERANCE:
        raise RunError(
            f"the {format} export computes something else than PyTorch: they differ by {difference:.2g}, at most {TOLERANCE:g} is allowed"
        )


def require_onnx() -> Any:
    """Returns the package onnxruntime.

    Raises:
        CoterieError: onnxruntime is missing, or onnxscript, which torch needs to write the format.
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
    trace: Callable[[], torch.export.ExportedProgram],
    path: Path,
    inputs: list[str],
    metadata: dict[str, str],
    output: str = "logits",
) -> None:
    """Write a network's graph with one output as ONNX.

    Raises:
        RunError: the network cannot be traced, or has operations that ONNX does not support.
    """
    with exporting("onnx"):
        program = torch.onnx.export(trace(), dynamo=True, input_names=inputs, output_names=[output], verbose=False)
    assert program is not None
    program.model.metadata_props.update(metadata)
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value)
    program.save(path, external_data=size > LARGEST_ONNX_FILE)
