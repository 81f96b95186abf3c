"""Methods of groups: students whose logits are compared, with labels, with one another or with teachers."""

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
    """What a method says of one batch.

    Attributes:
        logits: every student's, [n, B, K].
        ensemble: logits of the method's own ensemble, [B, K].
        deployed: logits of the student that is deployed, [B, K].
        statistics: diagnostics of each sample, name -> [B] or [B, m]; evaluation reports their means.
    """

    logits: Tensor
    ensemble: Tensor
    deployed: Tensor
    statistics: dict[str, Tensor]


class GroupMethod(Method):
    """Base of the methods that hold a group of students and a label loss.

    Args:
        group: the students.
        label_loss: maps logits [B, K] and targets to a 0-d loss; None: cross-entropy.
    """

    default_branches: ClassVar[int] = 4
    default_at: ClassVar[str | None] = "auto"
    label_weight: float = (
        1.0  # of the loss term ``label``, the sum of all students' label losses; a method may set its own
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
        # Which student is deployed: the leader, or (set after training) the one that was chosen on validation.
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
        """The group whose students are predicted with and deployed: the trained one, or a moving average of it."""
        return self.group

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        """Weighted loss terms by name, see :meth:`Method.forward`; targets are class indices [B] or distributions [B, K].

        Here those of :meth:`compare`. Where logits would be very large, as over a vocabulary, the group may compare parts of the batch one after the other.
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
        """Weighted loss terms by name, from logits alone, for methods that read nothing else. One that defines it needs no :meth:`forward`.

        A term is a mean over samples, or a sum of such means, in which a sample's share depends on that sample alone: parts of a batch then give the whole one's.

        Args:
            logits: every student's, [n, B, K].
            taught: every teacher's, constants, [m, B, K]; [m, n, B, K] where each student has a view of its own; None without teachers.
            targets: of the samples.
            progress: as in :meth:`forward`.
        """
        raise TypeError(f"{method_name(type(self))} does not define its losses")

    @classmethod
    def compares_logits(cls) -> bool:
        """See :meth:`Method.compares_logits`: where the losses are those of :meth:`compare`."""
        return cls.compare is not GroupMethod.compare and cls.forward is GroupMethod.forward

    def own_parameters(self) -> list[nn.Parameter]:
        """Those that are not the students'."""
        modules = [module for module in self.children() if module is not self.group]
        own = [each for each in self._parameters.values() if each is not None]
        return [*own, *(each for module in modules for each in module.parameters())]

    def predict(self, inputs: Inputs) -> Predictions:
        """Every student's logits; here the ensemble is the mean probability."""
        return self.predictions_of(self.group(inputs).logits)

    def predictions_of(self, logits: Tensor) -> Predictions:
        """:meth:`predict` for logits that are there, [n, B, K]; of a method that does not define ``predict``."""
        return Predictions(logits, self.ensemble_of(logits), logits[self.deployed_student], {})

    def ensemble_of(self, logits: Tensor) -> Tensor:
        """The ensemble's logits [B, K] from the students' [n, B, K], each sample's from its own: here of the mean probability."""
        return mean_probability(logits)

    def supervision(self, logits: Tensor, inputs: Inputs, targets: Tensor, weight: float = 1.0) -> dict[str, Tensor]:
        """What the students learn from outside: the labels, and a teacher where one joins the group (:meth:`join`).

        Args:
            logits: every student's, [n, B, K].
            inputs, targets: the batch.
            weight: of the label losses.

        Returns:
            ``label`` and, with a teacher, ``teacher``.

        Raises:
            CoterieError: a batch of fewer samples than :attr:`min_batch`, with which the method's other terms would say nothing.
        """
        taught = self.guide.teachers.logits(inputs) if self.guide is not None else None
        return self.supervised(logits, taught, targets, weight)

    def supervised(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, weight: float = 1.0
    ) -> dict[str, Tensor]:
        """:meth:`supervision` where the teachers' logits are there, as in :meth:`compare`."""
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
        """Let a teacher join the group: every student learns from it besides what the method does."""
        self.guide = guide

    @property
    def teachers(self) -> Teachers | None:
        return self.guide.teachers if self.guide is not None else None

    @property
    def label_factor(self) -> float:
        """How many times the loss term ``label`` holds a student's mean loss against the labels: the number of students, times the term's weight.

        0 where the term does not say what a student's loss is. Display and the check for divergence depend on it, training does not.
        """
        return float(self.group.num_students)

    @property
    def guess_loss(self) -> float:
        """Of equal logits. Where the term does not say what a student's loss is, it holds at most as many as there are students."""
        factor = self.label_factor or self.group.num_students
        return chance_loss(self.label_loss, self.group.num_classes) * factor

    @property
    def reads_logits_only(self) -> bool:
        """Whether the logits of a batch as it came are all that the method reads of its teachers."""
        return self.guide is not None and not self.mixes_inputs

    def label_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum over students of the label loss: logits [n, B, K] to 0-d."""
        return torch.stack([self.label_loss(student, targets) for student in logits]).sum()

    def student(self) -> nn.Module:
        """The plain network that is deployed, a copy without anything that served training only."""
        return self.students.student(self.deployed_student)

    def after_validation(self, logits: Tensor, targets: Tensor) -> None:
        """Called after every evaluation on the validation split, where the method :attr:`needs_validation`.

        The logits of the whole split are kept for methods that define this, and for no others.

        Args:
            logits: every student's, [n, N, K], on the CPU.
            targets: class indices [N].
        """


def grouped(method: Method) -> GroupMethod:
    """The method, which is known to be of a group."""
    assert isinstance(method, GroupMethod), f"{method_name(type(method))} has no group of students"
    return method
