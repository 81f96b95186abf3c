from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from coterie.errors import CoterieError
from coterie.tasks.images.data.layout import Found, Walk
from coterie.tasks.images.data.raw import Files
from coterie.tasks.images.data.stored import ImagePaths


def names(stored):
    return [stored.name(number) for number in range(len(stored))]


def test_paths_come_back_in_order_from_threads_too(tmp_path):
    paths = [str(tmp_path / folder / f"{number}.png") for number in range(300) for folder in ("a", "b")]
    stored = ImagePaths.of(paths)
    assert names(stored) == paths
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(stored.name, range(len(paths)))) == paths
    some = np.array([7, 3, 3])
    assert names(stored.take(some)) == [paths[number] for number in some]
    assert names(pickle.loads(pickle.dumps(stored.take(some)))) == [paths[number] for number in some]
    assert stored.base_name(3) == b"1.png"


def test_a_worker_is_sent_a_handle_whatever_the_number_of_files(tmp_path):
    sizes = []
    for count in (10, 20_000):
        stored = ImagePaths.of(f"/data/train/{number % 7}/{number:06d}.jpg" for number in range(count))
        sizes.append(len(ForkingPickler.dumps(Files(stored, np.zeros(count, dtype=np.int64)).unlabelled())))
    assert max(sizes) < 6_000


def test_files_are_found_in_the_order_of_their_paths(make_tree):
    root = make_tree({"a/x": 2, "a/x.y": 2, "a/x/z": 2, "a": 3, "b": 1})
    (root / "a" / "x" / "z.png").write_bytes((root / "b" / "0.png").read_bytes())
    found = Found()
    assert Walk(root, [root]).images(root / "a", found) == 10
    assert names(found.files.paths()) == [str(path) for path in sorted((root / "a").rglob("*.png"))]


def test_the_state_changes_with_a_file_and_not_with_a_reading(make_tree):
    root = make_tree({"a": 4})
    paths = sorted((root / "a").iterdir())
    before = ImagePaths.of(paths).state()
    assert ImagePaths.of(paths).state() == before
    assert ImagePaths.of(paths[:3]).state() != before
    assert ImagePaths.of(paths[::-1]).state() != before
    os.utime(paths[2], ns=(1, 1))
    assert ImagePaths.of(paths).state() != before
    paths[2].unlink()
    with pytest.raises(CoterieError, match=r"cannot read .*2\.png': No such file"):
        ImagePaths.of(paths).state()


def test_what_is_known_of_sizes_is_taken_along(make_tree, monkeypatch):
    root = make_tree({"a": 4})
    stored = ImagePaths.of(sorted((root / "a").iterdir()))
    sizes = stored.sizes
    monkeypatch.setattr(os, "stat", None)
    assert stored.take(np.array([2, 0])).sizes.tolist() == [sizes[2], sizes[0]]
