"""Base class of all methods: a module that maps a batch to named losses and returns the network to deploy.

A method never sees the data set, the optimizer or the run folder. Methods of groups of classifiers derive from :class:`coterie.methods.group_method.GroupMethod`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses import ramp_up
from coterie.methods.progress import Progress
from coterie.networks.teacher import Teachers

OURS = "coterie.methods."
Unused = Mapping[str, tuple[str, ...]]
"""Constructor arguments that have no effect while others have certain values: ``{"adversary=none": ("head", "r1")}``. A key is written as in a recipe; ``a=0 b!=x`` holds if
both parts do. A recipe that sets such an argument to another value than its default is refused, see :func:`coterie.methods.options.check_options`."""


def method_name(kind: type) -> str:
    """Returns the name of a method's class in recipes: the file's name for coterie's own methods, ``package.module:Class`` for others."""
    if named := vars(kind).get("recipe_name"):
        return str(named)
    if kind.__module__.startswith(OURS):
        return kind.__module__.rpartition(".")[2]
    return f"{kind.__module__}:{kind.__qualname__}"


class Method(nn.Module):
    """Base class of all methods: the interface that the training loop uses."""

    recipe_name: ClassVar[str | None] = None  # if it differs from the file's name, see :func:`method_name`
    default_branches: ClassVar[int] = 1
    default_at: ClassVar[str | None] = None  # None: no shared trunk
    max_students: ClassVar[int | None] = None
    min_batch: ClassVar[int] = 1  # fewest samples of a batch for which the losses are meaningful
    uses_taps: ClassVar[bool] = False  # whether students return the outputs of their stages
    needs_teacher: ClassVar[bool] = False
    takes_teachers: ClassVar[bool] = False  # whether it can use a teacher, although it needs none
    max_teachers: ClassVar[int | None] = None
    mixes_inputs: ClassVar[bool] = False  # whether it does arithmetic on its inputs, which tokens do not allow
    first_stage: ClassVar[str | None] = (
        None  # a method that is trained first; its deployed student is this method's teacher
    )
    first_stage_options: ClassVar[tuple[str, ...]] = ()  # this method's settings that belong to the first stage
    unused: ClassVar[Unused] = MappingProxyType({})  # arguments without effect, see :data:`Unused`
    deployed_student: int = 0
    num_students: int = 1
    leader: int | None = None  # the student that the method designates for deployment
    split_point: str | None = None  # where branches leave a shared trunk

    @property
    def networks(self) -> nn.Module:
        """The students' networks, without training-only parts."""
        return self

    @property
    def classifiers(self) -> list[nn.Module]:
        """The students' last layers, which ``network.freeze`` leaves trainable; empty if there are no classes."""
        return []

    @property
    def views(self) -> int:
        """Number of augmented views of a sample that the method needs: 1, or one for each student (or more, for its own use)."""
        return 1

    @property
    def needs_validation(self) -> bool:
        """Whether the method learns from an evaluation on a validation split, see the task's ``learn_from``."""
        return False

    @property
    def teachers(self) -> Teachers | None:
        """The frozen teachers. They are not submodules, so that they are not saved, averaged or trained."""
        return None

    @property
    def reads_logits_only(self) -> bool:
        """Whether the method reads nothing of its teachers but their logits of the unchanged batch."""
        return False

    @property
    def label_factor(self) -> float:
        """How many times the loss term ``label`` contains a student's mean label loss; 0: not known."""
        return 0.0

    @property
    def guess_loss(self) -> float:
        """The loss term ``label`` of uniform predictions, against which divergence of a training is judged; NaN: not known."""
        return math.nan

    @classmethod
    def compares_logits(cls) -> bool:
        """Whether the losses need logits only, independently for each sample, so that a batch can be processed in parts."""
        return False

    def forward(self, inputs: Inputs, targets: Any, progress: Progress | None = None) -> dict[str, Tensor]:
        """Returns weighted loss terms by name; their sum is minimised.

        Args:
            inputs: one batch for all students, any nested structure of tensors [B, ...], or a list with one such view for each.
            targets: as the task's loaders yield them; for classes, indices [B] or distributions [B, K].
            progress: progress of training; None: fully ramped up.
        """
        raise TypeError(f"{method_name(type(self))} does not define its losses")

    def student(self) -> nn.Module:
        """Returns the deployed student as a plain network: a copy without training-only parts."""
        raise TypeError(f"{method_name(type(self))} does not say what is deployed")

    def _apply(self, function: Any, recurse: bool = True) -> Method:
        """Also applies to the frozen teachers, so that they move with the module."""
        super()._apply(function, recurse)
        if self.teachers is not None:
            self.teachers._apply(function)
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer. A method may set another learning rate or weight decay for its own modules."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Additional optimizers by name (discriminators, policies), stepped after the main one.

        Their parameters are excluded from :meth:`parameter_groups`. All share one backward pass, so a method must separate their gradients itself by detaching.
        """
        return {}

    def choose(self, accuracies: list[float]) -> int | None:
        """Chooses the deployed student from validation accuracies by the method's own rule; None: the task's rule decides."""
        return None

    def before_epoch(self, epoch: int) -> None:
        """Called before the first step of every epoch (counted from 0), after the evaluation of the previous one."""

    def after_step(self, progress: Progress) -> None:
        """Called after every optimizer step (moving averages and the like)."""

    @staticmethod
    def ramp(progress: Progress | None, length: float) -> Tensor | float:
        """Weight of a term that ramps up over the first share ``length`` of training."""
        return 1.0 if progress is None else ramp_up(progress.fraction, length)
