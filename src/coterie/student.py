"""The deployed student in a run's folder: its weights, and its description ``student.json``, from which its task builds it again."""

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
    """Write the plain network's weights and how it is built, each in one move."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_atomically(folder.student, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_json(folder.student_description, description)


def load_weights(network: nn.Module, folder: RunFolder) -> None:
    """Fill a network with the student's weights, strictly.

    Raises:
        CoterieError: a damaged file, or another network's.
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
    """The task of a run, from its ``student.json``."""
    return str(description.get("task", UNNAMED))


def load_student(run: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load the deployed student of a finished run as a plain network in eval mode.

    Args:
        run: the run's folder.
        network: the untrained network, where the run was trained on a module of one's own rather than a named one.

    Returns:
        The network on the CPU, weights loaded strictly.

    Raises:
        CoterieError: no run, a run without a student, damaged weights, or a network that they do not fit.
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
