"""Shards students, teachers and optimizer over processes with torch's FSDP2: each process holds its shard of every tensor, and a block is gathered only while it computes.

Parts of a training that are not networks of the task stay whole, or are refused: nothing is computed on a shard.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from coterie.errors import CoterieError
from coterie.methods.method import Method
from coterie.recipe import Recipe
from coterie.training.optimization import FUSED


class Shards:
    """Shards the networks of a method.

    Args:
        method: changed in place: its parameters, and its teachers', are :class:`torch.distributed.tensor.DTensor` afterwards.
        networks: the networks of students and teachers, each called as a whole; no other module may hold parameters.
        device: where they compute. Networks on the CPU are moved there block by block, so that no device holds a whole network.

    Raises:
        CoterieError: the method or a network cannot be sharded.
    """

    def __init__(self, method: Method, networks: Sequence[nn.Module], device: torch.device) -> None:
        _require_nothing_else(method, networks)
        self.networks = list(networks)
        self._outline = _without_values(method)
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        for network in self.networks:
            _shard(network, mesh)

    def reshard(self) -> None:
        """Reshard what an evaluation has left gathered; between training steps everything is sharded."""
        for network in self.networks:
            assert isinstance(network, FSDPModule)
            network.reshard()

    @torch.no_grad()
    def whole(self, method: Method, holds: bool) -> Method | None:
        """Returns the method with whole students on the CPU, or None without ``holds``; all processes must call this.

        Args:
            method: the sharded method.
            holds: whether this process gets the result.
        """
        self.reshard()
        for name, parameter in method.named_parameters():
            value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            if holds:
                self._outline.get_parameter(name).data = value.detach().cpu()
        if not holds:
            return None
        for name, buffer in method.named_buffers():
            self._outline.get_buffer(name).copy_(buffer)
        self._outline.deployed_student = method.deployed_student
        return self._outline.eval()


def require_shard_settings(recipe: Recipe) -> None:
    """Refuse settings that sharding does not support; without ``training.shard`` nothing is checked.

    Raises:
        CoterieError: a setting is not supported.
    """
    training = recipe.training
    if not training.shard:
        return
    import torch.distributed.checkpoint  # slow to import, and needed here only

    unserved = {
        "training.compile=true": training.compile,
        "training.ema": training.ema is not None,
        "training.checkpoint_branches=true": training.checkpoint_branches,
        "training.precision=fp16": training.precision == "fp16",
        "training.device=mps": training.device == "mps",
        f"network.freeze={recipe.network.freeze}": recipe.network.freeze not in {0, "backbone"},
    }
    instead = {
        "training.checkpoint_branches=true": "; use network.gradient_checkpointing=true",
        "training.precision=fp16": "; use bf16",
    }
    for setting, is_set in unserved.items():
        if is_set:
            raise CoterieError(f"training.shard=true does not go with {setting}{instead.get(setting, '')}")
    if not hasattr(torch.distributed.checkpoint, "HuggingFaceStorageWriter"):
        raise CoterieError(f"training.shard=true needs PyTorch 2.9 or newer, this is {torch.__version__}")
    if recipe.optimizer.name not in {"auto", *FUSED}:
        raise CoterieError(
            f"training.shard=true does not go with optimizer.name={recipe.optimizer.name!r}; expected one of {', '.join(sorted(FUSED))}"
        )


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Returns the repeated blocks of a network, outermost ones only: the members of each ModuleList whose modules have one class.

    Args:
        network: for example a language model, whose layers are in a ModuleList.
    """
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len({type(each) for each in child}) == 1:
                found.extend(each for each in child if not any(each is one for one in found))
            else:
                visit(child)

    visit(network)
    return found


def _require_nothing_else(method: Method, networks: Sequence[nn.Module]) -> None:
    """Checks that all parameters and buffers of a method are in its networks: gradients of others would not be synchronised between processes."""
    name = type(method).__name__
    if not networks:
        raise CoterieError("training.shard=true is for language models, whose networks are made of blocks")
    inside = {id(each) for network in networks for each in [*network.parameters(), *network.buffers()]}
    own = next(
        (key for key, value in [*method.named_parameters(), *method.named_buffers()] if id(value) not in inside), None
    )
    if own is not None:
        raise CoterieError(
            f"training.shard=true shares out students and teachers, and {name} holds {own!r} besides; expected a method without modules of its own, such as kd, rlkd or dml"
        )
    if method.build_optimizers():
        raise CoterieError(f"training.shard=true serves one optimizer, and {name} has others of its own")
    for network in networks:
        if any(getattr(module, "running_mean", None) is not None for module in network.modules()):
            raise CoterieError(
                f"training.shard=true: {type(network).__name__} keeps running statistics (BatchNorm), of which each process would have its own"
            )


def _shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shards each block, and the rest of the network with its root."""
    name = type(network).__name__
    blocks = blocks_of(network)
    within = {id(module) for block in blocks for module in block.modules()}
    outside = [module for module in network.modules() if id(module) not in within]
    groups = [{id(each) for each in block.parameters()} for block in blocks]
    groups.append({id(each) for module in outside for each in module.parameters(recurse=False)})
    if sum(map(len, groups)) > len(set().union(*groups)):
        raise CoterieError(f"training.shard=true: blocks of {name} share parameters, which would be shared out twice")
    if any(parameter.ndim == 0 for parameter in network.parameters()):
        raise CoterieError(
            f"training.shard=true: {name} has a parameter without dimensions, which cannot be shared out"
        )
    for block in blocks:
        fully_shard(block, mesh=mesh)
    # Parameters outside of blocks stay gathered after the forward pass: the backward pass begins with them, and logits that are computed in parts read the last
    # layer's weight. A teacher has no backward pass and keeps them gathered from then on.
    fully_shard(network, mesh=mesh, reshard_after_forward=False)


def _without_values(method: Method) -> Method:
    """Returns a copy with empty parameters, to be filled at the end; shared parameters stay shared."""
    empty: dict[int, Tensor] = {
        id(each): nn.Parameter(torch.empty(0, dtype=each.dtype), requires_grad=each.requires_grad)
        for each in method.parameters()
    }
    return copy.deepcopy(method, empty)
