"""What every method is: a module that turns a batch into named losses, and into predictions.

A method never sees the data set, the optimizer or the run folder.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses import LabelLoss, mean_probability, ramp_up
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


class Method(nn.Module):
    """Base of all methods: holds the students and the label loss.

    Args:
        group: the students.
        label_loss: maps logits [B, K] and targets to a 0-d loss; None: cross-entropy.
    """

    default_branches: ClassVar[int] = 4
    default_at: ClassVar[str | None] = "auto"  # None: peers, nothing shared
    max_students: ClassVar[int | None] = None
    min_batch: ClassVar[int] = 1  # samples that a batch must hold for the losses to say something
    uses_taps: ClassVar[bool] = False  # whether the group shall return the ends of its stages
    mixes_inputs: ClassVar[bool] = False  # whether it computes with its inputs, which tokens do not allow
    label_weight: float = (
        1.0  # of the loss term ``label``, the sum of all students' label losses; a method may set its own
    )
    first_stage: ClassVar[str | None] = None  # a method whose deployed student is this one's teacher, trained first
    first_stage_options: ClassVar[tuple[str, ...]] = ()  # which of this method's settings are that one's

    def __init__(self, group: StudentGroup, label_loss: nn.Module | None = None) -> None:
        super().__init__()
        if self.max_students is not None and group.num_students > self.max_students:
            raise CoterieError(
                f"{type(self).__name__} trains at most {self.max_students} student(s), got {group.num_students}"
            )
        self.group = group
        self.guide: Guide | None = None
        self.label_loss = label_loss or LabelLoss()
        # Which student is deployed: the leader, or (set after training) the one that was chosen on validation.
        self.deployed_student = group.leader or 0

    @property
    def students(self) -> StudentGroup:
        """The group whose students are predicted with and deployed: the trained one, or a moving average of it."""
        return self.group

    @property
    def needs_validation(self) -> bool:
        """Whether the method learns from predictions on a validation split, see :meth:`after_validation`."""
        return False

    @property
    def views(self) -> int:
        """How many augmented views of an image the method asks for: 1, or one for each student (or more, for its own use)."""
        return 1

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is what is minimised.

        Args:
            inputs: one batch for all students, any nested structure of tensors [B, ...], or a list with one such view for each.
            targets: class indices [B] or distributions [B, K].
            progress: where training stands; None: fully ramped up.
        """
        raise TypeError(f"{type(self).__name__} does not define its losses")

    def predict(self, inputs: Inputs) -> Predictions:
        """Every student's logits; here the ensemble is the mean probability."""
        logits = self.group(inputs).logits
        return Predictions(logits, mean_probability(logits), logits[self.deployed_student], {})

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
        if logits.shape[1] < self.min_batch:
            raise CoterieError(
                f"{type(self).__name__} compares the samples of a batch and needs at least {self.min_batch}, got {logits.shape[1]}"
            )
        label = self.label_losses(logits, targets)
        losses = {"label": label if weight == 1.0 else weight * label}
        if self.guide is not None:
            losses["teacher"] = self.guide(logits, inputs)
        return losses

    def join(self, guide: Guide) -> None:
        """Let a teacher join the group: every student learns from it besides what the method does."""
        self.guide = guide

    def _apply(self, function: Any, recurse: bool = True) -> Method:
        """Frozen teachers are no submodules, so that nothing saves, averages or trains them; they are moved along."""
        super()._apply(function, recurse)
        for teachers in self.held_teachers():
            teachers._apply(function)
        return self

    def held_teachers(self) -> list[Teachers]:
        """Every group of teachers that the method asks."""
        return [self.guide.teachers] if self.guide is not None else []

    @property
    def label_factor(self) -> float:
        """How many times the loss term ``label`` holds a student's mean loss against the labels: the number of students, times the term's weight.

        0 where the term does not say what a student's loss is. Display and the check for divergence depend on it, training does not.
        """
        return float(self.group.num_students)

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

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimizer; a method may give its own modules another learning rate or weight decay."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Further optimizers by name (adversaries, policies), stepped after the main one.

        Their parameters are left out of :meth:`parameter_groups`. One backward pass serves all, so a method separates
        their gradients itself, by what it detaches.
        """
        return {}

    def choose(self, accuracies: list[float]) -> int | None:
        """Which student is deployed by a rule of the method's own, from their validation accuracies; None: the task's rule decides."""
        return None

    def after_step(self, progress: Progress) -> None:
        """Called after every optimizer step (moving averages and the like)."""

    def after_validation(self, logits: Tensor, targets: Tensor) -> None:
        """Called after every evaluation on the validation split, where the method :attr:`needs_validation`.

        The logits of the whole split are kept for methods that define this, and for no others.

        Args:
            logits: every student's, [n, N, K], on the CPU.
            targets: class indices [N].
        """

    @staticmethod
    def ramp(progress: Progress | None, length: float) -> Tensor | float:
        """Weight of a term that ramps up over the share ``length`` of training."""
        return 1.0 if progress is None else ramp_up(progress.fraction, length)
