"""A run's data as loaders: rows of tokens in batches, and what identifies them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from coterie.data.batch import Loaders, SetInfo
from coterie.data.order import Order
from coterie.tasks.language.data.loaders import LanguageEvaluationLoader, LanguageTrainLoader
from coterie.tasks.language.data.sets import LanguageSets

TRAINING_ROWS = 512  # of the training split, that are measured at the end
LOGITS = 2**27  # of a batch that is evaluated at most: 512 MiB in float32


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
    """Loaders of all splits.

    Rows of about one length share a batch where they are documents. Of the training split, ``train_evaluation`` measures a part.

    Args:
        sets: rows by split.
        vocabulary: logits of a position.
        batch_size: rows a step, over all processes.
        seed: of the order.
        device: where batches go.
        process_index, num_processes: this process's place.
        accumulate: batches that are added up before a step.
        notes: what else was found, in sentences.
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
    """What identifies the data, as ``data.json`` holds it: documents and their digest in each split, and how rows are made of them."""
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
