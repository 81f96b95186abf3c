"""Texts as token tables on the device, and batches of them.

A batch is one tensor, int64 [B, T, 3, L], so that the loop, groups, views and teachers take texts as they take images. For each of
the T tokenizers that a run's networks need (the students' first) it holds a text's token numbers, attention mask and segment
numbers. A mapping of named tensors would say the same in words, but every place that handles a batch would have to know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.data.batch import Batch, Loaders, SetInfo
from coterie.data.fingerprint import fingerprint
from coterie.data.order import InOrder, Order, evaluation_share
from coterie.errors import CoterieError
from coterie.tasks.texts.reading import RawTexts, Texts

EVALUATION_BATCH = 128
TOKENS, MASK, SEGMENTS = range(3)  # rows of a table


@dataclass(frozen=True)
class TextInfo(SetInfo):
    """Of texts; ``length``: L, the longest one's tokens, at most ``text.max_length``."""

    length: int


class TokenTables:
    """A split's tables and labels on the device.

    Args:
        tables: int32 [N, T, 3, L].
        labels: int64 [N].
        device: where they are kept.
    """

    def __init__(self, tables: NDArray[np.int32], labels: NDArray[np.int64], device: torch.device) -> None:
        self.tables = torch.from_numpy(tables).to(device)
        self.labels = torch.from_numpy(np.ascontiguousarray(labels)).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, numbers: Tensor) -> Tensor:
        """Tables int64 [B, T, 3, L] of the samples with these numbers."""
        return self.tables.index_select(0, numbers).long()


class TokenTrainLoader(InOrder):
    """Training batches, see :class:`coterie.data.batch.TrainLoader`. Texts are not augmented: all views of one are equal."""

    def __init__(self, samples: TokenTables, order: Order, num_classes: int) -> None:
        self.samples = samples
        self.order = order
        self.views = 1
        self.repeats = True
        self.ahead = 0
        self.class_counts = torch.bincount(samples.labels.cpu(), minlength=num_classes)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on: the same whatever was drawn before."""
        for indices in self.order.batches(epoch, first_step):
            numbers = indices.to(self.samples.labels.device, non_blocking=True)
            inputs = self.samples.inputs(numbers)
            views = inputs if self.views == 1 else [inputs] * self.views
            yield Batch(views, self.samples.labels[numbers], indices)


class TokenEvaluationLoader:
    """Batches in order, see :class:`coterie.data.batch.EvaluationLoader`."""

    def __init__(self, samples: TokenTables, process_index: int = 0, num_processes: int = 1) -> None:
        self.samples = samples
        self.indices = evaluation_share(len(samples), process_index, num_processes)

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Batch]:
        for share in self.indices.split(EVALUATION_BATCH):
            indices = share.to(self.samples.labels.device)
            numbers = indices.clamp(min=0)
            yield Batch(self.samples.inputs(numbers), self.samples.labels[numbers], indices)


@dataclass(frozen=True)
class TokenBundle(Loaders):
    """The loaders of texts."""

    info: TextInfo


def load_tokens(
    raw: RawTexts,
    tokenizers: Sequence[Any],
    *,
    max_length: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    process_index: int = 0,
    num_processes: int = 1,
) -> TokenBundle:
    """Tokenise every split by every tokenizer, and prepare the loaders of a run.

    Args:
        raw: the texts.
        tokenizers: of transformers, T of them, the students' first.
        max_length: tokens after which a text or a pair is cut off.
        batch_size: texts a step over all processes.
        seed: of the run: order derives from it.
        device: where the tables are kept.
        process_index, num_processes: this process's place.

    Raises:
        CoterieError: a tokenizer that cannot pad.
    """
    encoded = {split: [encode(each, texts, max_length) for each in tokenizers] for split, texts in raw.splits().items()}
    length = max(len(tokens) for tables in encoded.values() for table in tables for tokens, _ in table)
    splits = {
        split: TokenTables(_padded(tables, tokenizers, length), raw.splits()[split].labels, device)
        for split, tables in encoded.items()
    }
    order = Order(len(raw.train), batch_size, seed, process_index, num_processes)
    evaluation = {
        split: TokenEvaluationLoader(samples, process_index, num_processes) for split, samples in splits.items()
    }
    return TokenBundle(
        TextInfo(raw.name, raw.class_names, length),
        TokenTrainLoader(splits["train"], order, len(raw.class_names)),
        evaluation.get("validation"),
        evaluation.get("test"),
        evaluation["train"],
        fingerprint(raw.class_names, raw.splits(), {}),
    )


Encoded = list[tuple[list[int], list[int]]]  # each text's token and segment numbers


def encode(tokenizer: Any, samples: Texts, max_length: int) -> Encoded:
    """Token and segment numbers of every text or pair, cut off at ``max_length`` and not padded."""
    if tokenizer.pad_token_id is None:
        raise CoterieError(f"the tokenizer of {tokenizer.name_or_path!r} has no padding token; set its pad_token")
    columns = [list(column) for column in zip(*samples.texts, strict=True)]
    found = tokenizer(*columns, truncation=True, max_length=max_length, return_token_type_ids=True)
    return list(zip(found["input_ids"], found["token_type_ids"], strict=True))


def _padded(encoded: list[Encoded], tokenizers: Sequence[Any], length: int) -> NDArray[np.int32]:
    """Tables int32 [N, T, 3, L]; what stands behind a text is masked."""
    tables = np.zeros((len(encoded[0]), len(encoded), 3, length), dtype=np.int32)
    for slot, (texts, tokenizer) in enumerate(zip(encoded, tokenizers, strict=True)):
        tables[:, slot, TOKENS] = tokenizer.pad_token_id
        for number, (tokens, segments) in enumerate(texts):
            tables[number, slot, TOKENS, : len(tokens)] = tokens
            tables[number, slot, MASK, : len(tokens)] = 1
            tables[number, slot, SEGMENTS, : len(segments)] = segments
    return tables
