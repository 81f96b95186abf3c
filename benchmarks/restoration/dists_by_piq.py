"""Writes DISTS values by piq (Apache-2.0) for random images and weights. ``tests/networks/test_dists.py`` compares ours with them. Only this script needs piq.

Nothing is downloaded: VGG-16 and the channel weights get values of numpy's generator, which are passed to piq in place of its own weights.

    pip install piq && python -m benchmarks.restoration.dists_by_piq tests/networks/dists_by_piq.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import vgg

CHANNELS = 1475  # of the image and VGG-16's five stages
SIZES = ((1, 32, 48), (2, 64, 64))  # images, height, width


def drawn(seed: int, *shape: int) -> Tensor:
    """Return reproducible random numbers from 0 to 1."""
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).float()


def weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of VGG-16, by torchvision's names, and ``alpha`` and ``beta``, which sum to 1, as piq assumes."""
    layers = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
    state = {}
    for number, (name, value) in enumerate(layers.state_dict().items()):
        fan = value[0].numel()
        state[name] = (drawn(number, *value.shape) - 0.5) * ((24 / fan) ** 0.5 if value.ndim > 1 else 0.1)
    channels = {name: drawn(100 + number, 1, CHANNELS, 1, 1) for number, name in enumerate(("alpha", "beta"))}
    total = sum(each.sum() for each in channels.values())
    return state, {name: each / total for name, each in channels.items()}


def pairs() -> list[tuple[Tensor, Tensor]]:
    """Return images and degraded versions, with noise and a shift."""
    found = []
    for number, (count, height, width) in enumerate(SIZES):
        first = drawn(200 + number, count, 3, height // 8, width // 8)
        first = nn.functional.interpolate(first, (height, width), mode="bilinear", align_corners=False)
        second = (0.7 * first + 0.3 * drawn(300 + number, count, 3, height, width)).roll(2, dims=3)
        found.append((first, second))
    return found


def by_piq() -> dict[str, Any]:
    import piq
    from piq import perceptual

    state, channels = weights()

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
            self.features.load_state_dict(state)

    perceptual.vgg16 = lambda **settings: Layers()
    torch.hub.load_state_dict_from_url = lambda *place, **settings: channels
    measure = piq.DISTS(reduction="none")
    with torch.inference_mode():
        numbers = [measure(*pair).flatten().tolist() for pair in pairs()]
    return {"made_by": "benchmarks/restoration/dists_by_piq.py", "piq": piq.__version__, "distances": numbers}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(by_piq(), indent=2) + "\n", encoding="utf-8")
