"""Structured pruning: attention heads, MLP neurons, inner channels of residual blocks.

A structure is pruned by zeros in the weights of the layer that reads it, so a pruned network is an ordinary one that any loader accepts. The saved parameters
are counted, not removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError

Kind = Literal["head", "neuron", "channel"]


@dataclass(frozen=True)
class Structures:
    """The units of one layer that another layer reads.

    Attributes:
        kind: units are ranked among their kind.
        reader: path of the layer whose input columns belong to the units.
        writers: paths of the layers that compute the units.
        units: number of units.
        width: columns of the reader for each unit.
        parameters: number of parameters of one unit, in writers and reader.
    """

    kind: Kind
    reader: str
    writers: tuple[str, ...]
    units: int
    width: int
    parameters: int


def find_structures(network: nn.Module) -> list[Structures]:
    """Finds all prunable structures: timm's attention and MLP modules, residual blocks with ``conv1``, ``conv2`` (and ``conv3``).

    Raises:
        CoterieError: nothing is found.
    """
    found: list[Structures] = []
    for path, module in network.named_modules():
        prefix = f"{path}." if path else ""
        heads = getattr(module, "num_heads", None)
        qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
        if isinstance(heads, int) and isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear):
            width = proj.in_features // heads
            count = 3 * width * (qkv.in_features + (qkv.bias is not None)) + width * proj.out_features
            found.append(Structures("head", f"{prefix}proj", (f"{prefix}qkv",), heads, width, count))
        first, second = getattr(module, "fc1", None), getattr(module, "fc2", None)
        if isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and first.out_features == second.in_features:
            count = first.in_features + (first.bias is not None) + second.out_features
            found.append(Structures("neuron", f"{prefix}fc2", (f"{prefix}fc1",), first.out_features, 1, count))
        for one, two in (("conv1", "conv2"), ("conv2", "conv3")):
            writer, reader = getattr(module, one, None), getattr(module, two, None)
            if isinstance(writer, nn.Conv2d) and isinstance(reader, nn.Conv2d) and _fits(writer, reader):
                count = writer.weight[0].numel() + reader.weight[:, 0].numel() + 2  # plus BatchNorm's two
                found.append(Structures("channel", f"{prefix}{two}", (f"{prefix}{one}",), reader.in_channels, 1, count))
    if not found:
        raise CoterieError(
            f"{type(network).__name__} has no attention heads, MLP neurons or residual blocks that are known how to prune"
        )
    return found


def _fits(writer: nn.Conv2d, reader: nn.Conv2d) -> bool:
    return writer.out_channels == reader.in_channels and writer.groups == reader.groups == 1


def unit_scores(network: nn.Module, structures: Structures) -> Tensor:
    """Importance of each unit, [units]: norm of its writing weights times norm of its reading weights, divided by the norm of the layer's scores.

    The normalisation makes layers comparable, so that all units of a kind share one ranking.
    """
    reader = network.get_submodule(structures.reader).weight
    assert isinstance(reader, Tensor)
    read = reader.detach().flatten(2) if reader.ndim > 2 else reader.detach()
    columns = read.transpose(0, 1).flatten(1).reshape(structures.units, -1).norm(dim=1)
    written = torch.zeros_like(columns)
    for path in structures.writers:
        weight = network.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        rows = weight.detach().flatten(1)
        if structures.kind == "head":  # queries, keys and values of a head
            rows = rows.view(3, structures.units, -1).transpose(0, 1).flatten(1)
        written = written + rows.reshape(structures.units, -1).square().sum(1)
    scores = columns * written.sqrt()
    return scores / scores.norm().clamp(min=1e-12)


def keep_masks(network: nn.Module, structures: Sequence[Structures], sparsity: float) -> list[Tensor]:
    """Returns which units are kept when the lowest-scoring share ``sparsity`` of each kind is pruned; bool [units] each.

    A layer may lose all its units; its block is then the shortcut only.
    """
    scores = [unit_scores(network, each) for each in structures]
    masks: list[Tensor] = [torch.ones_like(each, dtype=torch.bool) for each in scores]
    for kind in {each.kind for each in structures}:
        chosen = [number for number, each in enumerate(structures) if each.kind == kind]
        joined = torch.cat([scores[number] for number in chosen])
        removed = round(sparsity * len(joined))
        if removed:
            order = joined.argsort(stable=True)
            keep = torch.ones_like(joined, dtype=torch.bool)
            keep[order[:removed]] = False
            parts = keep.split([structures[number].units for number in chosen])
            for number, part in zip(chosen, parts, strict=True):
                masks[number] = part
    return masks


def column_masks(structures: Sequence[Structures], masks: Sequence[Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Returns factors for the readers' weights by parameter name: 0 for columns of pruned units."""
    factors: dict[str, Tensor] = {}
    for each, keep in zip(structures, masks, strict=True):
        weight = network.get_submodule(each.reader).weight
        assert isinstance(weight, Tensor)
        columns = keep.repeat_interleave(each.width).to(weight.dtype)
        factors[f"{each.reader}.weight"] = columns.view(1, -1, *[1] * (weight.ndim - 2))
    return factors


def scale(network: nn.Module, structures: Sequence[Structures], masks: Sequence[Tensor]) -> float:
    """Returns the remaining share of the network's parameters."""
    total = sum(parameter.numel() for parameter in network.parameters())
    removed = sum(each.parameters * int((~keep).sum()) for each, keep in zip(structures, masks, strict=True))
    return 1 - removed / total


def apply_masks(network: nn.Module, factors: Mapping[str, Tensor]) -> None:
    """Multiplies a network's weights by the factors, in place."""
    with torch.no_grad():
        parameters = dict(network.named_parameters())
        for name, factor in factors.items():
            parameters[name].mul_(factor.to(parameters[name].device))
