"""Splits a network into a trunk and branches with ``torch.fx``, without editing it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError, did_you_mean
from coterie.networks.cutting import Parts, has_channels_last, input_size, say_left_out
from coterie.networks.group import StudentGroup
from coterie.networks.initialization import copied, materialised, permuted
from coterie.networks.operations import split_candidates
from coterie.networks.taps import stage_taps
from coterie.networks.tracing import (
    TracedNetwork,
    trace,
)
from coterie.randomness import derive_seed, seeded

NetworkSource = nn.Module | Callable[[], nn.Module]


def branch(
    network: NetworkSource,
    branches: int = 4,
    at: str | None = "auto",
    *,
    init: Literal["fresh", "copy"] | None = None,
    seed: int = 0,
    example: Tensor | None = None,
    trunk_gradient: Literal["sum", "mean"] = "sum",
    taps: Sequence[str] | Literal["stages"] = (),
) -> StudentGroup:
    """Splits a network before the first operation of the module ``at`` and gives every student its own branch.

    The group takes ownership: its trunk and branch 0 are the given network's own modules.

    Args:
        network: any module that ``torch.fx`` can trace through the ancestors of ``at``, or a callable that builds one. With a
            callable, network k is built under a seed derived from (seed, k), so student 0 starts like a single network.
        branches: number of students, at least 1.
        at: path of a submodule, such as ``layer3`` or ``blocks.8``; ``auto``: the network's ``suggested_split``, else the block boundary whose branch holds the
            share of operations closest to one third; None: peers, nothing shared.
        init: ``fresh`` (default): each additional branch gets new initial values, from a new network if ``network`` is a callable, else seeded permutations of
            the given tensors (independent initial values are exchangeable; constants and buffers are kept). ``copy``, for pretrained networks: copies with a
            new classifier and a perturbation of 1 % of each tensor's standard deviation, since identical copies would stay identical.
        seed: seed of the initial values.
        example: a batch of inputs to measure shapes with; None: zeros of timm's input size, or [2, 3, 224, 224].
        trunk_gradient: whether the branches' gradients are summed at the split or averaged (CL-ILR's rescaling).
        taps: module paths in the branches whose outputs the group also returns, or ``stages``: the ends of the network's
            stages, see :func:`~coterie.networks.taps.stage_taps`.

    Raises:
        CoterieError: an unknown split point (with the closest valid name), a network that cannot be traced (with the place), or a module or parameter that both
            sides of the split would own.

    Example:
        >>> import timm
        >>> group = branch(timm.create_model("resnet10t", num_classes=10), branches=3, at="layer4")
        >>> group(torch.randn(2, 3, 64, 64)).logits.shape
        torch.Size([3, 2, 10])
    """
    if branches < 1:
        raise CoterieError(f"branches={branches}: expected at least 1")
    first = _build(network, seed, 0) if not isinstance(network, nn.Module) else network
    if example is None:
        example = torch.zeros(2, *input_size(first))
    materialised(first, example, derive_seed(seed, "lazy", 0))
    traced = None
    if at == "auto":
        at, traced = _choose_split(first, example)
    if at is not None and at not in dict(first.named_modules()):
        names = [name for name, _ in first.named_modules() if name]
        raise CoterieError(
            f"unknown split point {at!r} of {type(first).__name__}{did_you_mean(at, names)}; "
            f"expected a module such as {', '.join(name for name, _ in first.named_children())}"
        )
    taps = stage_taps(first) if taps == "stages" else taps
    if traced is None or taps:
        traced = trace(first, at, example, taps)
    networks = [first]
    for number in range(1, branches):
        if init == "copy":
            networks.append(copied(first, traced.classifier, derive_seed(seed, "student", number)))
        elif isinstance(network, nn.Module):
            networks.append(permuted(first, derive_seed(seed, "student", number)))
        else:
            networks.append(materialised(_build(network, seed, number), example, derive_seed(seed, "lazy", number)))
    for other in networks[1:]:  # what an overridden train() of the first network froze
        for name, parameter in first.named_parameters():
            other.get_parameter(name).requires_grad_(parameter.requires_grad)
    say_left_out(traced)
    template = copy.deepcopy(first)
    parts = Parts(traced, at)
    trunk = parts.trunk(first) if at is not None else None
    modules = [parts.branch(each) for each in networks]
    return StudentGroup(
        trunk,
        modules,
        trunk_gradient=trunk_gradient,
        example=example,
        classifiers=[traced.classifier] * branches,
        templates=[template] * branches,
        split_point=at,
        channels_last_maps=has_channels_last(first),
        tap_names=[traced.taps] * branches,
    )


def _build(network: Callable[[], nn.Module], seed: int, number: int) -> nn.Module:
    with seeded(derive_seed(seed, "student", number)):
        return network()


def _choose_split(network: nn.Module, example: Tensor) -> tuple[str, TracedNetwork]:
    """Returns the best candidate at which the network can be split, and the network as traced for it."""
    suggested = getattr(network, "suggested_split", None)
    candidates = [str(suggested)] if suggested else split_candidates(network, example)
    problem: CoterieError | None = None
    for at in candidates[:8]:
        try:
            traced = trace(network, at, example)
            Parts(traced, at).trunk(network)
            return at, traced
        except CoterieError as error:
            problem = problem or error
    raise problem or CoterieError(f"{type(network).__name__} has no block boundary to split at; name a module, at=...")
