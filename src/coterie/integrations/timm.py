"""Methods as timm tasks, for the loop of its train script: ``result = task(input, target); result["loss"].backward()``."""

from __future__ import annotations

from typing import Any

import torch
from timm.task import TrainingTask
from torch import Tensor, nn

from coterie.integrations.following import follow
from coterie.methods.group_method import GroupMethod


class Deployed(nn.Module):
    """The student that would be deployed, with its current weights, as a module for validation loops.

    Args:
        method: the method whose student it is.
    """

    def __init__(self, method: GroupMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps images [B, C, H, W] to logits [B, K]."""
        return self.method.predict(inputs).deployed


class MethodTask(TrainingTask):
    """A timm task that trains a method.

    Args:
        method: a method whose students return logits.
        options: options of timm's ``TrainingTask``: device, dtype, verbose.
    """

    def __init__(self, method: GroupMethod, **options: Any) -> None:
        super().__init__(**options)
        self.trainable_module = method
        self.eval_model = Deployed(method)
        self.progress: Any = None

    def follow(self, optimizer: torch.optim.Optimizer, *, epochs: int, steps_per_epoch: int) -> None:
        """Attach the method to the optimizer's steps; call this once, before the first step. See :func:`coterie.integrations.follow`."""
        self.progress = follow(self.trainable_module, optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns ``loss``, and each term by its name."""
        losses = self.trainable_module(input, target, self.progress)
        return {
            "loss": torch.stack(tuple(losses.values())).sum(),
            **{name: loss.detach() for name, loss in losses.items()},
        }
