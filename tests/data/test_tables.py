from __future__ import annotations

import shutil
from collections import namedtuple

import numpy as np
import pytest

from coterie.data.tables import computed_table, read_table
from coterie.errors import RunError

SHAPE = (6, 2)


def filler(asked, stop=None):
    """Writes a part's number into its two rows; stops before one of them."""

    def fill(table, part):
        if part == stop:
            raise KeyboardInterrupt
        asked.append(part)
        table[2 * part : 2 * part + 2] = part

    return fill


def test_a_table_is_computed_once(tmp_path):
    asked = []
    for _ in range(2):
        found = computed_table(tmp_path / "t.npy", np.float32, SHAPE, 3, filler(asked), "numbers")
        assert found[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert asked == [0, 1, 2]
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert [each.name for each in tmp_path.iterdir()] == ["t.npy"]


def test_an_interrupted_computation_goes_on(tmp_path):
    asked = []
    with pytest.raises(KeyboardInterrupt):
        computed_table(tmp_path / "t.npy", np.int16, SHAPE, 3, filler(asked, stop=2), "numbers")
    assert read_table(tmp_path / "t.npy", np.int16, SHAPE) is None
    found = computed_table(tmp_path / "t.npy", np.int16, SHAPE, 3, filler(asked), "numbers")
    assert asked == [0, 1, 2]
    assert found[:, 1].tolist() == [0, 0, 1, 1, 2, 2]
    assert [each.name for each in tmp_path.iterdir()] == ["t.npy"]


@pytest.mark.parametrize("damage", ["other parts", "no progress", "half a file"])
def test_what_does_not_fit_is_computed_again(tmp_path, damage):
    asked = []
    with pytest.raises(KeyboardInterrupt):
        computed_table(tmp_path / "t.npy", np.int16, SHAPE, 3, filler(asked, stop=2), "numbers")
    if damage == "no progress":
        (tmp_path / ".t.npy.json").write_text("{")
    if damage == "half a file":
        (tmp_path / ".t.npy.partial").write_bytes(b"")
    parts = 2 if damage == "other parts" else 3
    computed_table(tmp_path / "t.npy", np.int16, SHAPE, parts, filler(asked), "numbers")
    assert asked == [0, 1, *range(parts)]


def test_a_damaged_or_foreign_file_is_no_table(tmp_path):
    computed_table(tmp_path / "t.npy", np.float32, SHAPE, 3, filler([]), "numbers")
    assert read_table(tmp_path / "t.npy", np.float32, (6, 3)) is None
    assert read_table(tmp_path / "t.npy", np.int16, SHAPE) is None
    (tmp_path / "t.npy").write_bytes(b"no table")
    found = computed_table(tmp_path / "t.npy", np.float32, SHAPE, 3, filler([]), "numbers")
    assert found[5].tolist() == [2, 2]


def test_too_little_room_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    asked = []
    with pytest.raises(RunError, match=r"numbers take 0\.0 kB, and .* has 0\.0 kB left; set COTERIE_CACHE"):
        computed_table(tmp_path / "t.npy", np.float32, SHAPE, 3, filler(asked), "numbers")
    assert not asked
