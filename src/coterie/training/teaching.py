"""Teachers that are asked once about every training sample, and answer from memory afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from coterie.data.batch import Batch
from coterie.methods.method import Method
from coterie.recipe.sections import TrainingRecipe, settled
from coterie.tasks.task import Task
from coterie.training.display import Display


def ask_teachers_once(settings: TrainingRecipe, task: Task, method: Method, display: Display) -> None:
    """Let the teachers memorise what they say of the training samples, where that serves several epochs.

    A run that is gone on with asks again, even for a single epoch: what a teacher says of a larger batch may differ in the last bits.
    """
    train = task.data.train
    if not (settings.cache_teachers and train.repeats and method.reads_logits_only and settled(settings.epochs) > 1):
        return
    display.note(f"asking the teachers about {train.num_samples:,} training samples, once")
    for teachers in method.held_teachers():
        teachers.memorise(task.ask_teachers(teachers, task.data.train_evaluation)[0])


@contextlib.contextmanager
def recalled(method: Method, batch: Batch) -> Iterator[None]:
    """Let the teachers answer from memory for a training batch, where they have been asked before."""
    teachers = method.held_teachers()
    for each in teachers:
        each.recall(batch.indices)
    try:
        yield
    finally:
        for each in teachers:
            each.forget()
