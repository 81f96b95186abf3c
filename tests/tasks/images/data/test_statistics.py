from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from coterie.tasks.images.data import statistics
from coterie.tasks.images.data.raw import Arrays, Files
from coterie.tasks.images.data.statistics import KNOWN, measure, measure_streamed
from coterie.tasks.images.data.stored import ImagePaths


def test_known_statistics_are_the_published_ones():
    """CIFAR: OKDDip's code; CINIC-10: its README; Fashion-MNIST: as widely published."""
    assert KNOWN == {
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "cinic10": ((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)),
        "fashion_mnist": ((0.2860,), (0.3530,)),
    }


def test_cifar_statistics_agree_with_the_pixels():
    """Means and deviations of all training pixels in bytes, measured on the released images."""
    measured = {
        "cifar10": ((125.307, 122.950, 113.865), (62.993, 62.089, 66.705)),
        "cifar100": ((129.304, 124.070, 112.434), (68.170, 65.392, 70.418)),
    }
    for name, values in measured.items():
        np.testing.assert_allclose(np.array(KNOWN[name]) * 255, values, atol=0.03)


def test_measured_statistics_equal_numpys(arrays):
    images, _ = arrays
    mean, std = measure(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-9)


def test_a_constant_channel_can_be_divided_by():
    mean, std = measure(np.full((2, 3, 3, 1), 51, dtype=np.uint8))
    assert mean == pytest.approx((0.2,))
    assert std == pytest.approx((1 / 255,))


def test_streamed_statistics_are_of_the_pixels_that_a_network_sees(arrays):
    images, labels = arrays
    assert measure_streamed(Arrays(images, labels), 12) == measure(images)  # nothing to resize
    wide = np.zeros((4, 10, 30, 3), dtype=np.uint8)
    wide[:, :, 10:20] = 255  # the centre that is cut out
    assert measure_streamed(Arrays(wide, labels[:4]), 10)[0] == (1.0, 1.0, 1.0)


def test_at_most_so_many_images_evenly_spread(arrays, monkeypatch):
    images, labels = arrays
    monkeypatch.setattr(statistics, "MEASURED_AT_MOST", 15)
    assert measure_streamed(Arrays(images, labels), 12) == measure(images[::3])


def test_a_folder_is_measured_once(make_tree, monkeypatch):
    root = make_tree({"cat": 3, "dog": 3}, size=(8, 8))
    paths = tuple(sorted(root.rglob("*.png")))
    files = Files(ImagePaths.of(paths), np.array([0, 0, 0, 1, 1, 1]))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    first = measure_streamed(files, 8)
    assert first == measure(pixels)
    monkeypatch.setattr(statistics, "to_image", None)  # nothing is read again
    assert measure_streamed(files, 8) == first
    os.utime(paths[0], ns=(1, 1))
    with pytest.raises(TypeError):
        measure_streamed(files, 8)
