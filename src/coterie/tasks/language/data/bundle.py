"""Loaders and fingerprint of a run's data: batches of rows of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from coterie.data.batch import Loaders, SetInfo
from coterie.data.order import Order
from coterie.tasks.language.data.loaders import LanguageEvaluationLoader, LanguageTrainLoader
from coterie.tasks.language.data.sets import LanguageSets

TRAINING_ROWS = 512  # rows of the training split to evaluate at the end
LOGITS = 2**27  # largest number of logits of an evaluation batch: 512 MiB in float32


def make_loaders(
    sets: LanguageSets,
    *,
    vocabulary: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    process_index: int = 0,
    num_processes: int = 1,
    accumulate: int = 1,
    notes: tuple[str, ...] = (),
) -> Loaders:
    """Make the loaders of all splits.

    If each document is a row, rows of similar length share a batch. ``train_evaluation`` covers a part of the training split.

    Args:
        sets: rows by split.
        vocabulary: logits per position.
        batch_size: rows per step, over all processes.
        seed: seed of the order.
        device: device of the batches.
        process_index, num_processes: rank of this process and number of processes.
        accumulate: batches to accumulate before a step.
        notes: further notes for the user, in sentences.
    """
    train = sets.rows["train"]
    lengths = torch.from_numpy(train.lengths) if sets.packing == "documents" else None
    order = Order(len(train), batch_size, seed, process_index, num_processes, lengths)
    width = max(int(rows.lengths.max()) for rows in sets.rows.values())
    measured = max(1, min(batch_size // num_processes, LOGITS // (width * vocabulary)))

    def evaluation(split: str, limit: int | None = None) -> LanguageEvaluationLoader | None:
        if split not in sets.rows:
            return None
        return LanguageEvaluationLoader(sets.rows[split], measured, device, process_index, num_processes, limit)

    on_train = evaluation("train", TRAINING_ROWS)
    assert on_train is not None
    info = SetInfo(
        sets.name,
        (),
        skipped=sets.skipped,
        passed_over=sets.passed_over,
        duplicates=sets.duplicates,
        notes=(*sets.notes, *notes),
    )
    return Loaders(
        info,
        LanguageTrainLoader(train, order, device, accumulate),
        evaluation("validation"),
        evaluation("test"),
        on_train,
        fingerprint(sets),
    )


def fingerprint(sets: LanguageSets) -> dict[str, Any]:
    """Return what identifies the data, as in ``data.json``: documents and their digest in each split, and how rows are made of them."""
    found: Mapping[str, Any] = sets.fingerprint
    splits = {
        split: {
            "samples": each["documents"],
            "order": each["digest"],
            "classes": {"": [each["tokens"], each["digest"]]},
        }
        for split, each in found["splits"].items()
    }
    return {"classes": [], "preparation": {"tokenizer": found["tokenizer"]}, "splits": splits}
