"""Evaluation of language models over a split, batch by batch; memory does not grow with the split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from coterie.data.batch import EvaluationLoader
from coterie.data.nested import Inputs
from coterie.errors import RunError
from coterie.losses import Projection
from coterie.losses.chunked import chunk_positions
from coterie.losses.chunks import projected
from coterie.methods.group_method import GroupMethod, Predictions, grouped
from coterie.methods.method import Method
from coterie.methods.teacher.guide import combined_logits
from coterie.metrics import mean_figures
from coterie.networks.teacher import Teachers
from coterie.tasks.evaluation import Evaluation
from coterie.tasks.language.causal_lm import LanguageGroup, teachers_projections
from coterie.tasks.language.figures import LanguageFigures, top_tokens

Curves = dict[str, list[float]]


@dataclass(frozen=True)
class LanguageEvaluation(Evaluation):
    """Evaluation of language models.

    Attributes:
        curves: curves of each student, see :meth:`coterie.tasks.language.figures.LanguageFigures.curves`.
        teachers: figures and curves of each teacher, if teachers were evaluated.
    """

    curves: Sequence[Curves] = ()
    teachers: Sequence[tuple[dict[str, float], Curves]] = ()


@torch.no_grad()  # not inference_mode: parameters that it gathers from sharded networks are used in training too
def measure(
    method: Method, teachers: Teachers | None, loader: EvaluationLoader, accelerator: Accelerator, length: int
) -> LanguageEvaluation:
    """Evaluate all students, teachers and, with several students, the method's ensemble on a whole split, in eval mode.

    Args:
        method: the method; it is set to eval mode.
        teachers: teachers to compare the students with, by the teachers' mean probability if there are several. None: no comparison.
        loader: batches of the split.
        accelerator: the sums of its processes are added up.
        length: largest number of tokens per row.

    Raises:
        RunError: predictions are not finite.
    """
    method = grouped(method).eval()
    students = method.num_students
    count = students + (students > 1) + (len(teachers) if teachers is not None else 0)
    sums: list[LanguageFigures] = []
    statistics: dict[str, Tensor] = {}
    positions = torch.zeros((), dtype=torch.int64, device=accelerator.device)
    for batch in loader:
        columns = batch.inputs["positions"] % batch.inputs["input_ids"].shape[1]
        for part, predictions, taught in _predicted(method, teachers, batch.inputs, accelerator):
            if not sums:
                vocabulary = predictions.logits.shape[-1]
                sums = [LanguageFigures(vocabulary, length, device=accelerator.device) for _ in range(count)]
            top = top_tokens(_combined(taught)) if taught else None
            own = [*predictions.logits, *([predictions.ensemble] if students > 1 else [])]
            for number, logits in enumerate([*own, *taught]):
                sums[number].update(logits, batch.targets[part], columns[part], top if number < len(own) else None)
            for name, values in predictions.statistics.items():
                statistics[name] = statistics.get(name, 0) + values.float().sum(0)
        positions += len(batch.targets)
    for each in sums:
        each.load(accelerator.reduce(each.state(), "sum"))
    found = [each.compute() for each in sums]
    _require_finite(found[:students])
    total = accelerator.reduce(positions, "sum")
    means = {name: (accelerator.reduce(value, "sum") / total).tolist() for name, value in statistics.items()}
    deployed = method.deployed_student
    figures: dict[str, Any] = {
        "deployed": {"student": deployed, **found[deployed]},
        "students": found[:students],
        "mean_student": mean_figures(found[:students]),
        "statistics": means,
    }
    if students > 1:
        figures["ensemble"] = {"method": found[students]}
    first = students + (students > 1)
    return LanguageEvaluation(
        figures,
        curves=[each.curves() for each in sums[:students]],
        teachers=[(found[number], sums[number].curves()) for number in range(first, count)],
    )


def _predicted(
    method: GroupMethod, teachers: Teachers | None, inputs: Inputs, accelerator: Accelerator
) -> Iterator[tuple[slice, Predictions, list[Tensor]]]:
    """Yield positions, predictions and each teacher's logits of a batch, in chunks if the batch has many logits."""
    group = method.group
    if not (
        isinstance(group, LanguageGroup)
        and type(method).predict is GroupMethod.predict
        and group.is_in_parts(inputs, len(teachers) if teachers is not None else 0)
    ):
        with accelerator.autocast():
            predictions = method.predict(inputs)
            taught = [output.logits for output in teachers(inputs)] if teachers is not None else []
        yield slice(None), predictions, taught
        return
    with accelerator.autocast():
        students = group.projections(inputs)
        others = teachers_projections(teachers, inputs) if teachers is not None else []
    size = chunk_positions(students)
    for start in range(0, len(students[0].hidden), size):
        part = slice(start, start + size)
        with accelerator.autocast():
            predictions = method.predictions_of(torch.stack([projected(each, part) for each in students]))
            taught = [projected(each, part) if isinstance(each, Projection) else each[part] for each in others]
        yield part, predictions, taught


def _combined(logits: Sequence[Tensor]) -> Tensor:
    """Combine the logits of all teachers, [P, V]."""
    return logits[0] if len(logits) == 1 else combined_logits(torch.stack(tuple(logits)), "mean_probability")


def _require_finite(students: Iterable[dict[str, float]]) -> None:
    for number, figures in enumerate(students):
        if not figures["nll"] < float("inf"):
            raise RunError(
                f"the predictions of student {number} are not finite: training has diverged. "
                "Try a lower optimizer.learning_rate, training.clip_gradient, or a longer schedule.warmup_epochs."
            )
