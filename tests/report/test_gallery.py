from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coterie.report.gallery import inline_image


def test_a_small_image_goes_in_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    address, pixelated = inline_image(path)
    assert pixelated
    assert base64.b64decode(address.removeprefix("data:image/png;base64,")) == path.read_bytes()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_large_image_is_made_small(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "1.png"
    pixels = np.random.default_rng(0).integers(0, 256, (500, 700, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path)
    address, pixelated = inline_image(path)
    assert not pixelated
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        assert image.size == (192, 137)
    assert len(address) < 40_000
