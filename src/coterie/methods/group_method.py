"""Base class of methods that train a group of students from logits: against labels, one another or teachers."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses import LabelLoss, mean_probability
from coterie.losses.label import chance_loss
from coterie.methods.method import Method, method_name
from coterie.methods.progress import Progress
from coterie.methods.teacher.guide import Guide
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers


class Predictions(NamedTuple):
    """A method's predictions for one batch.

    Attributes:
        logits: every student's, [n, B, K].
        ensemble: logits of the method's ensemble, [B, K].
        deployed: logits of the student that is deployed, [B, K].
        statistics: diagnostics of each sample, name -> [B] or [B, m]; evaluation reports their means.
    """

    logits: Tensor
    ensemble: Tensor
    deployed: Tensor
    statistics: dict[str, Tensor]


class GroupMethod(Method):
    """Base of methods with a group of students and a label loss.

    Args:
        group: the students.
        label_loss: maps logits [B, K] and targets to a 0-d loss; None: cross-entropy.
    """

    default_branches: ClassVar[int] = 4
    default_at: ClassVar[str | None] = "auto"
    label_weight: float = (
        1.0  # weight of the loss term ``label``, the sum of all students' label losses; a method may override it
    )

    def __init__(self, group: StudentGroup, label_loss: nn.Module | None = None) -> None:
        super().__init__()
        if self.max_students is not None and group.num_students > self.max_students:
            raise CoterieError(
                f"{method_name(type(self))} trains at most {self.max_students} student(s), got {group.num_students}"
            )
        self.group = group
        self.guide: Guide | None = None
        self.label_loss = label_loss or LabelLoss()
        # The deployed student: the leader, or (set after training) the one chosen on the validation split.
        self.deployed_student = group.leader or 0

    @property
    def num_students(self) -> int:  # type: ignore[override]
        return self.group.num_students

    @property
    def leader(self) -> int | None:  # type: ignore[override]
        return self.group.leader

    @property
    def split_point(self) -> str | None:  # type: ignore[override]
        return self.group.split_point

    @property
    def networks(self) -> nn.Module:
        return self.group

    @property
    def classifiers(self) -> list[nn.Module]:
        return list(self.group.classifiers)

    @property
    def students(self) -> StudentGroup:
        """The group that predicts and is deployed: the trained one, or a moving average of it."""
        return self.group

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        """Returns weighted loss terms by name, see :meth:`Method.forward`; targets are class indices [B] or distributions [B, K].

        By default these are the terms of :meth:`compare`. If logits would be very large, as over a vocabulary, the group may process the batch in parts.
        """
        compare = partial(self.compare, progress=progress)
        if getattr(self.label_loss, "is_mean", False):
            terms = self.group.terms_in_parts(compare, inputs, targets, self.teachers, self.own_parameters)
            if terms is not None:
                return terms
        taught = self.teachers.logits(inputs) if self.teachers is not None else None
        return compare(self.group(inputs).logits, taught, targets)

    def compare(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        """Returns weighted loss terms by name, for methods that need logits only. A method that defines this needs no :meth:`forward`.

        A term must be a mean over samples, or a sum of such means, in which each sample contributes independently of the others, so that a batch can be processed
        in parts.

        Args:
            logits: every student's, [n, B, K].
            taught: every teacher's, detached, [m, B, K]; [m, n, B, K] if each student has its own view; None without teachers.
            targets: labels of the samples.
            progress: as in :meth:`forward`.
        """
        raise TypeError(f"{method_name(type(self))} does not define its losses")

    @classmethod
    def compares_logits(cls) -> bool:
        """See :meth:`Method.compares_logits`: true if the losses are those of :meth:`compare`."""
        return cls.compare is not GroupMethod.compare and cls.forward is GroupMethod.forward

    def own_parameters(self) -> list[nn.Parameter]:
        """The method's parameters that do not belong to students."""
        modules = [module for module in self.children() if module is not self.group]
        own = [each for each in self._parameters.values() if each is not None]
        return [*own, *(each for module in modules for each in module.parameters())]

    def predict(self, inputs: Inputs) -> Predictions:
        """Returns every student's logits; by default the ensemble is the mean probability."""
        return self.predictions_of(self.group(inputs).logits)

    def predictions_of(self, logits: Tensor) -> Predictions:
        """:meth:`predict` from given logits [n, B, K], for methods that do not override ``predict``."""
        return Predictions(logits, self.ensemble_of(logits), logits[self.deployed_student], {})

    def ensemble_of(self, logits: Tensor) -> Tensor:
        """Returns the ensemble's logits [B, K] from the students' [n, B, K], independently for each sample; by default of the mean probability."""
        return mean_probability(logits)

    def supervision(self, logits: Tensor, inputs: Inputs, targets: Tensor, weight: float = 1.0) -> dict[str, Tensor]:
        """Loss terms of the labels and, if a teacher has joined the group (:meth:`join`), of the teacher.

        Args:
            logits: every student's, [n, B, K].
            inputs, targets: the batch.
            weight: weight of the label losses.

        Returns:
            ``label`` and, with a teacher, ``teacher``.

        Raises:
            CoterieError: a batch of fewer samples than :attr:`min_batch`, for which the method's other terms are meaningless.
        """
        taught = self.guide.teachers.logits(inputs) if self.guide is not None else None
        return self.supervised(logits, taught, targets, weight)

    def supervised(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, weight: float = 1.0
    ) -> dict[str, Tensor]:
        """:meth:`supervision` from given logits of the teachers, as in :meth:`compare`."""
        if logits.shape[1] < self.min_batch:
            raise CoterieError(
                f"{method_name(type(self))} compares the samples of a batch and needs at least {self.min_batch}, got {logits.shape[1]}"
            )
        label = self.label_losses(logits, targets)
        losses = {"label": label if weight == 1.0 else weight * label}
        if self.guide is not None and taught is not None:
            losses["teacher"] = self.guide(logits, taught)
        return losses

    def join(self, guide: Guide) -> None:
        """Adds a teacher to the group: every student also learns from it."""
        self.guide = guide

    @property
    def teachers(self) -> Teachers | None:
        return self.guide.teachers if self.guide is not None else None

    @property
    def label_factor(self) -> float:
        """How many times the loss term ``label`` contains a student's mean label loss: the number of students, times the term's weight.

        0 if a student's loss cannot be derived from the term. Only the display and the divergence check use it, training does not.
        """
        return float(self.group.num_students)

    @property
    def guess_loss(self) -> float:
        """The loss term ``label`` of equal logits. If :attr:`label_factor` is 0, the number of students is taken as an upper bound."""
        factor = self.label_factor or self.group.num_students
        return chance_loss(self.label_loss, self.group.num_classes) * factor

    @property
    def reads_logits_only(self) -> bool:
        """Whether the method reads nothing of its teachers but their logits of the unchanged batch."""
        return self.guide is not None and not self.mixes_inputs

    def label_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum of the label loss over students: logits [n, B, K] to 0-d."""
        return torch.stack([self.label_loss(student, targets) for student in logits]).sum()

    def student(self) -> nn.Module:
        """Returns the deployed student as a plain network: a copy without training-only parts."""
        return self.students.student(self.deployed_student)

    def after_validation(self, logits: Tensor, targets: Tensor) -> None:
        """Called after every evaluation on the validation split, if the method :attr:`needs_validation`.

        Only for methods that override this are the logits of the whole split kept.

        Args:
            logits: every student's, [n, N, K], on the CPU.
            targets: class indices [N].
        """


def grouped(method: Method) -> GroupMethod:
    """Narrows the type of a method that is known to have a group."""
    assert isinstance(method, GroupMethod), f"{method_name(type(method))} has no group of students"
    return method
