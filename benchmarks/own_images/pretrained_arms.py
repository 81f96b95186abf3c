"""Arms of benchmarks/own_images/pretrained.py: settings of the two sources, arms of the table, and choices made on validation."""

from __future__ import annotations

from typing import Any

# About 300 steps (`ours`) or 170 (`imagenet`), fewer than `auto` would take, so that all runs finish within hours on one core.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "ours": {
        "data": {"image_size": 16},
        "network": {"name": "resnet8_cifar"},
        "optimizer": {"name": "sgd", "learning_rate": 0.02, "weight_decay": 5e-4, "exclude_norm_and_bias": False},
    },
    "imagenet": {
        "data": {"image_size": 64, "normalize": "network"},
        "network": {"name": "tf_efficientnet_lite0", "pretrained": True, "hold_statistics": True},
        "optimizer": {"name": "adamw", "learning_rate": 3.5e-4, "weight_decay": 0.05, "exclude_norm_and_bias": True},
    },
}
EPOCHS: dict[str, dict[int, int]] = {"ours": {10: 45, 25: 20, 100: 5}, "imagenet": {10: 12, 25: 6, 100: 2}}
BATCH = {"ours": 32, "imagenet": 16}  # images per step
WARMUP = 0.05  # share of training
FIRST_CHOICE = 101  # seeds from here on are for choices, on validation
TEACHER = {"network": {"name": "resnet20_cifar"}}  # of `ours`

GROUP = {"branches": 4, "at": "auto"}  # the registry's own for OKDMDE and OKDDip
PEERS = {"branches": 2, "at": "peers"}  # DML's


def arm(name: str, network: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Return a method with its options, and settings of the network that differ."""
    return {"method": {"name": name, **options}, "network": network or {}}


ARMS: dict[str, dict[str, Any]] = {
    "baseline": arm("baseline"),
    "baseline_long": arm("baseline"),  # with the operations of the group
    "independent": arm("independent", GROUP),
    "okdmde": arm("okdmde", GROUP),
    "okddip": arm("okddip", GROUP),
    "dml": arm("dml", PEERS),
    "kd": arm("kd"),
}
# Judged on validation, with seeds that the table does not use. `@` gives the learning rate as a factor of that of the settings.
RATES = {f"{name} @{factor:g}": ARMS[name] for name in ("baseline", "okdmde") for factor in (0.25, 1, 4)}
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "ours": {
        **RATES,
        "baseline, statistics held": arm("baseline", {"hold_statistics": True}),
        "okdmde, statistics held": arm("okdmde", {**GROUP, "hold_statistics": True}),
        # Remedies: gradients of the trunk, weight of the distillation, layers that each student owns.
        "okdmde, mean of gradients": arm("okdmde", {**GROUP, "trunk_gradient": "mean"}),
        "okdmde, weight 0.3": arm("okdmde", GROUP, distillation_weight=0.3),
        "okdmde, weight 3": arm("okdmde", GROUP, distillation_weight=3.0),
        "okdmde, split at layer2": arm("okdmde", {**GROUP, "at": "layer2"}),
        "okdmde, two peers": arm("okdmde", PEERS),
        "dml": ARMS["dml"],
    },
    "imagenet": {
        **{f"baseline @{factor:g}": ARMS["baseline"] for factor in (0.25, 0.5, 1, 3)},
        "baseline, statistics learnt": arm("baseline", {"hold_statistics": False}),
        "baseline, backbone frozen @3": arm("baseline", {"freeze": "backbone"}),
    },
}
