"""Progress of training, as tensors that are updated in place."""

from __future__ import annotations

import torch
from torch import Tensor


class Progress:
    """Epoch and step of a training, as 0-d tensors on one device.

    Accepts numbers and stores tensors: numbers would recompile a compiled step every epoch.

    Args:
        epoch: completed epochs, from 0.
        epochs: of the whole training.
        step: completed optimizer steps.
        steps: of the whole training.
    """

    def __init__(
        self, epoch: float = 0, epochs: float = 1, step: int = 0, steps: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        def scalar(value: float) -> Tensor:
            return torch.tensor(float(value), device=device)

        self.epoch, self.epochs, self.step, self.steps = scalar(epoch), scalar(epochs), scalar(step), scalar(steps)
        # For code between steps, on the host. A compiled step that read them would be recompiled every time.
        self.epoch_number, self.step_number = epoch, step
        self.steps_per_epoch = max(1, round(steps / epochs))

    def plan(self, epochs: int) -> None:
        """Sets the total number of epochs, in place."""
        self.epochs.fill_(epochs)
        self.steps.fill_(epochs * self.steps_per_epoch)

    def update(self, epoch: int, step: int) -> None:
        """Sets the epoch and step, in place and without a host synchronisation."""
        self.epoch.fill_(epoch)
        self.step.fill_(step)
        self.epoch_number, self.step_number = epoch, step

    @property
    def fraction(self) -> Tensor:
        """Completed share of the epochs, 0-d in [0, 1]. It changes once an epoch, as in the ramp-ups of the published code."""
        return self.epoch / self.epochs
