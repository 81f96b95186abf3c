from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.errors import CoterieError, RunError
from coterie.tasks.images.data.streaming import evaluation_transform

AUGMENTED = ("data.image_size=16", "data.in_memory=false", "data.cutout=4", "data.auto_augment=rand-m9-mstd0.5")


@pytest.fixture
def folder(make_tree):
    return make_tree({f"{split}/{name}": 6 for split in ("train", "val", "test") for name in ("cat", "dog")})


@pytest.fixture
def stream(load, folder):
    """``stream("key=value", ...)``: the folder's loaders, without worker processes unless asked for."""

    def stream(*overrides, workers=0, **arguments):
        return load(
            f"data={folder}", *AUGMENTED, f"data.workers={workers}", *overrides, **{"batch_size": 6, **arguments}
        )

    return stream


def test_large_images_are_streamed_and_prepared_by_timms_transforms(stream, folder):
    data = stream()
    assert data.info.input_size == (3, 16, 16)
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (12, 12, 12)
    with Image.open(folder / "test" / "dog" / "1.png") as image:
        expected = evaluation_transform(data.info)(image.convert("RGB"))
    batches = list(data.test)
    assert torch.equal(torch.cat([batch.inputs for batch in batches])[7], expected)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(12))
    assert torch.cat([batch.targets for batch in batches]).tolist() == [0] * 6 + [1] * 6
    assert data.train.class_counts.tolist() == [6, 6]


@pytest.mark.parametrize("mixing", [(), ("data.mixup=0.4", "data.cutmix=1")])
def test_a_sample_is_the_same_whatever_the_batches_processes_and_workers(
    stream, by_sample, assert_same_samples, mixing
):
    whole = by_sample(stream(*mixing).train.epoch(1))
    assert len(whole) == 12
    assert_same_samples(whole, by_sample(stream(*mixing, batch_size=4).train.epoch(1)))
    assert_same_samples(whole, by_sample(stream(*mixing, process_index=1, num_processes=2).train.epoch(1)))
    assert_same_samples(whole, by_sample(stream(*mixing, workers=2).train.epoch(1)))
    assert_same_samples(whole, by_sample(stream(*mixing).train.epoch(1, first_step=1)))
    others = by_sample(stream(*mixing).train.epoch(2))
    assert not any(torch.equal(whole[index][0], others[index][0]) for index in whole)


def test_the_generators_of_the_process_are_left_alone(stream):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    data = stream()
    before = states()
    list(data.train.epoch(0))
    list(data.test)
    assert states() == before


def test_views_differ_and_the_first_is_the_single_one(stream):
    for one, batch in zip(stream().train.epoch(0), stream(views=2).train.epoch(0), strict=True):
        assert torch.equal(batch.inputs[0], one.inputs)
        assert not (batch.inputs[0] == batch.inputs[1]).flatten(1).all(1).any()


def test_mixing_gives_distributions_shared_by_the_views(stream):
    batch = next(stream("data.mixup=1", views=2).train.epoch(0))
    assert len(batch.inputs) == 2
    assert batch.inputs[0].shape == (6, 3, 16, 16)
    torch.testing.assert_close(batch.targets.sum(1), torch.ones(6))


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format(stream, channels_last):
    data = stream("data.mixup=1", channels_last=channels_last)
    expected = torch.channels_last if channels_last else torch.contiguous_format
    for batches in (data.train.epoch(0), data.test):
        assert next(iter(batches)).inputs.is_contiguous(memory_format=expected)


def test_processes_evaluate_everything_once(stream):
    seen = []
    for process in range(5):
        for batch in stream(batch_size=10, process_index=process, num_processes=5).test:
            seen += batch.indices.tolist()
    assert len(seen) == 15
    assert sorted(seen) == [-1] * 3 + list(range(12))


def test_raw_images_are_the_crops_that_are_evaluated(stream, folder):
    data = stream("data.normalize=none")
    shown = data.test.raw_images([7, 0])
    assert shown.shape == (2, 16, 16, 3)
    assert shown.dtype == np.uint8
    inputs = torch.cat([batch.inputs for batch in data.test])[[7, 0]]
    np.testing.assert_allclose(shown / 255, inputs.permute(0, 2, 3, 1), atol=0.002)
    assert np.array_equal(stream().test.raw_images([7, 0]), shown)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_during_the_run_is_named_in_one_line(stream, folder, workers):
    data = stream(workers=workers)
    (folder / "train" / "dog" / "2.png").write_bytes(b"no image")
    with pytest.raises(RunError) as caught:
        list(data.train.epoch(0))
    assert str(caught.value).startswith(f"cannot decode '{folder}/train/dog/2.png': ")
    assert "\n" not in str(caught.value)


def test_flipping_can_be_turned_off(stream):
    transforms = {flip: str(stream(f"data.flip={flip}").train.data.transform) for flip in ("true", "false")}
    assert "RandomHorizontalFlip" in transforms["true"]
    assert "RandomHorizontalFlip" not in transforms["false"]


def test_an_unknown_policy_is_refused_at_once(stream):
    with pytest.raises(CoterieError, match=r"data\.auto_augment='rnd-m9': .*expected a policy such as"):
        stream("data.auto_augment=rnd-m9")


class Jittered:
    """Small pictures of one's own that draw from Python's, NumPy's and torch's generators when they are read."""

    def __len__(self):
        return 24

    def __getitem__(self, number):
        drawn = [random.random(), np.random.random(), float(torch.rand(()))]
        image = np.broadcast_to(np.array(drawn) * 255, (16, 16, 3)).astype(np.uint8)
        return image, number % 2


def test_own_random_transforms_are_drawn_by_seed_epoch_and_sample(load, by_sample):
    def loaded(workers):
        return load(
            "data.flip=false",
            f"data.workers={workers}",
            datasets=(Jittered(), None, Jittered()),
            batch_size=4,
        )

    here, there = loaded(0), loaded(2)
    assert here.info.input_size == (3, 16, 16)  # streamed, in its own size
    first, second = by_sample(here.train.epoch(0)), by_sample(here.train.epoch(1))
    assert all(not torch.equal(first[number][0], second[number][0]) for number in first.keys() & second.keys())
    again = by_sample(there.train.epoch(0))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[number][0], again[number][0]) for number in first)
    means = {tuple(first[number][0].mean((-2, -1)).flatten().tolist()) for number in first}
    assert len(means) == len(first)  # each sample has its own numbers
    tests = [torch.cat([batch.inputs for batch in data.test]) for data in (here, here, there)]
    assert torch.equal(tests[0], tests[1])
    assert torch.equal(tests[0], tests[2])
    with pytest.raises(CoterieError, match="read differently each time"):
        load("data.in_memory=true", datasets=(Jittered(), None, None))


class Seldom:
    """Small pictures of which one reading in ten is another one, as random erasing makes them."""

    def __len__(self):
        return 200

    def __getitem__(self, number):
        value = 0 if torch.rand(()) < 0.1 else 100
        return np.full((16, 16, 3), value, dtype=np.uint8), number % 2


def test_a_transform_that_seldom_changes_a_picture_is_not_frozen_either(load):
    with pytest.raises(CoterieError, match="read differently each time"):
        load("data.in_memory=true", datasets=(Seldom(), None, None))
