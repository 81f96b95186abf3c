"""Archives of arrays, honest and hostile."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.errors import CoterieError
from coterie.tasks.images.data.npz import read_npz
from coterie.tasks.images.data.raw import require_consistent
from coterie.tasks.images.data.sources import read_source
from coterie.tasks.images.settings import ImageData

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


def read(folder, whole=False):
    raw = read_source(ImageData(name=str(folder)), whole)
    require_consistent(raw, whole)
    return raw


def saved(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("names", [["cat", "dog"], [b"cat", b"dog"], [7, 9]])
def test_names_of_classes(tmp_path, names):
    (tmp_path / "train.npz").write_bytes(saved(images=IMAGES, labels=LABELS, classes=np.array(names)))
    assert read(tmp_path).class_names == tuple(
        each.decode() if isinstance(each, bytes) else str(each) for each in names
    )


def test_a_folder_to_be_measured_may_hold_test_alone(tmp_path):
    (tmp_path / "test.npz").write_bytes(saved(images=IMAGES, labels=LABELS))
    raw = read(tmp_path, whole=True)
    assert np.array_equal(raw.test.images, IMAGES)
    with pytest.raises(CoterieError):
        read(tmp_path)


def claimed(shape):
    """An archive whose array claims a shape that its bytes do not fill."""
    array, buffer = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images.npy", array.getvalue() + bytes(100))
        archive.writestr("labels.npy", b"x")
    return buffer.getvalue()


def changed(signature, offset, value):
    """An honest archive, with one byte of each entry's header changed."""
    content = bytearray(saved(images=IMAGES, labels=LABELS))
    for mark, place in ((b"PK\3\4", offset), (b"PK\1\2", offset + 2)):
        start = -1
        while (start := content.find(mark, start + 1)) >= 0:
            content[start + place] = content[start + place] | value if signature == "flag" else value
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved(images=IMAGES, labels=np.where(LABELS, 10**12, 0)), "1000000000000"),
        (saved(images=IMAGES, labels=LABELS.astype(np.uint64) + np.uint64(2**63)), "no class number"),
        (saved(images=IMAGES, labels=LABELS * 999), "has no training samples"),
        (saved(images=IMAGES, labels=LABELS - 1), "expected class numbers"),
        (saved(images=IMAGES, labels=LABELS / 1), "expected class numbers"),
        (saved(images=IMAGES, labels=LABELS[:3]), "expected class numbers"),
        (saved(images=IMAGES, labels=LABELS, classes=np.array("cat")), "expected names"),
        (saved(images=IMAGES, labels=LABELS, classes=np.array([["a", "b"]])), "expected names"),
        (saved(images=IMAGES, labels=LABELS, classes=np.array(["a", "a"])), "two classes are called 'a'"),
        (saved(images=IMAGES, labels=LABELS, classes=np.array(["a"])), "there are 1 classes"),
        (saved(images=IMAGES, labels=LABELS, classes=np.array([b"\xff", b"b"])), "is not usable"),
        (saved(images=IMAGES[:, :0], labels=LABELS), "without any pixels"),
        (saved(labels=LABELS), "expected the arrays images"),
        (claimed((10**15,)), "is not usable"),
        (claimed((10**10, 10**10, 10**10)), "is not usable"),
        (claimed((-1, 5)), "is not usable"),
        (changed("flag", 6, 1), "encrypted"),
        (changed("method", 8, 77), "compression method"),
        (b"\x80\x04N.", "not a zip file"),
        (b"", "not a zip file"),
    ],
)
def test_hostile_archives_are_refused_in_a_line(tmp_path, content, message):
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(CoterieError, match=message) as refused:
        read(tmp_path)
    assert "\n" not in str(refused.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_archives_raise_nothing_else(tmp_path, data):
    content = bytearray(saved(images=IMAGES, labels=LABELS, classes=np.array(["a", "b"])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "train.npz").write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        raw = read_npz(tmp_path, "own", ImageData(), whole=False)
        require_consistent(raw)
    except CoterieError:
        return
    assert raw.train.images.dtype == np.uint8
