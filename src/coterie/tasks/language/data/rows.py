"""Rows of tokens, cut from the documents of a split, and which of their tokens are learnt."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.tasks.language.data.splits import Selection
from coterie.tasks.language.data.tokens import Integers

IGNORED = -100  # transformers' label of a token that no loss counts
WIDTHS = 8  # rows are padded to multiples of it: fewer shapes to compile, and efficient on tensor cores


def label_positions(labels: Tensor) -> Tensor:
    """Return the positions whose logits count, those that predict a token with a label, bool [B, L]. Position i predicts token i + 1.

    The position before the first token of a completion counts, that of its last token does not. No position predicts the first token
    of a row.

    Args:
        labels: int64 [B, L], unshifted as in transformers: the input ids, or -100 for tokens without a loss.

    >>> label_positions(torch.tensor([[-100, 5, 6, -100]]))
    tensor([[ True,  True, False, False]])
    """
    counted = labels[:, 1:] != IGNORED
    return torch.cat([counted, torch.zeros_like(counted[:, :1])], dim=1)


def label_targets(labels: Tensor) -> Tensor:
    """Return the tokens to predict at the positions that count, int64 [P], from labels [B, L].

    >>> label_targets(torch.tensor([[-100, 5, 6, -100]]))
    tensor([5, 6])
    """
    following = labels[:, 1:]
    return following[following != IGNORED]


class Rows:
    """The rows of a split: segments of its concatenated documents, each of which ends with the end-of-text token.

    ``packed`` cuts the concatenation every ``block_length`` tokens; a row may hold parts of several documents, which attend to one another.
    ``documents`` starts a row with each document and truncates it to ``block_length``. Rows without a token to predict (a last
    row of one token; a row without completion tokens, if only these count) are left out.

    Args:
        selection: the documents.
        block_length: L, largest number of tokens per row.
        packing: see above.
        completions: whether only completions and assistant's turns have labels.

    Attributes:
        starts, ends: int64 [R], offsets in the concatenated documents.
        left_out: number of rows without a token to predict.
        cut_documents, cut_tokens: for ``documents``, how many are longer than a row, and how many of their tokens are in no row.
        counts: int64 [R], positions that count in each row.
        predicted: positions that count in all rows.
    """

    def __init__(
        self, selection: Selection, block_length: int, packing: Literal["packed", "documents"], completions: bool
    ) -> None:
        self.selection = selection
        self.packing = packing
        self.block_length = block_length
        store, numbers = selection.store, selection.numbers
        lengths = store.offsets[numbers + 1] - store.offsets[numbers]
        self._places = np.concatenate([[0], np.cumsum(lengths)])  # offsets in the concatenated documents, [M + 1]
        self._shifts = store.offsets[numbers] - self._places[:-1]  # from these offsets to those of the store
        self._spans = self._placed_spans() if completions else None
        self.cut_documents = self.cut_tokens = 0
        if packing == "packed":
            starts = np.arange(0, self._places[-1], block_length)
            ends = np.minimum(starts + block_length, self._places[-1])
        else:
            starts = self._places[:-1]
            ends = np.minimum(self._places[1:], starts + block_length)
            self.cut_documents = int((lengths > block_length).sum())
            self.cut_tokens = int((lengths - block_length).clip(min=0).sum())
        predicted = self._labelled_before(ends) - self._labelled_before(np.minimum(starts + 1, ends))
        kept = predicted > 0
        self.starts: Integers = starts[kept]
        self.ends: Integers = ends[kept]
        self.left_out = int((~kept).sum())
        self.counts: Integers = predicted[kept]
        self.predicted = int(predicted.sum())

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> Integers:
        """Number of tokens of each row, int64 [R]."""
        return self.ends - self.starts

    def read(self, numbers: Integers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Read some rows, padded on the right with the end-of-text token.

        Args:
            numbers: indices of the rows, int64 [B]; -1 gives a row without labels, to fill up a batch.

        Returns:
            Tokens int64 [B, W] and labels int64 [B, W]. W is ``block_length`` for packed rows; for documents, it is the
            length of the longest one, rounded up to a multiple of 8 but at most ``block_length``.
        """
        fillers = numbers < 0
        numbers = np.where(fillers, 0, numbers)
        starts, ends = self.starts[numbers], self.ends[numbers]
        width = self.block_length
        if self.packing == "documents":
            width = min(width, -(-int((ends - starts).max()) // WIDTHS) * WIDTHS)
        places = starts[:, None] + np.arange(width)
        inside = places < ends[:, None]
        places = np.minimum(places, ends[:, None] - 1)
        document = np.searchsorted(self._places, places, side="right") - 1
        tokens = self.selection.store.tokens[places + self._shifts[document]].astype(np.int64)
        labels = np.where(inside & self._labelled(places) & ~fillers[:, None], tokens, IGNORED)
        return np.where(inside, tokens, self.selection.store.end), labels

    def _placed_spans(self) -> Any:
        """Return starts and ends (exclusive) of the labelled spans, in the concatenation of the selected documents: int64 [S], int64 [S]."""
        store = self.selection.store
        spans = store.spans if store.spans is not None else np.empty((0, 2), np.int64)
        document = np.searchsorted(store.offsets, spans[:, 0], side="right") - 1
        slot = np.searchsorted(self.selection.numbers, document)
        slot = np.minimum(slot, len(self._shifts) - 1)
        chosen = self.selection.numbers[slot] == document
        placed = spans[chosen] - self._shifts[slot[chosen], None]
        return placed[:, 0], placed[:, 1]

    def _labelled(self, places: Integers) -> NDArray[np.bool_]:
        if self._spans is None:
            return np.ones(places.shape, dtype=np.bool_)
        starts, ends = self._spans
        span = np.searchsorted(starts, places, side="right") - 1
        return (span >= 0) & (places < ends[span]) if len(ends) else np.zeros(places.shape, dtype=np.bool_)

    def _labelled_before(self, places: Integers) -> Integers:
        """Return the number of labelled tokens before each offset."""
        if self._spans is None:
            return places
        starts, ends = self._spans
        if not len(starts):
            return np.zeros_like(places)
        before = np.concatenate([[0], np.cumsum(ends - starts)])
        span = np.searchsorted(starts, places, side="right") - 1
        partly = np.minimum(places, ends[span]) - starts[span]
        return np.where(span >= 0, before[span] + partly, 0)
