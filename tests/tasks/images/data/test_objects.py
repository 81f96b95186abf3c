from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from coterie.errors import CoterieError, RunError
from coterie.tasks.images.data.objects import from_objects, hub
from coterie.tasks.images.data.raw import Arrays, Objects
from coterie.tasks.images.settings import ImageData


class Pictures(Dataset):
    """Pillow images and labels, as torchvision's data sets give them."""

    def __init__(self, images, labels, sizes=None):
        self.images, self.labels, self.sizes = images, labels, sizes
        self.reads = 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        self.reads += 1
        image = Image.fromarray(self.images[number])
        return image.resize(self.sizes[number]) if self.sizes else image, int(self.labels[number])


def test_arrays_data_sets_and_tensors_give_the_same_batches(load, arrays):
    images, labels = arrays
    tensors = TensorDataset(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels))
    results = []
    for train in (arrays, Pictures(images, labels), tensors):
        data = load("data.validation=0.2", datasets=(train, None, train))
        assert (data.validation.num_samples, data.test.num_samples) == (8, 40)
        results.append([*data.train.epoch(0), *data.validation])
    for others in results[1:]:
        for first, second in zip(results[0], others, strict=True):
            assert torch.equal(first.inputs, second.inputs)
            assert torch.equal(first.targets, second.targets)


def test_missing_splits_stay_missing_and_given_ones_are_kept(load, arrays):
    data = load("data.validation=0", datasets=(arrays, None, None))
    assert data.validation is None
    assert data.test is None
    data = load(datasets=(arrays, (arrays[0][:9], arrays[1][:9]), None))
    assert (data.train.num_samples, data.validation.num_samples) == (40, 9)


def test_grey_arrays_have_one_channel(load, arrays):
    data = load(datasets=((arrays[0][..., 0], arrays[1]), None, None))
    assert data.info.input_size == (1, 12, 12)


def test_names_come_from_the_data_set(arrays):
    source = Pictures(*arrays)
    assert from_objects((source, None, None)).class_names == ("0", "1", "2", "3")
    source.classes = ["ant", "bee", "cow", "dog"]
    assert from_objects((source, None, None)).class_names == ("ant", "bee", "cow", "dog")


def test_images_of_different_sizes_are_streamed(load, arrays, by_sample, assert_same_samples):
    source = Pictures(*arrays, sizes=[(70 + number, 80) for number in range(40)])
    data = load("data.image_size=80", "data.workers=0", datasets=(source, None, source))
    assert data.info.input_size == (3, 80, 80)
    whole = by_sample(data.train.epoch(0))
    assert_same_samples(whole, by_sample(load("data.image_size=80", "data.workers=2", datasets=(source, None, None), batch_size=8).train.epoch(0)))  # fmt: skip
    assert len(list(data.test)) == 3


def test_images_of_different_sizes_can_be_brought_to_one_in_memory(load, arrays):
    source = Pictures(*arrays, sizes=[(13 + number % 3, 14) for number in range(40)])
    data = load("data.image_size=10", datasets=(source, None, source))
    assert data.info.input_size == (3, 10, 10)
    assert data.test.raw_images([1]).shape == (1, 10, 10, 3)
    with pytest.raises(CoterieError, match=r"differ in size: set data\.image_size"):
        load("data.in_memory=true", datasets=(source, None, None))


def test_small_arrays_can_be_streamed_in_their_own_channels(load, arrays):
    images, labels = arrays
    data = load(
        "data.in_memory=false", "data.image_size=12", "data.workers=0", datasets=((images[..., 0], labels), None, None)
    )
    assert next(data.train.epoch(0)).inputs.shape == (16, 1, 12, 12)


def test_labels_are_taken_from_targets_without_a_pass_over_the_images(arrays):
    source = Pictures(*arrays)
    source.targets = arrays[1].tolist()
    raw = from_objects((source, None, None))
    assert source.reads == 1
    assert isinstance(raw.train, Objects)
    source.target_transform = lambda label: 3 - label  # targets are then not the labels
    source.labels = 3 - source.labels
    assert from_objects((source, None, None)).train.labels.tolist() == (3 - arrays[1]).tolist()


def test_a_subset_has_its_own_labels(load, arrays):
    chosen = [1, 2, 3, 5, 6, 7, 9, 13]
    raw = from_objects((Subset(Pictures(*arrays), chosen), None, None))
    assert raw.train.labels.tolist() == arrays[1][chosen].tolist()
    assert np.array_equal(raw.train.pixels(3), arrays[0][5])


def test_a_sample_that_fails_later_is_named(arrays):
    source = Pictures(*arrays)
    raw = from_objects((source, None, None))
    part = raw.train.take(np.array([7, 30]))
    source.images = source.images[:20]
    part.pixels(0)
    with pytest.raises(RunError, match=r"data\[0\], sample 30: IndexError"):
        part.pixels(1)


GOOD = (np.zeros((4, 8, 8, 3), dtype=np.uint8), np.arange(4))


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ((GOOD,) * 4, "takes two or three entries, got 4"),
        ((None, GOOD, GOOD), "no training data"),
        (((GOOD[0][:0], GOOD[1][:0]), None, None), "the train split holds no images"),
        (((GOOD[0] - 1.0, GOOD[1]), None, None), r"data\[0\]: images are float64 \[4, 8, 8, 3\]"),
        ((GOOD, (GOOD[0], GOOD[1][:3]), None), r"data\[1\]: labels are int64 \[3\], expected class numbers \[4\]"),
        ((GOOD, None, (GOOD[0], GOOD[1] - 1)), r"data\[2\]: labels"),
        ((GOOD, None, (GOOD[0], GOOD[1] / 3)), r"data\[2\]: labels are float64"),
        ((GOOD, None, (GOOD[0][:, :7], GOOD[1])), "test images"),
        ((GOOD, None, (GOOD[0][..., :1], GOOD[1])), "test images"),
        (((GOOD[0], np.zeros(4, dtype=int)), None, None), "one class"),
        (([], None, None), r"data\[0\] holds no samples"),
        ((iter([]), None, None), r"data\[0\] is list_iterator"),
        (([GOOD[0][0], GOOD[0][1]], None, None), r"data\[0\], sample 0: expected \(image, class number\)"),
        (([("a.png", 0), ("b.png", 1)], None, None), r"data\[0\], sample 0: expected an image, got str"),
        (([(torch.randn(3, 8, 8), 0), (torch.randn(3, 8, 8), 1)], None, None), "not normalised"),
    ],
)
def test_unusable_objects(load, datasets, message):
    with pytest.raises(CoterieError, match=message):
        load("data.validation=0", datasets=datasets, batch_size=2)


class HubPart(list):
    def __init__(self, rows, features):
        super().__init__(rows)
        self.features = features

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def with_format(self, kind):
        assert kind == "numpy"
        return self


@pytest.fixture
def fake_hub(monkeypatch, arrays):
    """A stand-in for the package ``datasets``, which is an extra: what ``load_dataset`` returns can be set."""
    features = {"img": None, "label": types.SimpleNamespace(names=["a", "b", "c", "d"])}
    rows = [{"img": Image.fromarray(image), "label": int(label)} for image, label in zip(*arrays, strict=True)]
    module = types.ModuleType("datasets")
    module.found = {"train": HubPart(rows, features), "test": HubPart(rows[:6], features)}
    module.load_dataset = lambda name, configuration: module.found
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_a_hub_data_set(load, fake_hub, arrays):
    data = load("data=hf://someone/pictures")
    assert (data.info.name, data.info.class_names) == ("hf://someone/pictures", ("a", "b", "c", "d"))
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (36, 4, 6)
    assert np.array_equal(data.test.raw_images([3])[0], arrays[0][3])


def test_a_hub_data_set_without_test_gets_one(load, fake_hub):
    del fake_hub.found["test"]
    data = load("data=hf://someone/pictures")
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (28, 4, 8)


def test_hub_errors(fake_hub, monkeypatch):
    recipe = ImageData(name="hf://someone/pictures")
    train = fake_hub.found.pop("train")
    with pytest.raises(CoterieError, match="no train split, only test"):
        hub(recipe.name, recipe)
    fake_hub.found["train"] = HubPart(train, {"text": None, "label": None})
    with pytest.raises(CoterieError, match="the columns text, label; expected image and label"):
        hub(recipe.name, recipe)

    def offline(name, configuration):
        raise ConnectionError("no route\nto the hub")

    fake_hub.load_dataset = offline
    with pytest.raises(CoterieError, match="cannot be loaded: no route to the hub"):
        hub(recipe.name, recipe)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CoterieError, match=r"pip install 'coterie\[hub\]'"):
        hub(recipe.name, recipe)


def test_pairs_of_arrays_are_taken_as_they_are():
    assert isinstance(from_objects((GOOD, None, None)).train, Arrays)
