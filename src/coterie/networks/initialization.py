"""Initial values of further branches, where only one network is at hand."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks.tracing import quiet_eval
from coterie.randomness import derive_seed, seeded

PERTURBATION = 0.01  # of each tensor's standard deviation


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, name))


def _permute(tensor: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    tensor.copy_(tensor.flatten()[order].view_as(tensor))


def is_lazy(network: nn.Module) -> bool:
    """Whether a network has parameters whose shapes its first batch decides (``nn.LazyLinear`` and the like)."""
    return any(nn.parameter.is_lazy(tensor) for tensor in [*network.parameters(), *network.buffers()])


def materialised(network: nn.Module, example: Tensor, seed: int) -> nn.Module:
    """The network itself, after lazy parameters have got their shapes from an example and their values from the seed.

    Raises:
        CoterieError: it does not take the example.
    """
    if is_lazy(network):
        with seeded(seed), quiet_eval(network):
            try:
                network(example)
            except Exception as error:  # whatever the user's forward raises
                reason = " ".join(str(error).split())[:160] or type(error).__name__
                raise CoterieError(
                    f"{type(network).__name__} has lazy layers and does not take {list(example.shape)}: {reason}"
                ) from None
    return network


def restart_classifier(network: nn.Module, classifier: str) -> None:
    """Give a classifier that starts anew, on features that are trained, the initial values of torch's linear layers: small logits.

    Networks have initial values of their own for a training from nothing. Those of timm's EfficientNets spread the logits of 20 classes
    by 3, and unlearning that costs the features: with 10 images a class, tf_efficientnet_lite0 comes to 63 % rather than to chance.
    """
    layer = network.get_submodule(classifier)
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        layer.reset_parameters()


@torch.no_grad()
def permuted(network: nn.Module, seed: int) -> nn.Module:
    """A copy whose trained parameters are each shuffled by their own seed: the same distribution, other values.

    Independent initial values are exchangeable, so a shuffled tensor is as good a draw as the given one. Constants stay
    what they are, and so do buffers and parameters that are not trained (fixed position tables).
    """
    fresh = copy.deepcopy(network)
    for name, parameter in fresh.named_parameters():
        if parameter.requires_grad:
            _permute(parameter, _generator(seed, name))
    return fresh


@torch.no_grad()
def copied(network: nn.Module, classifier: str, seed: int) -> nn.Module:
    """A copy with a classifier of its own (shuffled) and every other parameter moved by 1 % of its standard deviation."""
    fresh = copy.deepcopy(network)
    for name, parameter in fresh.named_parameters():
        generator = _generator(seed, name)
        if name.startswith(f"{classifier}."):
            _permute(parameter, generator)
        elif parameter.requires_grad and parameter.numel() > 1:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(noise * parameter.std() * PERTURBATION)
    return fresh
