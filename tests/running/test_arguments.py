"""``data``, ``network`` and ``teacher`` as Python objects: one meaning or a line, never another data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from coterie.errors import CoterieError
from coterie.running.arguments import sort_arguments
from coterie.tasks.images.data.objects import from_objects
from coterie.tasks.images.settings import ImageData

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4
PAIR = (IMAGES, LABELS)
TENSORS = TensorDataset(torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255, torch.from_numpy(LABELS))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TENSORS)


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        ((PAIR, None, PAIR), (40, None, 40)),
        ([PAIR, None, PAIR], (40, None, 40)),
        ([list(PAIR), list(PAIR)], (40, 40, None)),
        ((PAIR, PAIR), (40, 40, None)),
        (PAIR, (32, None, 8)),
        (list(PAIR), (32, None, 8)),
        (TENSORS, (32, None, 8)),
        ([(image, 1 - number % 2) for number, image in enumerate(IMAGES)], (32, None, 8)),
        ({"train": PAIR, "val": TENSORS}, (40, 40, None)),
        ({"Training": TENSORS, "TEST": PAIR}, (40, None, 40)),
        ((torch.from_numpy(IMAGES), torch.from_numpy(LABELS)), (32, None, 8)),
    ],
)
def test_what_has_one_meaning_is_taken(data, sizes):
    found = sort_arguments(data)
    assert found.sections == {}
    raw = from_objects(found.datasets, ImageData())
    assert raw.name == "own data"
    assert tuple(None if each is None else len(each) for each in (raw.train, raw.validation, raw.test)) == sizes


def test_names_paths_and_sections_go_to_the_recipe():
    assert sort_arguments(Path("a/b")).sections == {"data": "a/b"}
    assert sort_arguments({"name": "digits", "validation": 0.2}).sections == {
        "data": {"name": "digits", "validation": 0.2}
    }
    found = sort_arguments(None, ("resnet18", "resnet34"), [Path("a"), {"run": "b"}])
    assert found.sections == {"network": ["resnet18", "resnet34"], "teachers": ["a", {"run": "b"}]}
    assert len(sort_arguments(teacher=(nn.Identity(), nn.Identity())).teachers) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(TENSORS), r"data is a DataLoader.*pass its data set, data\.dataset"),
        ((DataLoader(TENSORS), None, None), r"data\[0\] is a DataLoader"),
        (Stream(), "data is an IterableDataset"),
        (IMAGES, r"data is a ndarray without labels: pass \(images, labels\)"),
        (torch.from_numpy(IMAGES), "data is a Tensor without labels"),
        (7, "data is int: expected"),
        (b"digits", "data is bytes: expected"),
        (True, "data is bool"),
        ({1, 2}, "data is set"),
        (TensorDataset, "data is type"),
        ((), "two or three entries, got 0"),
        ((PAIR,) * 4, "two or three entries, got 4"),
        ([None, PAIR], "no training data"),
        (["train", "test"], r"data\[0\] is str"),
        ({"train": PAIR, "extra": PAIR}, "splits train, extra"),
        ({"train": None}, "no training data"),
        ({"train": PAIR, "val": PAIR, "valid": PAIR}, "each once at most"),
        (iter([PAIR]), "data is list_iterator"),
        (lambda: PAIR, "data is function"),
    ],
)
def test_other_kinds_are_refused_by_type(data, message):
    with pytest.raises(CoterieError, match=message):
        sort_arguments(data)


@pytest.mark.parametrize("network", [7, 1.5, [], [nn.Identity(), nn.Identity()], {1}, b"resnet18", ["resnet18", 3]])
def test_no_network(network):
    with pytest.raises(CoterieError, match=r"network=.*expected a timm name"):
        sort_arguments(network=network)


@pytest.mark.parametrize("teacher", [7, [], lambda: nn.Identity(), [nn.Identity(), "runs/a"], b"runs/a", [None]])
def test_no_teacher(teacher):
    with pytest.raises(CoterieError, match=r"teacher=.*expected a run's folder"):
        sort_arguments(teacher=teacher)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=3) | st.sampled_from([PAIR, TENSORS, IMAGES, LABELS]),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.sampled_from(["train", "val", "x"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(ANYTHING)
def test_anything_is_taken_or_refused_in_a_line(data):
    try:
        found = sort_arguments(data)
        if found.datasets is not None:
            from_objects(found.datasets, ImageData())
        else:
            assert data is None or isinstance(data, dict)
    except CoterieError as error:
        assert len(str(error)) < 400  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("sides", [(12, 12), (10, 14)])
def test_channels_first_arrays_are_converted_where_that_is_what_they_are(channels, sides):
    images = np.random.default_rng(0).integers(0, 256, (8, *sides, channels), dtype=np.uint8)
    first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    labels = np.arange(8) % 2
    if channels > 4 and sides[0] != sides[1]:
        with pytest.raises(CoterieError, match=r"may be \[N, H, W, C\] or \[N, C, H, W\]"):
            from_objects(((first, labels), None, None))
    else:
        assert np.array_equal(from_objects(((first, labels), None, None)).train.images, images)
        assert np.array_equal(from_objects(((images, labels), None, None)).train.images, images)
    tensors = (torch.from_numpy(first), torch.from_numpy(labels))
    assert np.array_equal(from_objects((tensors, None, None)).train.images, images)


def test_floats_between_0_and_1_are_bytes_and_others_are_refused():
    for kind in (np.float32, np.float64):
        raw = from_objects((((IMAGES / 255).astype(kind), LABELS), None, None))
        assert np.array_equal(raw.train.images, IMAGES)
    assert np.array_equal(from_objects(((IMAGES.astype(np.int64), LABELS), None, None)).train.images, IMAGES)
    for wrong in (IMAGES / 255 - 0.5, IMAGES.astype(float), IMAGES.astype(np.int64) * 2, IMAGES / 255 * np.nan):
        with pytest.raises(CoterieError, match=r"expected uint8, or floats in 0\.\.1"):
            from_objects(((wrong, LABELS), None, None))
