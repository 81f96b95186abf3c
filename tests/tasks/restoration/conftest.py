"""Images of 64 pixels, and a diffusion network of a few thousand parameters that stands in a folder; nothing is downloaded."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

SMALL = {"block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 4, "cross_attention_dim": 4}


def picture(seed, height=64, width=96):
    """Smooth colours with sharp stripes on them."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    pixels = np.array(rough.resize((width, height), Image.Resampling.BICUBIC))
    pixels[:, :: 7 + seed % 3] //= 2
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder with train/, val/ and test/."""
    root = tmp_path_factory.mktemp("images")
    for number, (split, count) in enumerate((("train", 2), ("val", 1), ("test", 1))):
        (root / split).mkdir()
        for each in range(count):
            picture(10 * number + each).save(root / split / f"{each}.png")
    return root


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory):
    """A pipeline's folder: ``unet/``."""
    from coterie.networks.one_step.unets import find_diffusion

    root = tmp_path_factory.mktemp("diffusion")
    find_diffusion("tiny_unet", 48, SMALL, seed=7).unet.save_pretrained(root / "unet")
    return root


@pytest.fixture(scope="session")
def settings(images, diffusion):
    """``settings(section=changes, ...)``: a recipe of seconds."""

    def of(**changes):
        sections = {
            "data": {"name": str(images), "crop": 32},
            "network": {"name": str(diffusion), "lora": {"rank": 2, "alpha": 2}},
            "method": {"name": "dfosd", "dists_backbone": "random"},
            "training": {"epochs": 2, "batch_size": 4, "device": "cpu", "log_every": 1},
            "optimizer": {"learning_rate": 0.002},
        }
        for name, values in changes.items():
            sections[name] = values if name == "method" else {**sections[name], **values}
        return {"task": "restoration", **sections}

    return of
