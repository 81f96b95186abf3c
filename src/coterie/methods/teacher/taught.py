"""Bases of methods in which frozen teachers teach one student."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses.precision import einsum
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import method_name
from coterie.methods.teacher.guide import Combination, combined_logits
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import TeacherOutput, Teachers


class TaughtMethod(GroupMethod):
    """Base of methods with one student and teachers. The teachers run first, in eval mode and without gradients.

    Args:
        group: one student; with taps at its stages if ``uses_taps``.
        teachers: one or several, with the student's classes.
        label_loss: as in :class:`GroupMethod`.

    Raises:
        CoterieError: no teacher, one with other classes or without the needed features, several if only one is supported, or a student without taps.
    """

    default_branches: ClassVar[int] = 1
    default_at: ClassVar[str | None] = None
    max_students: ClassVar[int | None] = 1
    needs_teacher: ClassVar[bool] = True
    reads_teacher_features: ClassVar[bool] = True  # whether more of a teacher is read than its logits
    uses_taps: ClassVar[bool] = False
    label_weight: float = 1.0  # weight of the term ``label``

    def __init__(self, group: StudentGroup, teachers: Teachers | None, label_loss: nn.Module | None = None) -> None:
        super().__init__(group, label_loss)
        name = method_name(type(self))
        if teachers is None:
            raise CoterieError(teacher_wanted(name))
        if teachers.num_classes != group.num_classes:
            raise CoterieError(f"the teacher has {teachers.num_classes} classes, the student has {group.num_classes}")
        if self.max_teachers is not None and len(teachers) > self.max_teachers:
            raise CoterieError(
                f"{name} compares features with those of {self.max_teachers} teacher, got {len(teachers)}"
            )
        for teacher in teachers.each():
            if self.reads_teacher_features and teacher.hides:
                raise CoterieError(
                    f"{name} compares features, and of the teacher {teacher.name!r} only logits are known: {teacher.hides}"
                )
        if self.uses_taps and not group.tap_names[0]:
            raise CoterieError(
                f"{name} reads the student's stages: make the group by branch(network, 1, None, taps='stages')"
            )
        # In a tuple, so that they are not submodules: not trained, averaged or saved.
        self._teachers = (teachers,)

    @property
    def label_factor(self) -> float:
        return self.label_weight

    @property
    def teachers(self) -> Teachers:
        return self._teachers[0]

    @property
    def reads_logits_only(self) -> bool:
        return not self.reads_teacher_features and not self.mixes_inputs

    def teacher_outputs(self, inputs: Inputs) -> tuple[TeacherOutput, ...]:
        """Every teacher's output for the student's one view."""
        return self.teachers(single_view(inputs))


class LogitTaughtMethod(TaughtMethod):
    """Base of methods that learn from the teachers' combined logits.

    Args:
        combination: how several teachers' logits are combined: ``mean_probability``, ``mean_logit``, or ``learned``: one weight for each teacher, trained by
            the label loss of the combined logits (independently of the students).
    """

    reads_teacher_features: ClassVar[bool] = False

    def __init__(
        self,
        group: StudentGroup,
        teachers: Teachers | None,
        combination: str = "mean_probability",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, label_loss)
        self.combination = combination
        self.teacher_scores = nn.Parameter(torch.zeros(len(self.teachers))) if combination == "learned" else None

    def target(self, inputs: Inputs, targets: Tensor, losses: dict[str, Tensor]) -> Tensor:
        """Returns the teachers' combined logits, detached, float32 [B, K]; with ``learned``, adds the loss term that trains the weights."""
        return self.combined(self.teachers.logits(inputs), targets, losses)

    def combined(self, logits: Tensor | None, targets: Tensor, losses: dict[str, Tensor]) -> Tensor:
        """:meth:`target` from given logits of the teachers [m, B, K], as in :meth:`compare`."""
        assert logits is not None, "a taught method has teachers"
        if self.teacher_scores is None:
            rule: Combination = "mean_logit" if self.combination == "mean_logit" else "mean_probability"
            return combined_logits(logits, rule)
        mixed = einsum("m,mbk->bk", torch.softmax(self.teacher_scores.float(), 0), logits)
        losses["teacher_weights"] = self.label_loss(mixed, targets)
        return mixed.detach()


def teacher_wanted(method: str) -> str:
    """Error message for a method without a teacher."""
    return f"{method} needs a teacher: set teacher.run=FOLDER, a finished run, or teacher.network (`coterie list settings teacher`)"


def single_view(inputs: Inputs) -> Inputs:
    """Returns the batch of a single student."""
    return inputs[0] if isinstance(inputs, list) else inputs


def require_classes(targets: Tensor, method: str) -> None:
    """Rejects mixed labels.

    Raises:
        CoterieError: distributions where classes are needed.
    """
    if targets.ndim > 1:
        raise CoterieError(f"{method} needs the true class, and mixup or cutmix mixes classes; turn them off")
