"""Caches the teachers' logits: they are computed once for every training sample."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from coterie.data.batch import Batch
from coterie.methods.method import Method
from coterie.recipe.sections import TrainingRecipe, resolved
from coterie.tasks.task import Task
from coterie.training.display import Display


def precompute_teacher_logits(settings: TrainingRecipe, task: Task, method: Method, display: Display) -> None:
    """Cache the teachers' logits of the training samples if the training has several epochs.

    A resumed run computes them again, even for a single epoch: logits of a different batch size may differ in the last bits.
    """
    train = task.data.train
    if not (settings.cache_teachers and train.repeats and method.reads_logits_only and resolved(settings.epochs) > 1):
        return
    assert method.teachers is not None
    display.note(f"computing the teachers' logits of {train.num_samples:,} training samples, once")
    method.teachers.cache_logits(task.teacher_logits(method.teachers, task.data.train_evaluation)[0])


@contextlib.contextmanager
def cached_teachers(method: Method, batch: Batch) -> Iterator[None]:
    """Context in which the teachers read the logits of a training batch from their cache, if there is one."""
    if method.teachers is not None:
        method.teachers.use_cached(batch.indices)
    try:
        yield
    finally:
        if method.teachers is not None:
            method.teachers.stop_using_cached()
