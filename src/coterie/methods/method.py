"""What every method is: a module that turns a batch into named losses, and hands back a network.

A method never sees the data set, the optimizer or the run folder. Methods of groups of classifiers derive from :class:`coterie.methods.group_method.GroupMethod`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses import ramp_up
from coterie.methods.progress import Progress
from coterie.networks.teacher import Teachers

OURS = "coterie.methods."


def method_name(kind: type) -> str:
    """How a recipe names a method's class: one of coterie's by the file that it stands in, another one by ``package.module:Class``."""
    if named := vars(kind).get("recipe_name"):
        return str(named)
    if kind.__module__.startswith(OURS):
        return kind.__module__.rpartition(".")[2]
    return f"{kind.__module__}:{kind.__qualname__}"


class Method(nn.Module):
    """The root of all methods: what a training asks of one."""

    recipe_name: ClassVar[str | None] = None  # where it is not the name of the file, see :func:`method_name`
    default_branches: ClassVar[int] = 1
    default_at: ClassVar[str | None] = None  # None: nothing shared
    max_students: ClassVar[int | None] = None
    min_batch: ClassVar[int] = 1  # samples that a batch must hold for the losses to say something
    uses_taps: ClassVar[bool] = False  # whether the students shall return the ends of their stages
    needs_teacher: ClassVar[bool] = False
    takes_teachers: ClassVar[bool] = False  # whether one that is there serves it, although it needs none
    max_teachers: ClassVar[int | None] = None
    mixes_inputs: ClassVar[bool] = False  # whether it computes with its inputs, which tokens do not allow
    first_stage: ClassVar[str | None] = None  # a method whose deployed student is this one's teacher, trained first
    first_stage_options: ClassVar[tuple[str, ...]] = ()  # which of this method's settings are that one's
    deployed_student: int = 0
    num_students: int = 1
    leader: int | None = None  # a student that the method singles out for deployment
    split_point: str | None = None  # of students that share a trunk

    @property
    def networks(self) -> nn.Module:
        """What students are made of, without what serves training only."""
        return self

    @property
    def classifiers(self) -> list[nn.Module]:
        """The students' last layers, which ``network.freeze`` leaves trainable; none where there are no classes."""
        return []

    @property
    def views(self) -> int:
        """How many augmented views of a sample the method asks for: 1, or one for each student (or more, for its own use)."""
        return 1

    @property
    def needs_validation(self) -> bool:
        """Whether the method learns from an evaluation of a validation split, see its task's ``learn_from``."""
        return False

    @property
    def teachers(self) -> Teachers | None:
        """The frozen networks that are asked; no submodules, so that nothing saves, averages or trains them."""
        return None

    @property
    def reads_logits_only(self) -> bool:
        """Whether the logits of a batch as it came are all that the method reads of its teachers."""
        return False

    @property
    def label_factor(self) -> float:
        """How many times the loss term ``label`` holds a student's mean loss against the labels; 0: the term does not say."""
        return 0.0

    @property
    def guess_loss(self) -> float:
        """The loss term ``label`` of predictions that know nothing, beside which a training would have diverged; NaN: not known."""
        return math.nan

    @classmethod
    def compares_logits(cls) -> bool:
        """Whether the losses read nothing but logits, sample by sample, so that a batch may be compared in parts."""
        return False

    def forward(self, inputs: Inputs, targets: Any, progress: Progress | None = None) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is what is minimised.

        Args:
            inputs: one batch for all students, any nested structure of tensors [B, ...], or a list with one such view for each.
            targets: as the task's loaders give them; of classes, indices [B] or distributions [B, K].
            progress: where training stands; None: fully ramped up.
        """
        raise TypeError(f"{method_name(type(self))} does not define its losses")

    def student(self) -> nn.Module:
        """The plain network that is deployed, a copy without anything that served training only."""
        raise TypeError(f"{method_name(type(self))} does not say what is deployed")

    def _apply(self, function: Any, recurse: bool = True) -> Method:
        """Frozen teachers are moved along."""
        super()._apply(function, recurse)
        if self.teachers is not None:
            self.teachers._apply(function)
        return self

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

    def before_epoch(self, epoch: int) -> None:
        """Called before the first step of every epoch, counted from 0: after the evaluation of the one before."""

    def after_step(self, progress: Progress) -> None:
        """Called after every optimizer step (moving averages and the like)."""

    @staticmethod
    def ramp(progress: Progress | None, length: float) -> Tensor | float:
        """Weight of a term that ramps up over the share ``length`` of training."""
        return 1.0 if progress is None else ramp_up(progress.fraction, length)
