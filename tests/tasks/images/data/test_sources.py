from __future__ import annotations

import types

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from coterie.errors import CoterieError
from coterie.tasks.images.data.augmentation import Augmentation
from coterie.tasks.images.data.memory import MemoryTrainLoader
from coterie.tasks.images.data.sources import digits


def test_digits_are_scikit_learns_with_a_fixed_test_split():
    from sklearn.datasets import load_digits

    raw = digits()
    assert raw.class_names == tuple("0123456789")
    assert raw.train.images.shape == (1438, 8, 8, 1)
    assert len(raw.test) == 359
    assert np.bincount(raw.test.labels).min() >= 35
    together = np.concatenate([raw.train.images, raw.test.images])[..., 0] * (16 / 255)
    found = {image.round().astype(int).tobytes() for image in together}
    assert found == {image.astype(int).tobytes() for image in load_digits().images}
    assert np.array_equal(digits().test.images, raw.test.images)


def test_digits_are_not_mirrored_unless_asked_for(load):
    assert not load("data=digits").train.augmentation.flip
    assert load("data=digits", "data.flip=true").train.augmentation.flip


def pixels(count: int, side: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


@pytest.fixture
def npz(tmp_path):
    """Write ``split=(images, labels)`` as .npz files and return the folder."""

    def write(**splits):
        for split, (images, labels) in splits.items():
            np.savez(tmp_path / f"{split}.npz", images=images, labels=labels, classes=["ant", "bee"])
        return tmp_path

    return write


def test_npz_files_of_a_known_data_set(load, npz):
    root = npz(train=(pixels(20), np.arange(20) % 2), test=(pixels(6), np.arange(6) % 2))
    data = load("data=cifar10", f"data.root={root}")
    assert (data.info.name, data.info.class_names) == ("cifar10", ("ant", "bee"))
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (18, 2, 6)
    assert data.info.mean == (0.4914, 0.4822, 0.4465)
    assert np.array_equal(data.test.raw_images(range(6)), pixels(6))


def test_npz_files_of_ones_own(load, npz):
    root = npz(train=(pixels(20)[..., 0], np.arange(20) % 2), val=(pixels(6)[..., 0], np.arange(6) % 2))
    data = load(f"data={root}")
    assert data.info.input_size == (1, 32, 32)
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (18, 2, 6)  # val is the test
    (root / "val.npz").unlink()
    data = load(f"data={root}")
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (14, 2, 4)


def test_a_folder_tree_and_npz_files_of_the_same_images_are_the_same_data(load, npz, tmp_path):
    images, labels = pixels(20), np.sort(np.arange(20) % 2)
    root = npz(train=(images, labels), test=(images, labels))
    for split in ("train", "test"):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "tree" / split / ("ant", "bee")[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:02}.png")
    first, second = (
        load("data=cifar100", f"data.root={path}", "data.image_size=16") for path in (root, tmp_path / "tree")
    )
    assert first.info == second.info
    assert first.info.interpolation == "box"
    for one, other in zip(first.train.epoch(0), second.train.epoch(0), strict=True):
        assert (one.inputs == other.inputs).all()


CINIC10 = {
    f"{split}/{name}": count for split, count in (("train", 6), ("valid", 5), ("test", 4)) for name in ("cat", "dog")
}


def test_cinic10_keeps_its_splits_and_statistics(load, make_tree):
    data = load("data=cinic10", f"data.root={make_tree(CINIC10, size=(32, 32))}", batch_size=5)
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (12, 10, 8)
    assert data.info.mean == (0.47889522, 0.47227842, 0.43047404)
    assert data.info.std == (0.24205776, 0.23828046, 0.25874835)


def test_cinic10_as_a_plain_folder_is_kept_in_memory_and_cropped_like_cifar(load, make_tree):
    root = make_tree(CINIC10, size=(32, 32), name="CINIC-10")
    data = load(f"data={root}", batch_size=5)
    assert isinstance(data.train, MemoryTrainLoader)
    assert data.train.images.pixels.dtype == torch.uint8
    assert data.train.augmentation == Augmentation(padding=4, flip=True, cutout=0)
    for split, loader in (("valid", data.validation), ("test", data.test)):
        written = np.stack([np.asarray(Image.open(path)) for path in sorted((root / split).rglob("*.png"))])
        assert np.array_equal(loader.raw_images(range(len(written))), written)
    measured = data.train.images.pixels.float().div(255).mean(dim=(0, 2, 3))  # known by name only, not by folder
    assert data.info.mean == pytest.approx(measured.tolist(), abs=1e-4)


def test_a_grey_data_set_kept_as_files_is_colour_with_measured_statistics(load, make_tree):
    folders = {f"{split}/{name}": 5 for split in ("train", "test") for name in ("boot", "coat")}
    data = load("data=fashion_mnist", f"data.root={make_tree(folders, size=(28, 28))}", batch_size=4)
    assert data.info.input_size == (3, 28, 28)
    assert len(data.info.mean) == 3


class FakeCIFAR:
    """torchvision's interface: fails without files unless it may download."""

    present, reachable, downloads = False, True, 0

    def __init__(self, root, train, download):
        if download and not FakeCIFAR.reachable:
            raise OSError("<urlopen error\nno route>")
        if download:
            FakeCIFAR.present = True
            FakeCIFAR.downloads += 1
            self.root = root
        if not FakeCIFAR.present:
            raise RuntimeError("Dataset not found or corrupted.")
        count = 20 if train else 6
        self.data, self.targets, self.classes = pixels(count), (np.arange(count) % 2).tolist(), ["ant", "bee"]


@pytest.fixture
def fake_cifar(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR)
    for name, value in (("present", False), ("reachable", True), ("downloads", 0)):
        monkeypatch.setattr(FakeCIFAR, name, value)
    return FakeCIFAR


@pytest.mark.parametrize("own_root", [True, False])
def test_missing_files_are_downloaded_once(load, fake_cifar, tmp_path, cache, own_root):
    settings = ["data=cifar10"] + ([f"data.root={tmp_path}"] if own_root else [])
    data = load(*settings)
    assert (data.train.num_samples, data.validation.num_samples, data.test.num_samples) == (18, 2, 6)
    assert fake_cifar.downloads == 2  # train and test
    load(*settings)
    assert fake_cifar.downloads == 2
    assert own_root or (cache / "data").is_dir()


def test_a_failed_download_says_what_to_do(load, fake_cifar):
    fake_cifar.reachable = False
    with pytest.raises(CoterieError) as caught:
        load("data=cifar10")
    first, second = str(caught.value).splitlines()
    assert "cifar10 is not in" in first
    assert "no route" in first
    assert second.startswith("set data.root to a folder with torchvision's files")


def test_fashion_mnist_is_grey(load, monkeypatch):
    def grey(root, train, download):
        images = pixels(20, 28)[..., 0]
        return types.SimpleNamespace(data=images, targets=np.arange(20) % 2, classes=["boot", "coat"])

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", grey)
    info = load("data=fashion_mnist").info
    assert (info.input_size, info.mean, info.std) == ((1, 28, 28), (0.2860,), (0.3530,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data=digit"], r"no data set of this name \(did you mean 'digits'\?\); expected digits, cifar10"),
        (["data=./nowhere"], "there is no folder 'nowhere'"),
        (["data=cinic10"], "needs data.root"),
        (["data=cinic10", "data.root={root}"], "holds no CINIC-10"),
        (["data=cifar10", "data.root={root}/nowhere"], "data.root='.*nowhere' is not a folder"),
        (["data=digits", "data.root={root}"], r"data.root=.* applies to cifar10, .*, not to data=digits"),
    ],
)
def test_unusable_names(load, tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CoterieError, match=message):
        load(*(each.format(root=tmp_path) for each in settings))


def damaged(path):
    path.write_bytes(path.read_bytes()[:300])


def pickled(path):
    np.savez(path, images=np.array([{"a": 1}], dtype=object), labels=[0])


def other_keys(path):
    np.savez(path, x=pixels(3), y=[0, 1, 0])


def floats(path):
    np.savez(path, images=pixels(3) / 255 - 0.5, labels=[0, 1, 0])


def fewer_labels(path):
    np.savez(path, images=pixels(3), labels=[0, 1])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged, "is not usable"),
        (pickled, "is not usable: Object arrays cannot be loaded"),
        (other_keys, "is not usable: .*expected the arrays images, labels"),
        (floats, r"images are float64 \[3, 32, 32, 3\] from .*expected uint8"),
        (fewer_labels, r"labels are int64 \[2\], expected class numbers \[3\]"),
        (lambda path: path.write_bytes(b""), "is not usable"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_unusable_npz_files(load, npz, harm, message, split):
    root = npz(train=(pixels(20), np.arange(20) % 2), test=(pixels(6), np.arange(6) % 2))
    harm(root / f"{split}.npz")
    with pytest.raises(CoterieError, match=message) as caught:
        load(f"data={root}")
    assert f"{split}.npz" in str(caught.value)
    assert len(str(caught.value)) < 400
