"""Files of every kind have the same pixels here as in classification."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.data.decoding import read_image
from coterie.errors import CoterieError, RunError
from coterie.tasks.restoration.data.pictures import read_pixels, read_size
from coterie.tasks.restoration.predict import _read

RAMP = np.linspace(0, 65_535, 24 * 40).reshape(24, 40)
EIGHT = (RAMP / 257).round().astype(np.uint8)


def save(path, kind):
    image, options = Image.fromarray(EIGHT), {}
    if kind == "16 bits":
        image = Image.fromarray(RAMP.astype(np.uint16))
    elif kind == "rotated":
        exif = Image.Exif()
        exif[274] = 6
        options["exif"] = exif
    elif kind == "palette":
        image = image.convert("P")
    elif kind == "transparent":
        image = Image.merge("RGBA", [image, image.rotate(180), image, image])
    image.save(path, **options)
    return image


@pytest.mark.parametrize("kind", ["grey", "16 bits", "rotated", "palette", "transparent"])
def test_all_kinds_are_read_as_in_classification(tmp_path, kind):
    path = tmp_path / "image.png"
    save(path, kind)
    pixels = read_pixels(path)
    assert np.array_equal(pixels, np.asarray(read_image(path)))
    assert read_size(path) == pixels.shape[:2] == ((40, 24) if kind == "rotated" else (24, 40))
    levels = pixels if kind != "rotated" else np.rot90(pixels)
    assert np.abs(levels[..., 0].astype(int) - EIGHT).max() <= 1  # 16 bits are scaled, not clipped
    assert torch.equal(_read(path) * 255, torch.from_numpy(pixels.copy()).permute(2, 0, 1).float())
    with Image.open(path) as image:
        assert torch.equal(_read(image), _read(path))


def test_pixels_of_unknown_range_are_refused(tmp_path):
    path = tmp_path / "image.tif"
    Image.fromarray(RAMP.astype(np.float32)).save(path)
    with pytest.raises(RunError, match="floating-point pixels of unknown range"):
        read_pixels(path)
    with pytest.raises(CoterieError, match="floating-point pixels of unknown range"):
        _read(path)
    with pytest.raises(CoterieError, match="floating-point pixels of unknown range"):
        _read(Image.fromarray(RAMP.astype(np.float32)))
