"""Fingerprints agree for the same data wherever they lie, and say in words what differs."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from coterie.data.fingerprint import _of_split, differences
from coterie.tasks.images.data.fingerprint import sample_digests
from coterie.tasks.images.data.raw import Arrays, Objects, RawData
from coterie.tasks.texts.reading import RawTexts, Texts, text_digests


def describe(raw):
    from coterie.data.fingerprint import fingerprint

    digests = text_digests if isinstance(raw, RawTexts) else sample_digests
    return fingerprint(raw.class_names, raw.splits(), {}, digests)


@pytest.fixture
def raw():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return RawData(
        "a", ("cat", "dog", "cow"), Arrays(images, np.arange(12) % 3), None, Arrays(images[:3], np.arange(3))
    )


def changed_pixel(raw):
    images = raw.train.images.copy()
    images[4, 0, 0, 0] ^= 1
    return replace(raw, train=Arrays(images, raw.train.labels))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: replace(raw, class_names=("cat", "hound", "cow")), "the class 'dog' is called 'hound' now"),
        (lambda raw: replace(raw, class_names=("dog", "cat", "cow")), "the classes are in another order"),
        (lambda raw: replace(raw, class_names=(*raw.class_names, "pig")), "the class 'pig' is new"),
        (lambda raw: replace(raw, train=raw.train.take(np.arange(7))), "train has 7 samples, not 12"),
        (changed_pixel, "train samples of 'dog' are others"),
        (lambda raw: replace(raw, train=raw.train.take(np.arange(12)[::-1])), "train samples of 'cat', 'dog', 'cow' are others"),
        (lambda raw: replace(raw, test=None), "there is no test split now"),
        (lambda raw: replace(raw, validation=raw.test), "there is a validation split now"),
    ],
)  # fmt: skip
def test_what_differs_is_said(raw, change, words):
    assert differences(describe(raw), describe(raw)) == []
    assert differences(describe(raw), describe(change(raw)))[0] == words


def test_data_without_classes_are_one_nameless_part():
    stored = {"train": {"samples": 3, "classes": {"": "a"}}}
    now = {"train": {"samples": 3, "classes": {"": "b"}}}
    assert _of_split("train", stored["train"], now["train"]) == ["train samples are others"]


def test_data_of_another_name_and_other_files_of_the_same_content_agree(raw):
    assert differences(describe(raw), describe(replace(raw, name="b"))) == []


def test_a_changed_text_differs():
    texts = Texts((("a b",), ("c",)), np.array([0, 1]))
    raw = RawTexts("t", ("x", "y"), texts, None, None)
    other = replace(raw, train=Texts((("a b",), ("c d",)), texts.labels))
    assert differences(describe(raw), describe(raw)) == []
    assert differences(describe(raw), describe(other)) == ["train samples of 'y' are others"]


def test_samples_that_read_differently_each_time_still_agree_with_themselves():
    class Noisy:
        def __len__(self):
            return 8

        def __getitem__(self, number):
            return np.random.randint(0, 256, (8, 8, 3), dtype=np.uint8), number % 2

    samples = Objects(Noisy(), np.arange(8), np.arange(8) % 2, "noisy", 3)
    raw = RawData("n", ("x", "y"), samples)
    assert samples.varies
    assert differences(describe(raw), describe(raw)) == []


def test_a_moved_folder_agrees_and_a_changed_file_of_the_same_size_does_not(load, tmp_path):
    generator = np.random.default_rng(1)
    for name in ("ant", "bee"):
        (tmp_path / "a" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "a" / name / f"{number}.bmp")
    first = load(f"data={tmp_path / 'a'}", batch_size=4).fingerprint
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert differences(first, load(f"data={tmp_path / 'b'}", batch_size=4).fingerprint) == []
    files = sorted((tmp_path / "b" / "bee").iterdir())
    for file in files:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        status = file.stat()
        file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (
        "samples of 'bee' are others" in differences(first, load(f"data={tmp_path / 'b'}", batch_size=4).fingerprint)[0]
    )
