from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coterie.tasks.images.data.memory import shrink

AUGMENTED = ("data.crop_padding=2", "data.flip=true", "data.cutout=4", "data.validation=0")


def test_a_batch_is_normalised_pixels_and_labels(load, arrays):
    images, labels = arrays
    data = load("data.crop_padding=0", "data.flip=false", "data.validation=0", datasets=(arrays, None, None))
    mean, std = (np.array(values, dtype=np.float32) for values in (data.info.mean, data.info.std))
    for batch in data.train.epoch(0):
        expected = (images[batch.indices] / np.float32(255) - mean) / std
        torch.testing.assert_close(batch.inputs.permute(0, 2, 3, 1), torch.from_numpy(expected), atol=2e-6, rtol=0)
        assert batch.targets.tolist() == labels[batch.indices].tolist()
        assert (batch.inputs.dtype, batch.targets.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("mixing", [(), ("data.mixup=0.4", "data.cutmix=1")])
def test_a_sample_is_the_same_whatever_the_batches_and_processes(load, arrays, by_sample, assert_same_samples, mixing):
    def epoch(**arguments):
        return list(load(*AUGMENTED, *mixing, datasets=(arrays, None, None), **arguments).train.epoch(3))

    whole = by_sample(epoch(batch_size=20))
    assert len(whole) == 40
    assert_same_samples(whole, by_sample(epoch(batch_size=8)))
    for process in range(4):
        share = by_sample(epoch(batch_size=20, process_index=process, num_processes=4))
        assert len(share) == 10
        assert_same_samples(whole, share)


def test_the_rest_of_an_epoch_is_the_same_without_its_beginning(load, arrays):
    loader = load(*AUGMENTED, batch_size=8, datasets=(arrays, None, None)).train
    whole = list(loader.epoch(1))
    rest = list(loader.epoch(1, first_step=3))
    assert len(rest) == loader.steps_per_epoch - 3 == 2
    for expected, found in zip(whole[3:], rest, strict=True):
        for one, other in zip(expected[:3], found[:3], strict=True):
            assert torch.equal(one, other)


def test_global_generators_are_neither_read_nor_moved(load, arrays):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = list(load(*AUGMENTED, "data.mixup=1", datasets=(arrays, None, None)).train.epoch(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = list(load(*AUGMENTED, "data.mixup=1", datasets=(arrays, None, None)).train.epoch(0))
    assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(first, second, strict=True))


def test_seed_and_epoch_change_the_augmentation(load, arrays, by_sample):
    first = by_sample(load(*AUGMENTED, datasets=(arrays, None, None)).train.epoch(0))
    for others in (
        load(*AUGMENTED, datasets=(arrays, None, None)).train.epoch(1),
        load(*AUGMENTED, datasets=(arrays, None, None), seed=1).train.epoch(0),
    ):
        found = by_sample(others)
        shared = first.keys() & found.keys()
        assert sum(torch.equal(first[i][0], found[i][0]) for i in shared) < len(shared) / 4


def test_views_are_independent_and_the_first_is_the_single_one(load, arrays):
    single = list(load(*AUGMENTED, datasets=(arrays, None, None)).train.epoch(0))
    several = load(*AUGMENTED, datasets=(arrays, None, None), views=3).train
    for one, batch in zip(single, several.epoch(0), strict=True):
        assert isinstance(batch.inputs, list)
        assert torch.equal(batch.inputs[0], one.inputs)
        for first, second in ((0, 1), (0, 2), (1, 2)):
            same = (batch.inputs[first] == batch.inputs[second]).flatten(1).all(1)
            assert same.float().mean() < 0.3
    several.views = 1  # the method may ask for fewer later
    assert torch.equal(next(several.epoch(0)).inputs, single[0].inputs)


def test_views_are_mixed_with_the_same_partner_by_the_same_share(load, arrays):
    plain = ("data.crop_padding=0", "data.flip=false", "data.validation=0", "data.mixup=1")
    batch = next(load(*plain, datasets=(arrays, None, None), views=2).train.epoch(0))
    assert torch.equal(batch.inputs[0], batch.inputs[1])
    assert batch.targets.shape == (16, 4)
    torch.testing.assert_close(batch.targets.sum(1), torch.ones(16))
    assert (batch.targets.max(1).values < 1).float().mean() > 0.5


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("settings", [(), ("data.cutout=4", "data.mixup=1"), ("data.cutmix=1", "data.image_size=30")])
def test_memory_format(load, arrays, channels_last, settings):
    data = load(*settings, datasets=(arrays, None, arrays), channels_last=channels_last)
    expected = torch.channels_last if channels_last else torch.contiguous_format
    for loader in (data.train.epoch(0), data.test):
        assert next(iter(loader)).inputs.is_contiguous(memory_format=expected)


def test_evaluation_is_in_order_without_augmentation(load, arrays):
    images, labels = arrays
    data = load(*AUGMENTED, "data.mixup=1", datasets=(arrays, None, (images[:7], labels[:7])))
    (batch,) = data.test
    assert batch.indices.tolist() == list(range(7))
    assert batch.targets.tolist() == labels[:7].tolist()
    again = next(iter(data.train_evaluation))
    assert torch.equal(batch.inputs, again.inputs[:7])
    assert np.array_equal(data.test.raw_images([6, 2]), images[[6, 2]])
    assert data.test.num_samples == 7


def test_processes_evaluate_everything_once(load, arrays):
    seen = []
    for process in range(3):
        data = load(datasets=(arrays, None, arrays), batch_size=15, process_index=process, num_processes=3)
        batches = list(data.test)
        assert sum(len(batch.indices) for batch in batches) == 14
        seen += [index for batch in batches for index in batch.indices.tolist() if index >= 0]
        for batch in batches:
            real = batch.indices >= 0
            assert batch.targets[real].tolist() == arrays[1][batch.indices[real]].tolist()
    assert sorted(seen) == list(range(40))


def test_shrinking_averages_areas(arrays):
    images, _ = arrays
    expected = images.reshape(40, 4, 3, 4, 3, 3).mean((2, 4))
    assert np.abs(shrink(images, 4).astype(float) - expected).max() <= 0.5 + 1e-4


def test_images_are_enlarged_batch_by_batch_and_kept_small(load, arrays):
    plain = ("data.crop_padding=0", "data.flip=false")
    data = load(*plain, "data.image_size=30", datasets=(arrays, None, arrays))
    small = load(*plain, datasets=(arrays, None, arrays))
    assert data.info.input_size == (3, 30, 30)
    expected = F.interpolate(next(iter(small.test)).inputs, (30, 30), mode="bilinear")
    torch.testing.assert_close(next(iter(data.test)).inputs, expected)
    assert next(data.train.epoch(0)).inputs.shape == (16, 3, 30, 30)
    assert data.test.raw_images([0]).shape == (1, 12, 12, 3)


def test_class_counts(load, arrays):
    images, labels = arrays
    data = load("data.validation=0", datasets=((images[:38], labels[:38]), None, None))
    assert data.train.class_counts.tolist() == [10, 10, 9, 9]
