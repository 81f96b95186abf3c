"""LoRA by the package peft, and gradient checkpointing for any network.

Source: LoRA (Hu et al., ICLR 2022, arXiv 2106.09685).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from coterie.errors import CoterieError, did_you_mean
from coterie.networks.hugging_face import short_reason
from coterie.randomness import derive_seed, seeded

ADAPTER = "default"
ALL = "all-linear"


def add_lora(
    network: nn.Module,
    *,
    rank: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    targets: str | Sequence[str] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Add LoRA to some layers of a network and freeze all other weights. The returned model owns the network.

    Args:
        network: a network of transformers.
        rank: r, rank of the added matrices.
        alpha: their product is scaled by alpha / r. Users of peft commonly choose 8 and 16; peft's defaults are 8 and 8.
        dropout: dropout on the input of the added matrices.
        targets: names of the layers that get LoRA, as a list or separated by commas; ``all-linear``: all linear layers but the output embedding; None: peft's default for the architecture.
        seed: seed of the initial values; those of a layer are a function of the seed and the layer's name. The second matrix starts at zero, so the outputs are unchanged at first.

    Returns:
        A ``peft.PeftModel``; :func:`merged` turns it into a plain network.

    Raises:
        CoterieError: peft is not installed, settings are out of bounds, or a layer does not exist.
    """
    if rank < 1 or alpha < 1 or not 0 <= dropout < 1:
        raise CoterieError(
            f"rank={rank}, alpha={alpha}, dropout={dropout}: expected 1 or more, 1 or more, and 0 to below 1"
        )
    try:
        import peft
        from peft.tuners.lora import LoraLayer
    except ImportError:
        raise CoterieError("LoRA needs the package peft: pip install 'coterie[text]'") from None
    modules = _require_layers(network, targets)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules, task_type="CAUSAL_LM"
    )
    _require_conv1d_known(config, network)
    try:
        with seeded(derive_seed(seed, "lora")), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # peft's calls of what transformers renames are not the user's
            adapted: nn.Module = peft.get_peft_model(network, config)
    except Exception as error:  # peft raises many kinds
        hint = "; name layers as targets, or all-linear" if targets is None else ""
        raise CoterieError(f"no LoRA for {type(network).__name__}: {short_reason(error)}{hint}") from None
    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            with seeded(derive_seed(seed, name)):
                module.reset_lora_parameters(ADAPTER, init_lora_weights=True)
    return adapted


def _require_layers(network: nn.Module, targets: str | Sequence[str] | None) -> str | list[str] | None:
    """Return the targets in peft's form, a list of names, after checking that each names a layer of the network.

    Raises:
        CoterieError: no layer has this name, or the named module is not a layer with weights.
    """
    if targets is None:
        return None
    names = [each.strip() for each in targets.split(",")] if isinstance(targets, str) else list(targets)
    if names == [ALL]:
        return ALL
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, Conv1D, BaseTunerLayer)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    known = sorted({name.rpartition(".")[2] for name in layers if not name.rpartition(".")[2].isdecimal()})
    for target in names:
        found = [name for name, _ in network.named_modules() if name == target or name.endswith(f".{target}")]
        if not found:
            raise CoterieError(
                f"network.lora.targets: no layer is called {target!r}{did_you_mean(target, [*known, *layers, ALL])}; "
                f"{type(network).__name__} has {', '.join(known)}, or all-linear"
            )
        if not layers.keys() & set(found):
            raise CoterieError(
                f"network.lora.targets: {target!r} is no layer with a matrix; {type(network).__name__} has {', '.join(known)}, or all-linear"
            )
    return names


def _require_conv1d_known(config: Any, network: nn.Module) -> None:
    """GPT-2's linear layers store their weights transposed. Set this in the configuration, since peft otherwise corrects it with a warning."""
    from transformers.pytorch_utils import Conv1D

    config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in network.modules())


def has_lora(network: nn.Module) -> bool:
    """Whether :func:`add_lora` made this network."""
    return hasattr(network, "merge_and_unload")


def merged(network: nn.Module) -> nn.Module:
    """Return a plain copy of a network with LoRA merged into its weights, all of them trainable; without LoRA, a copy.

    Its logits are those of the network in eval mode, except for rounding.
    """
    plain = copy.deepcopy(network)
    if has_lora(plain):
        plain = plain.merge_and_unload()  # type: ignore[operator]
        plain.requires_grad_(True)
    return plain.train(network.training)


def save_memory(network: nn.Module, enabled: bool = True) -> None:
    """Switch gradient checkpointing on or off: activations of each block are recomputed in the backward pass instead of kept.

    Raises:
        CoterieError: the architecture does not support it.
    """
    model: Any = network
    if not getattr(model, "supports_gradient_checkpointing", True):
        raise CoterieError(f"{type(network).__name__} offers no gradient checkpointing")
    later = hasattr(model, "activation_checkpointing_enable")  # its name in later versions of transformers
    kind = "activation" if later else "gradient"
    if enabled:
        options = {f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}
        getattr(model, f"{kind}_checkpointing_enable")(**options)
    else:
        getattr(model, f"{kind}_checkpointing_disable")()
    model.config.use_cache = not enabled  # a key-value cache would waste memory
