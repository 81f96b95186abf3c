"""Common parts of all classification tasks: label loss, evaluation of students and teachers, figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from coterie.data.batch import ClassTrainLoader, EvaluationLoader, Loaders
from coterie.data.nested import batch_size, split
from coterie.errors import CoterieError, RunError
from coterie.losses import LabelLoss, balanced_class_weights
from coterie.methods.group_method import GroupMethod, grouped
from coterie.methods.method import Method
from coterie.metrics import (
    balanced_accuracy,
    choose_student,
    classification_figures,
    per_class_figures,
)
from coterie.metrics.notable import gallery_samples
from coterie.networks.teacher import Teachers
from coterie.recipe import Recipe
from coterie.tasks.batch_size import require_enough_samples
from coterie.tasks.defaults import TaskDefaults
from coterie.tasks.evaluation import ChanceLevel, Deployment, Evaluation
from coterie.tasks.group_figures import GroupSums
from coterie.tasks.kept import KeptPredictions


@dataclass(frozen=True)
class ClassEvaluation(Evaluation):
    """Evaluation of a classification task.

    Attributes:
        predicted: class predicted by each student, int64 [n, N], in the order of the samples.
        labels: int64 [N].
        logits: float32 [n, N, K], for methods that learn from a validation split; None: not kept.
    """

    predicted: Tensor
    labels: Tensor
    logits: Tensor | None = None


class Classification(TaskDefaults):
    """Base of the tasks whose targets are classes.

    Attributes:
        sample: what a sample is called.
        recipe: the run's settings.
        accelerator: device and processes.
        data: the loaders.
        chosen: settings that were ``auto``, by full name, with the reasons of their values.
        teacher_notes: what the run's summary records about each teacher.
    """

    sample: ClassVar[str] = "image"
    recipe: Recipe
    accelerator: Accelerator
    data: Loaders
    teacher_notes: list[dict[str, Any]]

    def prepare(self, method: Method) -> Method:
        """Sets the number of views that the method or the recipe needs, and checks the batch size and that a required validation split exists."""
        several = max(method.views, method.num_students)
        self.data.train.views = {"auto": method.views, "shared": 1, "per_student": several}[self.recipe.data.views]
        require_enough_samples(self.recipe, method, self.data.train, self.accelerator.num_processes)
        if self.recipe.training.patience is not None and self.data.validation is None:
            raise CoterieError(
                f"training.patience={self.recipe.training.patience} waits for a better validation top-1, and there is no validation split; set data.validation"
            )
        if self.recipe.training.select == "best" and self.data.validation is None:
            raise CoterieError("training.select=best needs a validation split, and there is none; set data.validation")
        if method.needs_validation and self.data.validation is None:
            raise CoterieError(
                f"method={self.recipe.method.name} with these settings learns from a validation split, and there is none; set data.validation"
            )
        return method

    def label_loss(self) -> LabelLoss:
        training = self.recipe.training
        weights = None
        if training.class_weights == "balanced":
            weights = balanced_class_weights(cast(ClassTrainLoader, self.data.train).class_counts)
        elif training.class_weights != "none":
            if len(training.class_weights) != len(self.data.info.class_names):
                raise CoterieError(
                    f"training.class_weights has {len(training.class_weights)} values, the data have {len(self.data.info.class_names)} classes"
                )
            weights = torch.tensor(training.class_weights)
        return LabelLoss(training.label_loss, training.label_smoothing, weights)

    @torch.inference_mode()
    def evaluate(self, method: Method, loader: EvaluationLoader) -> ClassEvaluation:
        """Evaluate every student, the ensembles and their diversity over a whole split, in eval mode, batch by batch.

        Memory grows by a few bytes per sample, not with samples times classes. On the validation split, every student's logits are kept for methods that read
        them (``needs_validation`` and :meth:`GroupMethod.after_validation`).
        With several processes, the main process's buffers are broadcast first, so that all evaluate what it saves: BatchNorm's running statistics differ
        between processes.

        Raises:
            RunError: a student's predictions are not finite.
        """
        method = grouped(method).eval()
        several = self.accelerator.num_processes > 1
        if several:
            for buffer in method.buffers():
                torch.distributed.broadcast(buffer, 0)
        whole = _reads_logits(method) and loader is self.data.validation
        sums: GroupSums | None = None  # over the predicted students, which are not always those of the group
        kept = KeptPredictions(loader.num_samples, whole)
        for batch in loader:
            with self.accelerator.autocast():
                predictions = method.predict(batch.inputs)
            logits, ensemble = predictions.logits.float(), predictions.ensemble.float()
            sums = sums or GroupSums(len(logits), self.accelerator.device)
            sums.add(logits, ensemble, predictions.statistics, batch.targets, batch.indices >= 0)
            kept.add(logits, ensemble, batch.targets, batch.indices)
        assert sums is not None, "no split is empty"
        if several:
            kept.drop_fillers()
            sums.load(self.accelerator.reduce(sums.state(), "sum"))
            kept.state = self.accelerator.reduce(kept.state, "sum")
        if (student := sums.first_not_finite()) is not None:
            raise RunError(
                f"the predictions of student {student} are not finite: training has diverged. "
                "Try a lower optimizer.learning_rate, training.clip_gradient, or a longer schedule.warmup_epochs."
            )
        figures = sums.compute(method.deployed_student)
        return ClassEvaluation(figures, kept.predicted(), kept.labels(), kept.logits(), predictions=kept.predictions())

    @torch.no_grad()
    def teacher_logits(self, teachers: Teachers, loader: EvaluationLoader) -> tuple[Tensor, Tensor]:
        """Returns every teacher's logits over a whole split, float32 [m, N, K], and the labels [N], both in the order of the samples."""
        logits, labels, indices = [], [], []
        for batch in loader:
            parts = []
            size = batch_size(batch.inputs)
            for inputs in split(batch.inputs, max(1, size // teachers.enlargement(batch.inputs))):
                with self.accelerator.autocast():
                    outputs = teachers(inputs)
                parts.append(torch.stack([output.logits for output in outputs], dim=1).float())
            logits.append(torch.cat(parts))
            labels.append(batch.targets)
            indices.append(batch.indices)
        gathered = self.accelerator.gather([torch.cat(each) for each in (logits, labels, indices)])
        order = _order(gathered[2])
        return gathered[0][order].transpose(0, 1).contiguous(), gathered[1][order]

    def evaluate_teachers(self, method: Method, loader: EvaluationLoader) -> list[dict[str, Any]]:
        """Returns the notes about each teacher, with its figures on a whole split; empty without teachers."""
        if method.teachers is None:
            return []
        logits, labels = self.teacher_logits(method.teachers, loader)
        return [
            {**note, **classification_figures(own, labels)}
            for note, own in zip(self.teacher_notes, logits, strict=True)
        ]

    def learn_from(self, method: Method, validation: Evaluation) -> None:
        """See :class:`coterie.tasks.task.Task`."""
        assert isinstance(validation, ClassEvaluation)
        if validation.logits is not None:
            grouped(method).after_validation(validation.logits, validation.labels)

    def chance_level(self, evaluation: Evaluation) -> ChanceLevel:
        """Returns the NLL; a uniform guess among K classes has ln K."""
        return ChanceLevel("NLL", evaluation.figures["deployed"]["nll"], math.log(len(self.data.info.class_names)))

    def untrained_warning(self, on_train: Evaluation) -> str | None:
        """See :func:`untrained_warning`."""
        assert isinstance(on_train, ClassEvaluation)
        return untrained_warning(on_train.figures["deployed"]["top1"], on_train.labels, self.sample)

    def final_figures(self, evaluation: Evaluation) -> dict[str, Any]:
        """Adds the deployed student's per-class figures as ``per_class``, and ``balanced_accuracy`` in ``deployed``."""
        assert isinstance(evaluation, ClassEvaluation)
        return with_classes(evaluation, self.data.info.class_names)

    def examples(self, evaluation: Evaluation) -> Tensor:
        """See :func:`coterie.metrics.notable.gallery_samples`."""
        kept = evaluation.predictions
        deployed = evaluation.figures["deployed"]["student"]
        shown = gallery_samples(kept["logits"].float().numpy(), kept["labels"].numpy(), deployed)
        return kept["indices"][torch.as_tensor(shown)]

    def choose_deployed(self, method: Method, validation: Evaluation | None) -> Deployment:
        """Returns the leader, or the method's own choice; otherwise the result of :func:`coterie.metrics.choose_student` on the validation split."""
        if method.leader is not None:
            return Deployment(method.leader, "it is the method's leader")
        own = method.choose([each["top1"] for each in validation.figures["students"]]) if validation else None
        if own is not None:
            return Deployment(own, "it is the method's own choice")
        if method.num_students == 1:
            return Deployment(0, "")
        if validation is None:
            return Deployment(0, "there is no validation split to choose on")
        assert isinstance(validation, ClassEvaluation)
        chosen = choose_student(validation.predicted == validation.labels)
        count = len(validation.labels)
        samples = f"{count:,} validation {self.sample}{'s' if count > 1 else ''}"
        error = f"standard error {100 * chosen.standard_error:.1f} points"
        if chosen.p_value is None:
            return Deployment(0, f"no other student is better by more than chance on {samples} ({error})")
        return Deployment(
            chosen.student,
            f"it is better than student 0 by more than chance on {samples} (p = {chosen.p_value:.2g}, {error})",
        )


def _order(indices: Tensor) -> Tensor:
    """Returns the positions of the samples in order of their index, without padding samples (index -1)."""
    order = torch.argsort(indices)
    return order[indices[order] >= 0]


def _reads_logits(method: Method) -> bool:
    """Whether the method learns from its students' logits on a validation split."""
    return method.needs_validation and type(grouped(method)).after_validation is not GroupMethod.after_validation


def with_classes(evaluation: ClassEvaluation, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the figures with the deployed student's per-class figures as ``per_class``, and ``balanced_accuracy`` in ``deployed``."""
    deployed = evaluation.figures["deployed"]
    classes = per_class_figures(evaluation.predicted[deployed["student"]], evaluation.labels, class_names)
    balanced = {**deployed, "balanced_accuracy": balanced_accuracy(each["recall"] for each in classes)}
    return {**evaluation.figures, "deployed": balanced, "per_class": classes}


def untrained_warning(top1: float, labels: Tensor, sample: str = "sample") -> str | None:
    """Returns a warning if a student's accuracy on its own training samples is not above that of always predicting the most frequent class; else None.

    The margin is two standard errors of that share. This is only a warning: after a single epoch, a sound network may be at that level.

    Args:
        top1: the student's accuracy on the training samples, 0..1.
        labels: their labels, int64 [N].
        sample: what a sample is called.
    """
    share = float(labels.bincount().max()) / len(labels)
    if top1 > share + 2 * math.sqrt(share * (1 - share) / len(labels)):
        return None
    return (
        f"the deployed student has learnt nothing yet: it gets {top1:.2%} of its own training {sample}s right, and naming the most frequent "
        f"class gets {share:.2%}. Train for longer, or try another optimizer.learning_rate (a lower one, where the loss has not fallen)"
    )
