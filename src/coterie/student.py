"""The deployed student in a run folder: its weights, and its description ``student.json``, from which the task rebuilds the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from coterie.errors import CoterieError
from coterie.files import write_atomically, write_json
from coterie.run_folder import RunFolder
from coterie.run_lock import require_finished
from coterie.tasks import UNNAMED, find_part


def save_student(folder: RunFolder, network: nn.Module, description: dict[str, Any]) -> None:
    """Write the network's weights and its description, each atomically."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_atomically(folder.student, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_json(folder.student_description, description)


def load_weights(network: nn.Module, folder: RunFolder) -> None:
    """Load the student's weights into a network, strictly.

    Raises:
        CoterieError: the file is damaged, or does not fit the network.
    """
    try:
        network.load_state_dict(load_file(folder.student), strict=True)
    except (SafetensorError, OSError) as error:
        raise CoterieError(f"{str(folder.student)!r} is damaged: {error}") from None
    except RuntimeError as error:
        raise CoterieError(
            f"{str(folder.student)!r} does not fit this network: {str(error).splitlines()[-1].strip()[:160]}"
        ) from None


def task_of(description: dict[str, Any]) -> str:
    """Returns the task of a run, from its ``student.json``."""
    return str(description.get("task", UNNAMED))


def load_student(run: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load the deployed student of a finished run as a plain network in eval mode.

    Args:
        run: the run folder.
        network: the untrained network, if the run was trained on a custom module rather than a named network.

    Returns:
        The network on the CPU, with weights loaded strictly.

    Raises:
        CoterieError: the folder holds no run, the run has no student, or the weights are damaged or do not fit the network.
    """
    if network is not None and not isinstance(network, nn.Module):
        raise CoterieError(f"network={type(network).__name__}: expected the untrained network, a module")
    folder = RunFolder(run).require()
    require_finished(folder)
    description = folder.read_description()
    if network is None and description["network"] is None:
        raise CoterieError(
            f"the run {str(run)!r} was trained on a network of your own: pass it, load_student(run, network=...)"
        )
    kind = find_part(task_of(description), "deployed")
    student: nn.Module = kind.load_student(folder, description, network)
    return student.eval()
