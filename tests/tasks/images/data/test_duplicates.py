from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.tasks.images.data.duplicates import find_duplicates
from coterie.tasks.images.data.folders import read_folder
from coterie.tasks.images.data.raw import Arrays


def test_the_same_pixels_count_whatever_their_file(make_tree):
    root = make_tree({"train/a": 4, "train/b": 4, "test/a": 3, "test/b": 3})
    with Image.open(root / "train" / "a" / "1.png") as image:
        image.save(root / "test" / "a" / "twin.bmp")
    counts, (note,) = find_duplicates(read_folder(root, load_recipe(None).data).splits())
    assert counts == {"test": 1}
    assert note.startswith("1 of the 7 test images is among the training images")


@pytest.mark.parametrize("shared", [0, 1, 5])
def test_arrays(shared):
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    train, test = (
        Arrays(images[:12], np.zeros(12, dtype=np.int64)),
        Arrays(images[12 - shared :], np.zeros(8 + shared, dtype=np.int64)),
    )
    counts, notes = find_duplicates({"train": train, "test": test})
    assert counts == {"test": shared}
    assert [note.partition(" ")[0] for note in notes] == ([str(shared)] if shared else [])


def test_a_loaded_data_set_says_so(load):
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    labels = np.arange(20) % 2
    bundle = load("data.validation=0", datasets=((images, labels), None, (images[:3], labels[:3])))
    assert any("3 of the 3 test images" in note for note in bundle.info.notes)


def test_an_image_under_two_classes_is_said():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    images[4] = images[5] = images[0]
    images[3] = images[2]
    counts, notes = find_duplicates({"train": Arrays(images, np.array([0, 1, 0, 1, 0, 1]))})
    assert counts == {}
    assert notes == ["2 training images stand under more than one class, pixel by pixel"]
    assert find_duplicates({"train": Arrays(images, np.array([0, 1, 0, 0, 0, 0]))}) == ({}, [])


@pytest.mark.parametrize("what", ["train", "validation", "test"])
def test_folders_and_arrays_lack_classes_alike(load, make_tree, what):
    """Refused in a line by default; where that is accepted, it is said."""
    counts = {split: [4, 4, 4] for split in ("train", "validation", "test")}
    counts[what] = [4, 4, 0]
    root = make_tree({f"{split}/{name}": n for split, each in counts.items() for name, n in zip("abc", each, strict=True)}, size=(12, 12))  # fmt: skip
    rng = np.random.default_rng(0)
    datasets = tuple(
        (rng.integers(0, 256, (sum(each), 12, 12, 3), dtype=np.uint8), np.repeat(np.arange(3), each))
        for each in counts.values()
    )
    accept = "data.incomplete_classes=accept"
    for overrides, arguments in (([f"data={root}"], {}), ([], {"datasets": datasets})):
        with pytest.raises(CoterieError, match="incomplete_classes=accept"):
            load(*overrides, **arguments)
        info = load(*overrides, accept, **arguments).info
        assert len(info.class_names) == 3
        assert any(note.startswith(f"{what} has no samples of") for note in info.notes), info.notes


def test_counts_are_kept_for_the_summary(load, make_tree):
    root = make_tree({"train/a": 4, "train/b": 4, "test/a": 3, "test/b": 3})
    (root / "train" / "a" / "x.heic").write_bytes(b"x")
    (root / "train" / "loose.png").write_bytes((root / "train" / "a" / "0.png").read_bytes())
    (root / "test" / "a" / "0.png").write_bytes((root / "train" / "a" / "1.png").read_bytes())
    info = load(f"data={root}", "data.validation=0", "data.workers=0").info
    assert (info.skipped, info.passed_over, info.duplicates) == (0, 2, {"test": 1})
