"""Methods as tasks of timm: its train script's loop, ``result = task(input, target); result["loss"].backward()``."""

from __future__ import annotations

from typing import Any

import torch
from timm.task import TrainingTask
from torch import Tensor, nn

from coterie.integrations.following import follow
from coterie.methods.group_method import GroupMethod


class Deployed(nn.Module):
    """The student that is deployed, as it is at this moment: what a validation loop calls.

    Args:
        method: whose student it is.
    """

    def __init__(self, method: GroupMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, K]."""
        return self.method.predict(inputs).deployed


class MethodTask(TrainingTask):
    """A method whose loss terms timm's loop takes the gradients of.

    Args:
        method: of students that give logits.
        options: of timm's ``TrainingTask``: device, dtype, verbose.
    """

    def __init__(self, method: GroupMethod, **options: Any) -> None:
        super().__init__(**options)
        self.trainable_module = method
        self.eval_model = Deployed(method)
        self.progress: Any = None

    def follow(self, optimizer: torch.optim.Optimizer, *, epochs: int, steps_per_epoch: int) -> None:
        """Have the method go on with the optimizer's steps; to be called once, before the first. See :func:`coterie.integrations.follow`."""
        self.progress = follow(self.trainable_module, optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """``loss``, and each term by its name."""
        losses = self.trainable_module(input, target, self.progress)
        return {
            "loss": torch.stack(tuple(losses.values())).sum(),
            **{name: loss.detach() for name, loss in losses.items()},
        }
