"""Where to listen inside a network: the ends of its stages, by module path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from coterie.errors import CoterieError

STAGES = 4


def stage_taps(network: nn.Module, count: int = STAGES) -> list[str]:
    """Paths of the modules that end a network's stages, from the input to the output, at most ``count``.

    Of timm's ``feature_info``, which lists them for nearly all of its networks: the last ``count`` where the stages differ in
    resolution (ResNet, ConvNeXt, Swin); of equal blocks (ViT, Mixer), the ends of ``count`` equal parts. Networks of the
    CIFAR family have three. Without ``feature_info``, the children that are sequences.

    Raises:
        CoterieError: nothing is found.
    """
    infos = _feature_info(network)
    known = dict(network.named_modules())
    names = [str(info["module"]) for info in infos if str(info.get("module")) in known]
    if names:
        reductions = [info.get("reduction") for info in infos]
        if len(set(reductions)) == 1 and len(names) > count:
            return [names[round((part + 1) * len(names) / count) - 1] for part in range(count)]
        return names[-count:]
    sequences = [name for name, child in network.named_children() if isinstance(child, nn.Sequential) and len(child)]
    if not sequences:
        raise CoterieError(f"{type(network).__name__} does not say what its stages are; name the modules to tap")
    stages = [name for name in sequences if name.startswith(("layer", "stage", "block"))]  # not stems and transitions
    return (stages or sequences)[-count:]


def _feature_info(network: nn.Module) -> Sequence[dict[str, Any]]:
    info = getattr(network, "feature_info", None)
    found = getattr(info, "info", info)
    return found if isinstance(found, (list, tuple)) else []
