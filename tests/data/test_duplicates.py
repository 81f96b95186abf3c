from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from coterie.data.duplicates import duplicate_notes
from coterie.data.folders import read_folder
from coterie.data.raw import Arrays
from coterie.recipe import load_recipe


def test_the_same_pixels_count_whatever_their_file(make_tree):
    root = make_tree({"train/a": 4, "train/b": 4, "test/a": 3, "test/b": 3})
    with Image.open(root / "train" / "a" / "1.png") as image:
        image.save(root / "test" / "a" / "twin.bmp")
    (note,) = duplicate_notes(read_folder(root, load_recipe(None).data).splits())
    assert note.startswith("1 of the 7 test images is among the training images")


@pytest.mark.parametrize("shared", [0, 1, 5])
def test_arrays(shared):
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    train, test = (
        Arrays(images[:12], np.zeros(12, dtype=np.int64)),
        Arrays(images[12 - shared :], np.zeros(8 + shared, dtype=np.int64)),
    )
    notes = duplicate_notes({"train": train, "test": test})
    assert [note.partition(" ")[0] for note in notes] == ([str(shared)] if shared else [])


def test_a_loaded_data_set_says_so(load):
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    labels = np.arange(20) % 2
    bundle = load("data.validation=0", datasets=((images, labels), None, (images[:3], labels[:3])))
    assert any("3 of the 3 test images" in note for note in bundle.info.notes)
