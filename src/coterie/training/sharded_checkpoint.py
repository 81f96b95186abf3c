"""Checkpoints of a training whose networks are shared out over processes: every process writes its own part, and any number of processes read them.

Beside the checkpoint file, which holds all that is not a tensor of the networks or the optimizer, stands a folder of safetensors files by
torch.distributed.checkpoint. The file names the folder, and is replaced in one move once the folder is whole: a kill leaves the checkpoint before. Torch's own
format of such folders is not used: its index is a pickle.
"""

from __future__ import annotations

import re
import secrets
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from coterie.errors import RunError
from coterie.files import reason_of
from coterie.training.checkpoint import save_checkpoint

KEY = "shards"  # of a checkpoint's state
SHAPED, NUMBER = "shaped", "number"  # tensors of an optimizer's state: shaped like their parameter, and a single number


def weights_of(method: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that are saved, by names of which one that has several appears once: safetensors refuses tensors that share memory."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in method.state_dict(keep_vars=True).items():
        found.setdefault(id(value), (f"method.{name}", value))
    return {name: value.detach() for name, value in found.values()}


def optimizer_tensors(method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors of the optimizer's state by the names of the parameters that they belong to."""
    names = {id(value): name for name, value in method.named_parameters()}
    return {
        f"optimizer.{names[id(parameter)]}.{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def optimizer_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What of the optimizer's state is no tensor, and which tensors there are besides."""
    state = optimizer.state_dict()
    kinds = {number: {key: _kind(value) for key, value in values.items()} for number, values in state["state"].items()}
    return {"kinds": kinds, "param_groups": state["param_groups"]}


def _kind(value: Any) -> Any:
    """How a value of an optimizer's state comes back: as its parameter, as a number in a tensor, or as it stands."""
    if not isinstance(value, Tensor):
        return {"value": value}
    return SHAPED if value.ndim else NUMBER


def save_sharded(path: Path, state: dict[str, Any], tensors: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Write a checkpoint file and the folder of tensors beside it; all processes take part.

    Args:
        path: of the file; the folder's name begins with its stem.
        state: what the file holds besides, of the first process.
        tensors: by name.
        accelerator: of the processes.

    Raises:
        RunError: the disk is full, or the folder is not there; the previous checkpoint is kept.
    """
    from torch.distributed import checkpoint as distributed

    (name,) = broadcast_object_list([f"{path.stem}-{secrets.token_hex(8)}"])
    folder = path.with_name(name)
    try:
        distributed.save(
            dict(tensors), storage_writer=distributed.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        )
    except distributed.api.CheckpointException as error:
        first = next((each for each, _ in error.failures.values()), error)
        reason = reason_of(first, path.parent) or str(first)[:200]
        shutil.rmtree(folder, ignore_errors=True)
        raise RunError(f"cannot write {str(folder)!r}: {reason}") from None
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    sizes = {each.name: each.stat().st_size for each in folder.iterdir()}
    save_checkpoint(path, {**state, KEY: {"folder": name, "sizes": sizes}})
    for other in path.parent.glob(f"{path.stem}-*"):
        if other != folder and _is_name(other.name, path):
            shutil.rmtree(other, ignore_errors=True)


def read_sharded(path: Path, shards: Any, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors from the folder beside a checkpoint file. Those that are shared out over processes take their part, whatever the number that wrote them.

    Args:
        path: of the file.
        shards: what it says of its folder.
        tensors: are written in place. What else the folder holds is left there.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: the folder is damaged, or of another run.
    """
    from torch.distributed import checkpoint as distributed

    name, sizes = shards["folder"], dict(shards["sizes"])
    if not _is_name(name, path) or not all(re.fullmatch(r"[\w.-]+\.safetensors", each) for each in sizes):
        raise ValueError(f"its folder is {str(name)[:80]!r}")
    folder = path.with_name(name)
    found = {each.name: each.stat().st_size for each in folder.iterdir()} if folder.is_dir() else {}
    if found != sizes:  # a part that is missing would leave tensors as they are in places
        raise ValueError(f"its folder {name!r} does not hold what was written there")
    alone = not any(isinstance(each, DTensor) for each in tensors.values())
    try:
        reader = distributed.HuggingFaceStorageReader(str(folder))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is what is meant
            distributed.load(dict(tensors), storage_reader=reader, no_dist=alone)
    except distributed.api.CheckpointException as error:
        raise ValueError(str(next((each for each, _ in error.failures.values()), error))) from None


def restore_optimizer(
    path: Path, shards: Any, method: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> None:
    """Bring an optimizer's state back from a checkpoint.

    Args:
        path, shards: see :func:`read_sharded`.
        method: whose parameters are optimized.
        optimizer: of the training that goes on.
        settings: of :func:`optimizer_settings`, as the checkpoint holds them.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: the state is damaged, or of another optimizer.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {id(value): name for name, value in method.named_parameters()}
    state: dict[int, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for number, kinds in settings["kinds"].items():
        parameter = parameters[number]
        state[number] = {}
        for key, kind in kinds.items():
            if isinstance(kind, dict):
                state[number][key] = kind["value"]
                continue
            room = torch.zeros_like(parameter) if kind == SHAPED else torch.zeros((), device=parameter.device)
            state[number][key] = tensors[f"optimizer.{names[id(parameter)]}.{key}"] = room.detach()
    read_sharded(path, shards, tensors)
    optimizer.load_state_dict({"state": state, "param_groups": settings["param_groups"]})


def _is_name(name: Any, path: Path) -> bool:
    """Whether a folder is one of those that :func:`save_sharded` makes for this checkpoint, and no other place."""
    return isinstance(name, str) and re.fullmatch(rf"{re.escape(path.stem)}-[0-9a-f]{{16}}", name) is not None
