"""Where training stands, as tensors that are updated in place."""

from __future__ import annotations

import torch
from torch import Tensor


class Progress:
    """Epoch and step as 0-d tensors on one device.

    Numbers would recompile a compiled step every epoch, so numbers are accepted and tensors are kept.

    Args:
        epoch: epochs that are done, from 0.
        epochs: of the whole training.
        step: optimizer steps that are done.
        steps: of the whole training.
    """

    def __init__(
        self, epoch: float = 0, epochs: float = 1, step: int = 0, steps: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        def scalar(value: float) -> Tensor:
            return torch.tensor(float(value), device=device)

        self.epoch, self.epochs, self.step, self.steps = scalar(epoch), scalar(epochs), scalar(step), scalar(steps)
        # For what happens between steps, on the host; a compiled step that read them would be compiled again and again.
        self.epoch_number, self.step_number = epoch, step
        self.steps_per_epoch = max(1, round(steps / epochs))

    def plan(self, epochs: int) -> None:
        """Count over so many epochs from now on, in place."""
        self.epochs.fill_(epochs)
        self.steps.fill_(epochs * self.steps_per_epoch)

    def update(self, epoch: int, step: int) -> None:
        """Move on, in place and without a host synchronisation."""
        self.epoch.fill_(epoch)
        self.step.fill_(step)
        self.epoch_number, self.step_number = epoch, step

    @property
    def fraction(self) -> Tensor:
        """Share of the epochs that is done, 0-d in [0, 1]: it moves once an epoch, as the family's ramp-ups do."""
        return self.epoch / self.epochs
