"""Initial values of additional branches, if only one network is given."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks.tracing import quiet_eval
from coterie.randomness import derive_seed, seeded

PERTURBATION = 0.01  # share of each tensor's standard deviation


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, name))


def _permute(tensor: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    tensor.copy_(tensor.flatten()[order].view_as(tensor))


def is_lazy(network: nn.Module) -> bool:
    """Whether a network has uninitialised parameters (``nn.LazyLinear`` and the like)."""
    return any(nn.parameter.is_lazy(tensor) for tensor in [*network.parameters(), *network.buffers()])


def materialised(network: nn.Module, example: Tensor, seed: int) -> nn.Module:
    """Initialises lazy parameters in place, with shapes from an example and values from the seed, and returns the network.

    Raises:
        CoterieError: it does not accept the example.
    """
    if is_lazy(network):
        with seeded(seed), quiet_eval(network):
            try:
                network(example)
            except Exception as error:  # the user's forward may raise anything
                reason = " ".join(str(error).split())[:160] or type(error).__name__
                raise CoterieError(
                    f"{type(network).__name__} has lazy layers and does not take {list(example.shape)}: {reason}"
                ) from None
    return network


def restart_classifier(network: nn.Module, classifier: str) -> None:
    """Initialises a new classifier on pretrained features like torch's linear layers, so that logits are small.

    Networks' own initial values are meant for training from scratch. In timm's EfficientNets they give the logits of 20 classes a spread of 3, and unlearning
    that damages the features. With this initialisation and 10 images a class, tf_efficientnet_lite0 reaches 63 % rather than chance.
    """
    layer = network.get_submodule(classifier)
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        layer.reset_parameters()


@torch.no_grad()
def permuted(network: nn.Module, seed: int) -> nn.Module:
    """Returns a copy in which each trained parameter is shuffled with its own seed: the same distribution, other values.

    Independent initial values are exchangeable, so a shuffled tensor is an equally valid draw. Constant tensors, buffers and frozen parameters (fixed position
    tables) are unchanged.
    """
    fresh = copy.deepcopy(network)
    for name, parameter in fresh.named_parameters():
        if parameter.requires_grad:
            _permute(parameter, _generator(seed, name))
    return fresh


@torch.no_grad()
def copied(network: nn.Module, classifier: str, seed: int) -> nn.Module:
    """Returns a copy with a shuffled classifier and every other parameter perturbed by 1 % of its standard deviation."""
    fresh = copy.deepcopy(network)
    for name, parameter in fresh.named_parameters():
        generator = _generator(seed, name)
        if name.startswith(f"{classifier}."):
            _permute(parameter, generator)
        elif parameter.requires_grad and parameter.numel() > 1:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(noise * parameter.std() * PERTURBATION)
    return fresh
