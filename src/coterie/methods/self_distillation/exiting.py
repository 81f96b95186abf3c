"""Bases of self-distillation methods: one student with taps at its stages, and one with exits after them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.methods.group_method import GroupMethod, Predictions
from coterie.methods.method import method_name
from coterie.networks.exits import build_exit
from coterie.networks.group import GroupOutput, StudentGroup


class StagedMethod(GroupMethod):
    """Base of methods whose student learns from its own stages.

    Args:
        group: one student with taps at its stages.
        label_loss: as in :class:`GroupMethod`.

    Raises:
        CoterieError: a student without taps.
    """

    default_branches: ClassVar[int] = 1
    default_at: ClassVar[str | None] = None
    max_students: ClassVar[int | None] = 1
    uses_taps: ClassVar[bool] = True

    def __init__(self, group: StudentGroup, label_loss: nn.Module | None = None) -> None:
        super().__init__(group, label_loss)
        if len(group.tap_shapes[0]) < 2:
            raise CoterieError(
                f"{method_name(type(self))} reads the student's stages: make the group by branch(network, 1, None, taps='stages')"
            )


class ExitingMethod(StagedMethod):
    """Base of methods with exits after the shallow stages, which are removed after training. Arguments as in :class:`StagedMethod`."""

    def __init__(self, group: StudentGroup, label_loss: nn.Module | None = None) -> None:
        super().__init__(group, label_loss)
        shapes = group.tap_shapes[0]
        width = group.embedding_dims[0]
        self.exits = nn.ModuleList(
            build_exit(shape, len(shapes) - 1 - number, group.num_classes, width, width)
            for number, shape in enumerate(shapes[:-1])
        )

    def exit_outputs(self, output: GroupOutput) -> tuple[Tensor, Tensor]:
        """Logits [e, B, K] and features [e, B, d] of the e exits, from the input to the output."""
        each = [branch(tap) for branch, tap in zip(self.exits, output.taps[0][:-1], strict=True)]
        return torch.stack([logits for logits, _ in each]), torch.stack([features for _, features in each])

    def predict(self, inputs: Inputs) -> Predictions:
        """Returns the student's logits; the ensemble is the mean of the exits' and the student's logits."""
        output = self.group(inputs)
        logits, _ = self.exit_outputs(output)
        together = torch.cat([logits, output.logits]).float().mean(0)
        return Predictions(output.logits, together, output.logits[0], {})
