"""timm's preprocessing configuration of a deployed student."""

from __future__ import annotations

from typing import Any

from torch import nn


def prepared_for(network: nn.Module, description: dict[str, Any]) -> dict[str, Any]:
    """Returns timm's ``pretrained_cfg`` of a student, from which ``timm.data.resolve_model_data_config`` reads its preprocessing.

    Args:
        network: a network built by timm.
        description: content of ``student.json``.
    """
    built_in: Any = network.pretrained_cfg
    # With `first_conv`, timm would convert the weights of the first convolution from colour images; these need no conversion.
    kept = ("classifier", "fixed_input_size") + (("first_conv",) if description["input_size"][0] == 3 else ())
    return {
        **{key: built_in[key] for key in kept if built_in.get(key) is not None},
        "num_classes": description["num_classes"],
        "input_size": list(description["input_size"]),
        "mean": description["mean"],
        "std": description["std"],
        "interpolation": description["interpolation"],
        "crop_pct": description["crop"],
        "crop_mode": "center",
        "custom_load": False,
    }
