"""Batches of pairs for training in an order that is a function of (seed, epoch), and queries for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coterie.data.batch import Batch
from coterie.data.order import InOrder, Order, longest_first
from coterie.randomness import derive_seed
from coterie.tasks.retrieval.cross.pairs import TaughtPairs
from coterie.tasks.retrieval.data.relevance import Queries
from coterie.tasks.retrieval.data.tokens import TokenTable, to_device
from coterie.tasks.retrieval.data.vectors import Vectors, read_rows

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingTexts:
    """The contents of training batches.

    Attributes:
        queries: queries of the split.
        query_tokens: tokens of the queries, followed by those of unlabelled queries.
        document_tokens: tokens of all documents; None: the teacher encodes them.
        query_vectors: the teacher's vectors of the queries, followed by those of unlabelled queries; None: no teacher.
        document_vectors: the teacher's vectors of all documents.
        max_negatives: largest number of hard negatives of a pair in a batch.
        pairs: a cross-encoder's scores of pairs; None: another teacher, or none.
    """

    queries: Queries
    query_tokens: TokenTable
    document_tokens: TokenTable | None
    query_vectors: Vectors | None
    document_vectors: Vectors | None
    max_negatives: int
    pairs: TaughtPairs | None = None

    @property
    def num_unlabelled(self) -> int:
        return len(self.query_tokens) - len(self.queries)


class PairLoader(InOrder):
    """Training batches of pairs, see :class:`coterie.data.batch.TrainLoader` and :class:`coterie.methods.retrieval.dual_encoder.DualEncoderMethod`.

    Several processes share a batch: each has its own queries and the documents of all; each document is encoded once, by one of the processes.
    If there are unlabelled queries, each batch holds as many of them as pairs; they have an order of their own and are repeated.

    Args:
        texts: tokens and vectors.
        order: order of the pairs.
        device: device of the batches.
    """

    def __init__(self, texts: TrainingTexts, order: Order, device: torch.device) -> None:
        self.texts, self.order, self.device = texts, order, device
        self.pairs: Integers = np.array(texts.queries.pairs, dtype=np.int64).reshape(-1, 2)
        self.relevant = [np.array([number for number, _ in each.relevant]) for each in texts.queries.items]
        self.views, self.ahead = 1, 0
        self.repeats = False  # the training loop does not run teachers: their vectors come with the batch
        self._rounds: dict[int, Integers] = {}

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from a step on; they do not depend on earlier batches."""
        for step, whole in enumerate(self.order.whole.batches(epoch, first_step), first_step):
            shares = [self.order.share(whole, process).numpy() for process in range(self.order.num_processes)]
            yield self._batch(shares, self._negatives(whole.numpy(), epoch), epoch, step)

    def _batch(self, shares: list[Integers], negatives: Integers, epoch: int, step: int) -> Batch:
        """Make a batch of this process's queries with the documents of all processes, its own first."""
        texts, index = self.texts, self.order.process_index
        numbers = shares[index]
        labelled = self.pairs[numbers, 0]
        sorted_shares = [numbers, *(share for process, share in enumerate(shares) if process != index)]
        documents = np.concatenate([*(self.pairs[share, 1] for share in sorted_shares), negatives])
        queries = np.concatenate([labelled, self._unlabelled(len(numbers), epoch, step)])
        excluded = np.stack([np.isin(documents, self.relevant[query]) for query in labelled])
        excluded[np.arange(len(numbers)), np.arange(len(numbers))] = False
        inputs: dict[str, Any] = {
            "query": texts.query_tokens.batch(queries, self.device),
            "excluded": to_device(torch.from_numpy(excluded), self.device),
        }
        if texts.document_tokens is not None:
            encoded, rows = self._divided(documents, len(numbers), negatives)
            inputs["document"] = texts.document_tokens.batch(encoded, self.device)
            if rows is not None:
                inputs["gathered"] = to_device(torch.from_numpy(rows), self.device)
        if texts.query_vectors is not None and texts.document_vectors is not None:
            inputs["teacher_query"] = read_rows(texts.query_vectors, queries, self.device)
            inputs["teacher_document"] = read_rows(texts.document_vectors, documents, self.device)
        if texts.pairs is not None:
            scores, known = texts.pairs.of(labelled, documents)
            inputs["teacher_scores"] = to_device(torch.from_numpy(scores), self.device)
            inputs["known"] = to_device(torch.from_numpy(known), self.device)
            if texts.pairs.vectors is not None:
                both = read_rows(texts.pairs.vectors, numbers, self.device)
                inputs["teacher_query"], inputs["teacher_document"] = both.unbind(1)
        targets = to_device(torch.arange(len(numbers)), self.device)
        return Batch(inputs, targets, to_device(torch.from_numpy(numbers), self.device))

    def _divided(self, documents: Integers, pairs: int, negatives: Integers) -> tuple[Integers, Integers | None]:
        """Return the documents that this process encodes (equally many on each), and the rows of the gathered vectors that are the batch's documents; None: its own documents are all."""
        processes, index = self.order.num_processes, self.order.process_index
        if processes == 1:
            return documents, None
        each = -(-len(negatives) // processes)
        own = np.resize(negatives, each * processes)[index::processes]
        places = [index, *(process for process in range(processes) if process != index)]
        starts = (pairs + each) * np.arange(processes)
        which = np.arange(len(negatives))
        rows = [starts[place] + np.arange(pairs) for place in places]
        rows.append(starts[which % processes] + pairs + which // processes)
        return np.concatenate([documents[:pairs], own]), np.concatenate(rows)

    def _negatives(self, numbers: Integers, epoch: int) -> Integers:
        """Return hard negatives of the batch's pairs, without duplicates. If a pair has many, different ones are used in each epoch."""
        found: dict[int, None] = {}
        most = self.texts.max_negatives
        for number in numbers.tolist():
            own = self.texts.queries.items[self.pairs[number, 0]].negatives
            if len(own) > most:
                drawn = np.random.default_rng(derive_seed(self.order.seed, "negatives", epoch, number))
                own = tuple(own[place] for place in drawn.choice(len(own), most, replace=False))
            found |= dict.fromkeys(own)
        return np.array(list(found), dtype=np.int64)

    def _unlabelled(self, count: int, epoch: int, step: int) -> Integers:
        """Return the indices of this process's unlabelled queries of a step."""
        total = self.texts.num_unlabelled
        if not total:
            return np.empty(0, dtype=np.int64)
        count = min(count, total)
        processes = self.order.num_processes
        first = (epoch * self.order.steps_per_epoch + step) * count * processes + self.order.process_index
        places = first + processes * np.arange(count)
        rounds = [self._round(int(place // total))[place % total] for place in places]
        return len(self.texts.queries) + np.array(rounds, dtype=np.int64)

    def _round(self, number: int) -> Integers:
        if number not in self._rounds:
            seed = derive_seed(self.order.seed, "unlabelled", number)
            self._rounds = {key: value for key, value in self._rounds.items() if key == number - 1}
            self._rounds[number] = np.random.default_rng(seed).permutation(self.texts.num_unlabelled)
        return self._rounds[number]


class QueryLoader:
    """The queries of a split, the longest first to reduce padding. See :class:`coterie.data.batch.EvaluationLoader`.

    Args:
        split: name of the split.
        queries: queries of the split, or a part of them.
        tokens: tokens of these queries.
        batch_size: queries per batch of this process.
        device: device of the batches.
        process_index, num_processes: rank of this process and number of processes.
    """

    def __init__(
        self,
        split: str,
        queries: Queries,
        tokens: TokenTable,
        batch_size: int,
        device: torch.device,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.split, self.queries, self.tokens, self.device = split, queries, tokens, device
        self.batch_size = batch_size
        self.indices = longest_first(torch.from_numpy(tokens.lengths), process_index, num_processes)

    @property
    def num_samples(self) -> int:
        return len(self.queries)

    def __iter__(self) -> Iterator[Batch]:
        for indices in self.indices.split(self.batch_size):
            numbers = indices.clamp(min=0).numpy()
            yield Batch(
                self.tokens.batch(numbers, self.device),
                to_device(indices, self.device),
                to_device(indices, self.device),
            )
