"""Finds the tap points of a network: the ends of its stages, by module path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from coterie.errors import CoterieError

STAGES = 4
SWIN_ENDS = (2, 4, 10, 12)  # block counts, of twelve blocks
MOBILENET_V2 = ("blocks.1", "blocks.2", "blocks.4", "bn2")
MOBILENET_V2_DEPTHS = [1, 2, 3, 4, 3, 3, 1]


def stage_taps(network: nn.Module, count: int = STAGES) -> list[str]:
    """Returns the paths of the modules that end a network's stages, from the input to the output, at most ``count``.

    They come from timm's ``feature_info``, which nearly all of its networks have. If stages differ in resolution (ResNet, ConvNeXt, Swin): the last ``count``.
    For twelve or more equal blocks (ViT, Mixer): four parts in Swin's proportions 2, 2, 6, 2, so blocks 1, 3, 9 and 11 of twelve (OFA-KD's code); for fewer,
    the ends of ``count`` equal parts. CIFAR networks have three. MobileNetV2 as in OFA-KD's code: blocks 2, 5, 12 counted individually, and the last
    convolution. Without ``feature_info``: the children that are sequences.

    Raises:
        CoterieError: nothing is found.
    """
    infos = _feature_info(network)
    known = dict(network.named_modules())
    names = [str(info["module"]) for info in infos if str(info.get("module")) in known]
    if names:
        reductions = [info.get("reduction") for info in infos]
        if count == STAGES and _is_mobilenet_v2(known):
            return list(MOBILENET_V2)
        if len(set(reductions)) == 1 and len(names) >= 12 and count == STAGES:
            return [names[round(part * len(names) / 12) - 1] for part in SWIN_ENDS]
        if len(set(reductions)) == 1 and len(names) > count:
            return [names[round((part + 1) * len(names) / count) - 1] for part in range(count)]
        return names[-count:]
    sequences = [name for name, child in network.named_children() if isinstance(child, nn.Sequential) and len(child)]
    if not sequences:
        raise CoterieError(f"{type(network).__name__} does not say what its stages are; name the modules to tap")
    stages = [
        name for name in sequences if name.startswith(("layer", "stage", "block"))
    ]  # excludes stems and transitions
    return (stages or sequences)[-count:]


def _is_mobilenet_v2(modules: Mapping[str, nn.Module]) -> bool:
    stages = [module for name, module in modules.items() if name.startswith("blocks.") and name.count(".") == 1]
    depths = [len(stage) for stage in stages if isinstance(stage, nn.Sequential)]
    return depths == MOBILENET_V2_DEPTHS and set(MOBILENET_V2) <= modules.keys()


def _feature_info(network: nn.Module) -> Sequence[dict[str, Any]]:
    info = getattr(network, "feature_info", None)
    found = getattr(info, "info", info)
    return found if isinstance(found, (list, tuple)) else []
