"""Checkpoints of sharded training: every process writes its own shard, and any number of processes can read them.

The checkpoint file holds everything except the tensors of the networks and the optimizer. These are in a folder of safetensors files next to it, written by
torch.distributed.checkpoint. The file names the folder, and is replaced atomically once the folder is complete: if a process is killed, the previous checkpoint
remains. Torch's own format of such folders is not used, because its index is a pickle.
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

KEY = "shards"  # in a checkpoint's state
SHAPED, NUMBER = "shaped", "number"  # tensors of an optimizer's state: shaped like their parameter, or a scalar


def weights_of(method: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers to save, by name. A tensor with several names appears once: safetensors refuses tensors that share memory."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in method.state_dict(keep_vars=True).items():
        found.setdefault(id(value), (f"method.{name}", value))
    return {name: value.detach() for name, value in found.values()}


def optimizer_tensors(method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the tensors of the optimizer's state, by the names of their parameters."""
    names = {id(value): name for name, value in method.named_parameters()}
    return {
        f"optimizer.{names[id(parameter)]}.{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def optimizer_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns the part of the optimizer's state that is not tensors, and the kinds of its tensors."""
    state = optimizer.state_dict()
    kinds = {number: {key: _kind(value) for key, value in values.items()} for number, values in state["state"].items()}
    return {"kinds": kinds, "param_groups": state["param_groups"]}


def _kind(value: Any) -> Any:
    """Returns how a value of an optimizer's state is restored: as a tensor shaped like its parameter, as a scalar tensor, or as the stored value."""
    if not isinstance(value, Tensor):
        return {"value": value}
    return SHAPED if value.ndim else NUMBER


def save_sharded(path: Path, state: dict[str, Any], tensors: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Write a checkpoint file and the folder of tensors next to it; all processes must call this.

    Args:
        path: path of the file; the folder's name begins with its stem.
        state: the content of the file; that of the main process is used.
        tensors: tensors by name.
        accelerator: the accelerator of the processes.

    Raises:
        RunError: the disk is full, or the folder does not exist; the previous checkpoint is kept.
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
    """Fill tensors from the folder next to a checkpoint file. Sharded tensors read their shard, whatever the number of processes that wrote them.

    Args:
        path: path of the file.
        shards: the file's entry about its folder.
        tensors: tensors that are written in place. Other tensors in the folder are ignored.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: the folder is damaged, or belongs to another run.
    """
    from torch.distributed import checkpoint as distributed

    name, sizes = shards["folder"], dict(shards["sizes"])
    if not _is_name(name, path) or not all(re.fullmatch(r"[\w.-]+\.safetensors", each) for each in sizes):
        raise ValueError(f"its folder is {str(name)[:80]!r}")
    folder = path.with_name(name)
    found = {each.name: each.stat().st_size for each in folder.iterdir()} if folder.is_dir() else {}
    if found != sizes:  # a missing shard would leave parts of tensors unchanged
        raise ValueError(f"its folder {name!r} does not hold what was written there")
    alone = not any(isinstance(each, DTensor) for each in tensors.values())
    try:
        reader = distributed.HuggingFaceStorageReader(str(folder))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as intended
            distributed.load(dict(tensors), storage_reader=reader, no_dist=alone)
    except distributed.api.CheckpointException as error:
        raise ValueError(str(next((each for each, _ in error.failures.values()), error))) from None


def restore_optimizer(
    path: Path, shards: Any, method: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> None:
    """Restore an optimizer's state from a checkpoint.

    Args:
        path, shards: see :func:`read_sharded`.
        method: the method whose parameters are optimized.
        optimizer: the optimizer to restore.
        settings: the result of :func:`optimizer_settings`, from the checkpoint.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: the state is damaged, or belongs to another optimizer.
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
    """Whether a name is one that :func:`save_sharded` gives to a folder of this checkpoint, and not another path."""
    return isinstance(name, str) and re.fullmatch(rf"{re.escape(path.stem)}-[0-9a-f]{{16}}", name) is not None
