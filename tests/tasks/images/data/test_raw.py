from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.errors import CoterieError, RunError
from coterie.tasks.images.data.raw import Arrays, Files, RawData, require_consistent, to_image, to_pixels
from coterie.tasks.images.data.stored import ImagePaths

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        Image.fromarray(PIXELS),
        Image.fromarray(PIXELS).convert("RGBA"),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        torch.from_numpy(PIXELS).permute(2, 0, 1) / 255,
    ],
    ids=["array", "PIL", "transparent", "byte tensor", "float tensor"],
)
def test_images_of_every_kind_give_the_same_pixels(image):
    assert np.array_equal(to_pixels(image), PIXELS)


def test_grey_images_have_one_channel():
    grey = PIXELS[..., 0]
    for image in (grey, Image.fromarray(grey), torch.from_numpy(grey)[None]):
        assert np.array_equal(to_pixels(image), grey[..., None])


@pytest.mark.parametrize("image", [torch.randn(3, 4, 4), torch.rand(4, 4), np.zeros((4, 4, 3)), "cat.png", None])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(CoterieError, match="image"):
        to_pixels(image)


def test_images_keep_their_colours():
    colour, grey = Arrays(PIXELS[None], np.array([0])), Arrays(PIXELS[None, ..., :1], np.array([0]))
    assert np.array_equal(np.asarray(to_image(colour, 0)), PIXELS)
    assert to_image(grey, 0).mode == "L"


def test_a_grey_file_is_read_as_colour(tmp_path):
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "a.png")
    files = Files(ImagePaths.of([tmp_path / "a.png", tmp_path / "b.png"]), np.array([0, 1]))
    assert files.pixels(0).shape == (5, 4, 3)
    with pytest.raises(RunError, match=r"cannot decode .*b\.png"):
        files.pixels(1)


def raw(**changes):
    images, labels = np.zeros((6, 4, 4, 3), dtype=np.uint8), np.arange(6) % 3
    whole = Arrays(images, labels)
    return replace(RawData("own", ("a", "b", "c"), whole, whole, whole), **changes)


def test_consistent_data_pass():
    require_consistent(raw())
    require_consistent(raw(validation=None, test=None))


def some(count=6, shape=(4, 4, 3), labels=None):
    return Arrays(np.zeros((count, *shape), dtype=np.uint8), np.arange(count) % 3 if labels is None else labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": some(0)}, "the test split holds no images"),
        ({"validation": some(labels=np.full(6, 3))}, "the validation split has the label 3, there are 3 classes"),
        ({"train": some(labels=np.zeros(6, dtype=int))}, "has one class"),
        ({"test": some(shape=(5, 4, 3))}, r"test images are \(5, 4, 3\), training images \(4, 4, 3\)"),
    ],
)
def test_what_would_fail_during_a_run_is_refused(changes, message):
    with pytest.raises(CoterieError, match=message):
        require_consistent(raw(**changes))
