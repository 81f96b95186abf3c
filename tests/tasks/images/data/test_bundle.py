from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.errors import CoterieError
from coterie.tasks.images.data.memory import MemoryTrainLoader
from coterie.tasks.images.data.streaming import StreamingTrainLoader

CONFIG = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "input_size": (3, 96, 96), "crop_pct": 0.95, "interpolation": "bilinear"}  # fmt: skip


@pytest.fixture
def folder(make_tree):
    return make_tree({"cat": 12, "dog": 12}, size=(70, 70))


@pytest.fixture
def small_folder(make_tree):
    return make_tree({"cat": 12, "dog": 12}, size=(20, 20), name="small")


def test_digits_by_default(load):
    data = load()
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (1295, 143, 359)
    assert data.info.input_size == (1, 8, 8)
    assert data.train_evaluation.num_samples == 1295
    batch = next(data.train.epoch(0))
    assert batch.inputs.shape == (16, 1, 8, 8)
    everything = torch.cat([each.inputs for each in data.train_evaluation])
    assert everything.mean().item() == pytest.approx(0, abs=1e-4)
    assert everything.std().item() == pytest.approx(1, abs=1e-3)


def test_no_image_is_in_two_splits(load, folder):
    data = load(f"data={folder}", "data.image_size=16")
    shown = [{each.tobytes() for each in loader.raw_images(range(loader.num_samples))} for loader in (data.train_evaluation, data.validation, data.test)]  # fmt: skip
    assert [len(each) for each in shown] == [18, 2, 4]
    assert len(set.union(*shown)) == 24


def test_the_split_depends_on_its_own_seed_and_not_on_the_runs(load):
    def held_out(*overrides, **arguments):
        loader = load(*overrides, **arguments).validation
        return loader.raw_images(range(loader.num_samples))

    assert np.array_equal(held_out(), held_out(seed=5))
    assert not np.array_equal(held_out(), held_out("data.validation_seed=1"))


def test_no_validation_trains_on_everything(load):
    data = load("data.validation=0")
    assert data.validation is None
    assert (data.train.num_samples, data.test.num_samples) == (1438, 359)


def test_a_limit_leaves_the_held_out_splits_alone(load):
    whole, data = load(), load("data.train_limit=50")
    assert data.train.class_counts.tolist() == [5] * 10
    assert data.train_evaluation.num_samples == 50
    for one, other in ((whole.validation, data.validation), (whole.test, data.test)):
        assert np.array_equal(one.raw_images(range(100)), other.raw_images(range(100)))


def test_small_files_are_kept_in_memory_and_large_ones_streamed(load, folder, small_folder):
    def kind(*overrides, **arguments):
        return type(load(*overrides, "data.workers=0", **arguments).train)

    assert kind(f"data={small_folder}") is MemoryTrainLoader
    assert kind(f"data={small_folder}", "data.in_memory=false") is StreamingTrainLoader
    assert kind(f"data={folder}") is StreamingTrainLoader
    assert kind(f"data={folder}", "data.image_size=64") is MemoryTrainLoader
    assert kind(f"data={folder}", "data.in_memory=true") is MemoryTrainLoader
    assert kind(f"data={small_folder}", network_config=CONFIG) is MemoryTrainLoader


def test_sizes_of_streamed_images(load, folder):
    def info(*overrides, **arguments):
        return load(f"data={folder}", "data.workers=0", *overrides, **arguments).info

    plain, pretrained = info(), info(network_config=CONFIG)
    assert (plain.input_size, plain.crop, plain.interpolation) == ((3, 224, 224), 0.875, "bicubic")
    assert (pretrained.input_size, pretrained.crop, pretrained.interpolation) == ((3, 96, 96), 0.95, "bilinear")
    assert info("data.image_size=80", network_config=CONFIG).input_size == (3, 80, 80)


def test_normalisation(load, small_folder):
    def info(kind, **arguments):
        return load(f"data={small_folder}", f"data.normalize={kind}", **arguments).info

    measured = info("data")
    assert measured.mean[0] == pytest.approx(0.5, abs=0.05)
    assert info("auto") == measured
    network = (CONFIG["mean"], CONFIG["std"])
    for kind in ("auto", "network"):
        found = info(kind, network_config=CONFIG)
        assert (found.mean, found.std) == network
    assert info("data", network_config=CONFIG).mean == measured.mean
    none = info("none")
    assert (none.mean, none.std) == ((0.0,) * 3, (1.0,) * 3)
    with pytest.raises(CoterieError, match=r"data\.normalize=network needs network\.pretrained=true"):
        info("network")


def test_statistics_of_a_pretrained_network_on_grey_images(load):
    info = load("data=digits", network_config=CONFIG).info
    assert info.mean == (pytest.approx(np.mean(CONFIG["mean"])),)
    assert info.input_size == (1, 96, 96)


def test_statistics_are_of_training_images_only(load, arrays):
    images, labels = arrays
    white = np.full_like(images, 255)
    alone = load("data.validation=0", datasets=((images, labels), None, None)).info
    other = load(datasets=((images, labels), (white, labels), (white, labels))).info
    assert (other.mean, other.std) == (alone.mean, alone.std)


def test_padding_follows_the_size_of_the_images(load, arrays):
    assert load().train.augmentation.padding == 1
    assert load("data.crop_padding=3").train.augmentation.padding == 3
    images, labels = np.zeros((10, 32, 32, 3), dtype=np.uint8), np.arange(10) % 2
    assert load(datasets=((images, labels), None, None)).train.augmentation.padding == 4


def test_a_broken_image_is_counted(load, make_tree):
    root = make_tree({"cat": 8, "dog": 8}, size=(20, 20))
    (root / "cat" / "3.png").write_bytes(b"no image")
    assert load(f"data={root}", "data.skip_bad_images=true", batch_size=4).info.skipped == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.crop_padding=8"], r"data\.crop_padding=8 must be below the images' side, 8"),
        (["data.cutout=8"], r"data\.cutout=8 must be below the images' side, 8"),
        (["data.auto_augment=rand-m9"], r"data\.auto_augment is for images that are streamed"),
        (["data.train_limit=5"], r"data\.train_limit=5 is below the number of classes"),
        (["data.in_memory=false", "data.crop_padding=2"], r"data\.crop_padding is for small images in memory"),
        (["data.in_memory=false", "data.image_size=16", "data.cutout=16"], r"data\.cutout=16 must be below"),
    ],
)
def test_settings_that_would_do_nothing_or_too_much_are_refused(load, settings, message):
    with pytest.raises(CoterieError, match=message):
        load(*settings)


def test_images_of_many_channels_cannot_be_streamed(load):
    images, labels = np.zeros((10, 8, 8, 5), dtype=np.uint8), np.arange(10) % 2
    assert load(datasets=((images, labels), None, None)).info.input_size == (5, 8, 8)
    with pytest.raises(CoterieError, match="images of 5 channels cannot be streamed"):
        load("data.in_memory=false", datasets=((images, labels), None, None))


@pytest.mark.parametrize("share", [0.25, 0])
def test_a_test_split_of_a_share_is_counted_and_identified(load, folder, share):
    fifth = load(f"data={folder}", "data.image_size=16")
    data = load(f"data={folder}", "data.image_size=16", f"data.test={share}")
    assert (data.test.num_samples if data.test else 0) == 24 * share
    assert data.validation is not None
    shown = [{each.tobytes() for each in loader.raw_images(range(loader.num_samples))} for loader in (data.train_evaluation, data.validation, data.test) if loader]  # fmt: skip
    assert len(set.union(*shown)) == sum(len(each) for each in shown) == 24
    assert ("test" in data.fingerprint["splits"]) is bool(share)
    assert data.fingerprint["splits"] != fifth.fingerprint["splits"]


def test_own_data_without_a_test_split_get_one_where_a_share_says_so(load, arrays):
    assert load(datasets=(arrays, arrays, None)).test is None
    data = load("data.test=0.5", datasets=(arrays, arrays, None))
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (20, 40, 20)
    with pytest.raises(CoterieError, match=r"data\.test=0\.5: the data bring a test split of 40 samples"):
        load("data.test=0.5", datasets=(arrays, None, arrays))
    with pytest.raises(CoterieError, match=r"data\.test=0\.5: the data bring a test split of 359 samples"):
        load("data.test=0.5")
    measured = load("data.test=0.5", datasets=(arrays, None, arrays), measured=["0", "1", "2", "3"])
    assert measured.test.num_samples == 40  # what is measured in whole is not split
