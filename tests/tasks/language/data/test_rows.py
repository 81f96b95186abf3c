from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.tasks.language.data.documents import Tally
from coterie.tasks.language.data.rows import IGNORED, Rows, label_positions, label_targets
from coterie.tasks.language.data.splits import Selection
from coterie.tasks.language.data.tokens import TokenStore

END = 0


def make(documents, spans=None, numbers=None):
    """A selection of documents of tokens, each ending with 0; spans by document."""
    offsets = np.cumsum([0, *map(len, documents)])
    placed = None
    if spans is not None:
        placed = np.array([(offsets[n] + a, offsets[n] + b) for n, each in enumerate(spans) for a, b in each], np.int64)
        placed = placed.reshape(-1, 2)
    digests = np.arange(len(documents), dtype=np.uint64)
    tokens = np.array([token for document in documents for token in document], np.uint16)
    store = TokenStore(tokens, offsets, digests, digests, placed, END, Tally())
    return Selection(store, np.arange(len(documents)) if numbers is None else np.array(numbers))


def test_the_position_before_a_completion_counts_and_its_last_one_does_not():
    # prompt 5 6 7, completion 8 9 and its end, then padding
    labels = torch.tensor([[IGNORED, IGNORED, IGNORED, 8, 9, END, IGNORED, IGNORED]])
    logits = torch.arange(8)[None]  # the position's own number
    assert label_targets(labels).tolist() == [8, 9, END]
    assert logits[label_positions(labels)].tolist() == [2, 3, 4]
    whole = torch.tensor([[5, 6, 7]])
    assert label_targets(whole).tolist() == [6, 7]
    assert label_positions(whole).tolist() == [[True, True, False]]


def test_rows_written_by_hand():
    documents = [[5, 6, 7, 8, 9, END], [5, END], [4, 4, END]]
    spans = [[(3, 6)], [(1, 2)], []]
    packed = Rows(make(documents), 4, "packed", False)
    tokens, labels = packed.read(np.array([0, 1, 2]))
    assert tokens.tolist() == [[5, 6, 7, 8], [9, 0, 5, 0], [4, 4, 0, 0]]
    assert labels.tolist() == [[5, 6, 7, 8], [9, 0, 5, 0], [4, 4, 0, IGNORED]]
    assert packed.predicted == 3 + 3 + 2
    packed = Rows(make(documents, spans), 4, "packed", True)
    assert packed.left_out == 1  # the last one has no completion
    assert packed.read(np.array([0, 1]))[1].tolist() == [[IGNORED] * 3 + [8], [9, 0, IGNORED, 0]]
    assert packed.predicted == 1 + 2
    single = Rows(make(documents, spans), 4, "documents", True)
    tokens, labels = single.read(np.array([0, 1]))
    mask = inside(single, tokens)
    assert tokens.tolist() == [[5, 6, 7, 8], [5, 0, 0, 0]]
    assert mask.tolist() == [[1] * 4, [1, 1, 0, 0]]
    assert labels.tolist() == [[IGNORED] * 3 + [8], [IGNORED, 0, IGNORED, IGNORED]]
    assert (single.cut_documents, single.cut_tokens, single.left_out) == (1, 2, 1)
    assert Rows(make(documents, spans), 3, "documents", True).left_out == 2  # a prompt that fills its row


def inside(rows, tokens):
    """Which places are no padding, of all rows."""
    return (np.arange(tokens.shape[1]) < rows.lengths[: len(tokens), None]).astype(int)


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    block_length=st.integers(2, 9),
    data=st.data(),
)
def test_rows_give_back_the_documents(lengths, block_length, data):
    count = iter(range(1, 1000))
    documents = [[*(next(count) for _ in range(length)), END] for length in lengths]
    spans = []
    for document in documents:
        edges = sorted(data.draw(st.lists(st.integers(0, len(document)), max_size=4, unique=True)))
        spans.append(list(zip(edges[::2], edges[1::2], strict=False)))
    numbers = sorted(data.draw(st.sets(st.integers(0, len(documents) - 1), min_size=1)))
    selection = make(documents, spans, numbers)
    learnt = [
        token if any(a <= place < b for a, b in spans[n]) else IGNORED
        for n in numbers
        for place, token in enumerate(documents[n])
    ]
    whole = [token for n in numbers for token in documents[n]]

    rows = Rows(selection, block_length, "packed", False)
    tokens, labels = rows.read(np.arange(len(rows)))
    mask = inside(rows, tokens)
    end = len(whole) - (len(whole) % block_length == 1)  # a last row of one token predicts nothing
    assert tokens[mask == 1].tolist() == whole[:end]
    assert np.array_equal(labels, np.where(mask, tokens, IGNORED))
    assert rows.predicted == int(label_positions(torch.from_numpy(labels)).sum())

    for packing in ("packed", "documents"):
        rows = Rows(selection, block_length, packing, True)
        if packing == "packed":
            expected = [learnt[a : a + block_length] for a in range(0, len(learnt), block_length)]
        else:
            edges = np.cumsum([0, *(len(documents[n]) for n in numbers)])
            expected = [learnt[a:b][:block_length] for a, b in pairwise(edges)]
        expected = [row for row in expected if any(token != IGNORED for token in row[1:])]
        assert len(rows) == len(expected)
        if expected:
            tokens, labels = rows.read(np.arange(len(rows)))
            mask = inside(rows, tokens)
            assert [label[row == 1].tolist() for label, row in zip(labels, mask, strict=True)] == expected
            assert (labels[mask == 0] == IGNORED).all()
            assert rows.predicted == int(label_positions(torch.from_numpy(labels)).sum())


@pytest.mark.parametrize("packing", ["packed", "documents"])
def test_fillers_have_no_labels(packing):
    rows = Rows(make([[1, 2, END]] * 4), 6, packing, False)
    _, labels = rows.read(np.array([0, -1]))
    assert (labels[0] != IGNORED).any()
    assert (labels[1] == IGNORED).all()


def test_documents_are_padded_to_the_longest_of_a_batch():
    rows = Rows(make([[1] * length for length in (3, 9, 20, 60)]), 50, "documents", False)
    assert [rows.read(np.array([n]))[0].shape[1] for n in range(4)] == [8, 16, 24, 50]
    assert rows.lengths.tolist() == [3, 9, 20, 50]
