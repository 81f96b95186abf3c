"""A deployed image classifier: how ``student.json`` builds it, and how timm prepares its images."""

from __future__ import annotations

from typing import Any

from torch import nn

from coterie.networks.creation import create_network
from coterie.networks.options import require_harmless_options
from coterie.run_folder import RunFolder
from coterie.student import load_weights


def load(folder: RunFolder, description: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """See :meth:`coterie.tasks.task.TaskKind.load_student`."""
    if network is None:
        require_harmless_options(description["options"], "student.json: options")
        network = create_network(
            description["network"], num_classes=description["num_classes"], **description["options"]
        )
    load_weights(network, folder)
    if description["network"] is not None and hasattr(network, "pretrained_cfg"):
        network.pretrained_cfg = {**prepared_for(network, description), "label_names": description["class_names"]}  # type: ignore[assignment]
    return network


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
