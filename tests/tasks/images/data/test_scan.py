from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.tasks.images.data import scan
from coterie.tasks.images.data.folders import read_folder


def read(root, *overrides):
    return read_folder(root, load_recipe(None, overrides).data)


def save(array, path, **keywords):
    Image.fromarray(array).save(path, **keywords)


@pytest.mark.parametrize("side", [10, 100])
def test_digests_are_equal_where_all_pixels_are(make_tree, side):
    """Beyond a checksum of a few pixels: pictures that differ in one pixel are others."""
    root = make_tree({"train/a": 2, "train/b": 2, "test/a": 0, "test/b": 0}, size=(side, side))
    with Image.open(root / "train" / "a" / "0.png") as image:
        image.save(root / "test" / "a" / "twin.bmp")
        image.putpixel((0, 1), (1, 2, 3))
        image.save(root / "test" / "b" / "almost.png")
    raw = read(root)
    twin, almost = raw.test.digests
    assert twin == raw.train.digests[0]
    assert almost not in raw.train.digests
    assert len(set(raw.train.digests)) == 4


@pytest.mark.parametrize(("peak", "refused"), [(15, True), (4095, True), (4096, False), (65535, False)])
@pytest.mark.parametrize("at_most", [100, 1])
def test_sixteen_bits_of_which_few_are_used(make_tree, monkeypatch, peak, refused, at_most):
    monkeypatch.setattr(scan, "DECODE_AT_MOST", at_most)  # of very many files, these are decoded all the same
    root = make_tree({"cat": 0, "dog": 0})
    for number in range(3):
        for name in ("cat", "dog"):
            ramp = np.linspace(0, peak - number, 80).astype(np.uint16).reshape(8, 10)
            save(ramp, root / name / f"{number}.png")
    if not refused:
        assert len(read(root).train) == 4
        return
    with pytest.raises(CoterieError, match=f"values up to {peak} of 65,535, and would be nearly black"):
        read(root)


@pytest.mark.parametrize("at_most", [100, 1])
def test_pixels_without_a_range_are_named_before_training(make_tree, monkeypatch, at_most):
    monkeypatch.setattr(scan, "DECODE_AT_MOST", at_most)
    root = make_tree({"cat": 3, "dog": 3})
    save(np.ones((8, 8), dtype=np.float32), root / "cat" / "x.tif")
    with pytest.raises(CoterieError, match=r"cat/x\.tif': it has floating-point pixels of unknown range"):
        read(root)
    assert read(root, "data.skip_bad_images=true").skipped == 1


def test_further_frames_and_pages_are_said(make_tree):
    root = make_tree({"cat": 3, "dog": 3})
    frames = [Image.new("RGB", (8, 8), (n, 99, 7)) for n in range(3)]
    frames[0].save(root / "cat" / "x.gif", save_all=True, append_images=frames[1:])
    frames[0].save(root / "dog" / "x.tif", save_all=True, append_images=frames[1:])
    assert "of 2 files with several frames or pages, the first one is read" in read(root).notes
    with Image.open(root / "dog" / "x.tif") as image:
        assert image.getpixel((0, 0)) == (0, 99, 7)


@pytest.mark.parametrize("workers", [0, 2])
def test_headers_read_by_processes_tell_what_one_process_would(make_tree, monkeypatch, workers):
    monkeypatch.setattr(scan, "DECODE_AT_MOST", 1)
    monkeypatch.setattr(scan, "CHUNK", 3)
    root = make_tree({"cat": 5, "dog": 5})
    for path in (root / "cat" / "4.png", root / "dog" / "0.png"):
        path.write_bytes(b"no image")
    with pytest.raises(CoterieError, match=r"cat/4\.png' and 1 more: it is no picture"):
        read(root, f"data.workers={workers}")
    raw = read(root, f"data.workers={workers}", "data.skip_bad_images=true")
    assert (raw.skipped, len(raw.train) + len(raw.test)) == (2, 8)


def test_a_header_that_may_not_be_read_stops_the_processes(make_tree, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    root = make_tree({"cat": 3, "dog": 3})
    monkeypatch.setattr(scan, "DECODE_AT_MOST", 1)
    monkeypatch.setattr(scan, "CHUNK", 2)
    monkeypatch.setattr(scan.os, "open", refuse)
    with pytest.raises(CoterieError, match=r"cannot read .*0\.png': Permission denied"):
        read(root, "data.workers=0")
