from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch  # noqa: F401  # makes ForkingPickler know tensors

from coterie.data.shared import NameList, Names, SharedArray


def test_an_array_is_sent_to_other_processes_as_a_handle():
    shared = SharedArray(np.arange(500_000)[::-1])
    for _ in range(2):  # to each worker the same memory
        sent = ForkingPickler.dumps(shared)
        assert len(sent) < 2_000
        place = shared.array.ctypes.data
    assert shared.array.ctypes.data == place
    assert np.array_equal(pickle.loads(sent).array, np.arange(500_000)[::-1])
    assert shared.array[0] == 499_999


@pytest.mark.parametrize("names", [[], [b""], [b"a", b"", "\u00e4\u4e2d".encode(), b"\xff.jpg"]])
def test_names_come_back_as_they_were(names):
    found = Names.of(names)
    assert [found[number] for number in range(len(found))] == names
    again = pickle.loads(pickle.dumps(found))
    assert [again[number] for number in range(len(again))] == names


def test_a_million_names_take_their_letters_and_eight_bytes_each():
    collected = NameList()
    for number in range(10_000):
        collected.add(b"%08d" % number)
    names = collected.names()
    assert names.letters.array.nbytes + names.bounds.array.nbytes == 16 * 10_000 + 8
