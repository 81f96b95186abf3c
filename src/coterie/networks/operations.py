"""Finds where to split a network: its block boundaries, by the share of operations after them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from coterie.networks.tracing import find_classifier, quiet_eval

BRANCH_SHARE = 1 / 3


def _boundaries(module: nn.Module, prefix: str = "") -> list[str]:
    """Returns the paths of the network's blocks: its children, and the children of plain sequences."""
    found = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, (nn.Sequential, nn.ModuleList)) and len(child):
            found.append(path)
            found += _boundaries(child, f"{path}.")
        elif any(True for _ in child.parameters()):
            found.append(path)
    return found


def branch_shares(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Returns the share of operations from each block's first call on, counted in one forward pass in eval mode."""
    starts: dict[str, int] = {}
    counter = FlopCounterMode(display=False)

    def note(path: str) -> Any:
        def hook(module: nn.Module, arguments: Any) -> None:
            starts.setdefault(path, counter.get_total_flops())

        return hook

    modules = dict(network.named_modules())
    hooks = [modules[path].register_forward_pre_hook(note(path)) for path in _boundaries(network)]
    # The counter follows gradients through modules and fails on a parameter that is a module's input.
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with quiet_eval(network), counter:
            network(example)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for hook in hooks:
            hook.remove()
    total = max(1, counter.get_total_flops())
    # A ModuleList is not called itself: it starts with its first block.
    for path in reversed(_boundaries(network)):
        if path not in starts and f"{path}.0" in starts:
            starts[path] = starts[f"{path}.0"]
    return {path: 1 - start / total for path, start in starts.items()}


def split_candidates(network: nn.Module, example: Tensor) -> list[str]:
    """Returns block boundaries before the classifier, sorted by how close the branch's share of operations is to one third.

    For boundaries at the same place, the shortest path comes first (``layer3`` before ``layer3.0``).
    """
    shares = branch_shares(network, example)
    classifier = find_classifier(network, example)
    inside = {path: share for path, share in shares.items() if 0 < share < 1 and not classifier.startswith(path)}
    return sorted(inside, key=lambda path: (round(abs(inside[path] - BRANCH_SHARE), 6), path.count(".")))
