"""Texts as token tables on the device, and batches of them.

A batch is a tuple with a mapping for each tokenizer of the run's networks, the students' first: ``input_ids``, ``attention_mask`` and
``token_type_ids``, int64 [B, L]. Batches group texts of similar length, and L is the length of the longest one.
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
from coterie.data.order import InOrder, Order, longest_first
from coterie.errors import CoterieError
from coterie.tasks.texts.reading import RawTexts, Texts, text_digests

EVALUATION_BATCH = 128
BUCKETS = 4  # number of different batch lengths if a step is captured or compiled for each shape

Encoded = list[tuple[list[int], list[int]]]  # each text's token and segment numbers


@dataclass(frozen=True)
class TextInfo(SetInfo):
    """Information about text data; ``length`` is the number of tokens of the longest text, at most ``data.max_length``."""

    length: int


class TokenTable:
    """A split's texts by one tokenizer, concatenated on the device; padded batches are built there.

    Args:
        encoded: each text's tokens and segments.
        padding: the padding token.
        device: device of the tables.

    Attributes:
        lengths: number of tokens of each text, int64 [N] on the CPU.
    """

    def __init__(self, encoded: Encoded, padding: int, device: torch.device) -> None:
        self.lengths = torch.tensor([len(tokens) for tokens, _ in encoded])
        self.padding = padding
        ends = self.lengths.cumsum(0)
        self._starts, self._lengths = (ends - self.lengths).to(device), self.lengths.to(device)
        self._tokens, self._segments = (
            torch.tensor([number for text in encoded for number in text[part]], dtype=torch.int32).to(device)
            for part in (0, 1)
        )

    def batch(self, numbers: Tensor, length: int) -> dict[str, Tensor]:
        """Returns ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 [B, length], of the texts with these indices (on the device)."""
        positions = torch.arange(length, device=numbers.device)
        mask = positions < self._lengths[numbers].unsqueeze(1)
        places = torch.where(mask, self._starts[numbers].unsqueeze(1) + positions, 0)
        return {
            "input_ids": torch.where(mask, self._tokens[places], self.padding).long(),
            "attention_mask": mask.long(),
            "token_type_ids": torch.where(mask, self._segments[places], 0).long(),
        }


class TokenTables:
    """A split's texts by every tokenizer, and its labels, on the device.

    Args:
        tables: one for each tokenizer.
        labels: int64 [N].
        device: device of the labels.
        buckets: allowed lengths of batches, in increasing order; empty: any.

    Attributes:
        lengths: number of tokens of each text, the maximum over tokenizers, int64 [N] on the CPU.
    """

    def __init__(
        self,
        tables: Sequence[TokenTable],
        labels: NDArray[np.int64],
        device: torch.device,
        buckets: Sequence[int] = (),
    ) -> None:
        self.tables = tables
        self.buckets = buckets
        self.labels = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
        self.lengths = torch.stack([table.lengths for table in tables]).amax(0)

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, numbers: Tensor) -> tuple[dict[str, Tensor], ...]:
        """Returns, for each tokenizer, a batch of the samples with these indices (int64 on the CPU), padded to the longest text or the next of ``buckets``."""
        places = numbers.to(self.labels.device, non_blocking=True)
        return tuple(
            table.batch(places, self._length(max(1, int(table.lengths[numbers].max())))) for table in self.tables
        )

    def _length(self, longest: int) -> int:
        return next((bucket for bucket in self.buckets if bucket >= longest), longest)


class TokenTrainLoader(InOrder):
    """Training batches, see :class:`coterie.data.batch.TrainLoader`. Texts are not augmented: all views of a text are equal."""

    def __init__(self, samples: TokenTables, order: Order, num_classes: int) -> None:
        self.samples = samples
        self.order = order
        self.views = 1
        self.repeats = True
        self.ahead = 0
        self.class_counts = torch.bincount(samples.labels.cpu(), minlength=num_classes)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch, starting at a step; they do not depend on earlier draws."""
        for indices in self.order.batches(epoch, first_step):
            inputs = self.samples.inputs(indices)
            numbers = indices.to(self.samples.labels.device, non_blocking=True)
            yield Batch(inputs if self.views == 1 else [inputs] * self.views, self.samples.labels[numbers], indices)


class TokenEvaluationLoader:
    """Evaluation batches, the longest texts first, see :class:`coterie.data.batch.EvaluationLoader`."""

    def __init__(self, samples: TokenTables, process_index: int = 0, num_processes: int = 1) -> None:
        self.samples = samples
        self.indices = longest_first(samples.lengths, process_index, num_processes)

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Batch]:
        for share in self.indices.split(EVALUATION_BATCH):
            numbers = share.clamp(min=0)
            labels = self.samples.labels
            yield Batch(self.samples.inputs(numbers), labels[numbers.to(labels.device)], share.to(labels.device))


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
    few_lengths: bool = False,
) -> TokenBundle:
    """Tokenise every split with every tokenizer, and build the loaders of a run.

    Args:
        raw: the texts.
        tokenizers: tokenizers of transformers, the students' first.
        max_length: number of tokens to which a text or a pair is truncated.
        batch_size: texts in a step over all processes.
        seed: seed of the run, from which the order derives.
        device: device of the tables.
        process_index, num_processes: index of this process, and number of processes.
        few_lengths: whether batches have one of ``BUCKETS`` lengths only, for a step that is compiled or captured.

    Raises:
        CoterieError: a tokenizer has no padding token.
    """
    encoded = {split: [encode(each, texts, max_length) for each in tokenizers] for split, texts in raw.splits().items()}
    length = max(len(tokens) for tables in encoded.values() for table in tables for tokens, _ in table)
    buckets = [-(-length * part // BUCKETS) for part in range(1, BUCKETS + 1)] if few_lengths else []
    splits = {
        split: TokenTables(
            [TokenTable(texts, each.pad_token_id, device) for texts, each in zip(tables, tokenizers, strict=True)],
            raw.splits()[split].labels,
            device,
            buckets,
        )
        for split, tables in encoded.items()
    }
    order = Order(len(raw.train), batch_size, seed, process_index, num_processes, splits["train"].lengths)
    evaluation = {
        split: TokenEvaluationLoader(samples, process_index, num_processes) for split, samples in splits.items()
    }
    return TokenBundle(
        TextInfo(raw.name, raw.class_names, length),
        TokenTrainLoader(splits["train"], order, len(raw.class_names)),
        evaluation.get("validation"),
        evaluation.get("test"),
        evaluation["train"],
        fingerprint(raw.class_names, raw.splits(), {}, text_digests),
    )


def encode(tokenizer: Any, samples: Texts, max_length: int) -> Encoded:
    """Returns token and segment ids of every text or pair, truncated to ``max_length`` and not padded."""
    if tokenizer.pad_token_id is None:
        raise CoterieError(f"the tokenizer of {tokenizer.name_or_path!r} has no padding token; set its pad_token")
    columns = [list(column) for column in zip(*samples.texts, strict=True)]
    found = tokenizer(*columns, truncation=True, max_length=max_length, return_token_type_ids=True)
    return list(zip(found["input_ids"], found["token_type_ids"], strict=True))
