"""How timm prepares the images of a deployed student."""

from __future__ import annotations

from typing import Any

from torch import nn


def prepared_for(network: nn.Module, description: dict[str, Any]) -> dict[str, Any]:
    """Timm's ``pretrained_cfg`` of a student: how its images are prepared, by which ``timm.data.resolve_model_data_config`` goes.

    Args:
        network: built by timm.
        description: contents of ``student.json``.
    """
    built_in: Any = network.pretrained_cfg
    # Timm converts a first convolution that it believes was trained on colour images; these weights fit as they are.
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
