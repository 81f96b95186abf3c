"""Detects divergence: in the label loss during training, and in the student that would be deployed at the end.

The reference is a uniform guess, which has the label loss at equal logits: ln K nats for cross-entropy over K classes. A spike in one
record, a loss that is falling again, and a confident network that is wrong on new images do not count as divergence.
"""

from __future__ import annotations

import math

from coterie.errors import RunError
from coterie.methods.method import Method
from coterie.tasks.evaluation import ChanceLevel

FAR = 10.0  # times the loss of a uniform guess
RECORDS, STEPS = 3, 30  # the loss must stay above that for this long without a new low
UNUSABLE = 20.0  # times a uniform guess's figure, on the training samples
ADVICE = "Try a lower optimizer.learning_rate, training.clip_gradient, or a longer schedule.warmup_epochs."


class DivergenceCheck:
    """Watches the logged means of the loss term ``label``. They are already on the host.

    Args:
        method: its ``guess_loss`` is the value of the term ``label`` for a uniform guess.
    """

    def __init__(self, method: Method) -> None:
        self.chance = method.guess_loss
        self.latest = math.nan  # label loss of the latest record, in multiples of a uniform guess's
        self._step = self._first_step = 0  # of the latest record, and of the first far above chance
        self._low, self._records = math.inf, 0
        self._doubted = False

    @property
    def suspected(self) -> bool:
        """Whether the latest record is far above chance."""
        return self.latest > FAR

    @property
    def is_certain(self) -> bool:
        """Whether the records have stayed far above chance without falling."""
        return self._records >= RECORDS and self._step - self._first_step >= STEPS

    def add(self, losses: dict[str, float], step: int) -> None:
        """Adds the mean losses of a record that ends at ``step``."""
        if "label" not in losses or not self.chance > 0:
            return
        self._step, self.latest = step, losses["label"] / self.chance
        if not self.suspected:
            self._low, self._records = math.inf, 0
        elif self.latest < 0.9 * self._low:
            self._low, self._records, self._first_step = self.latest, 1, step
        else:
            self._records += 1

    def warning(self, found: ChanceLevel | None, step: int) -> str | None:
        """Returns a warning, once, if an evaluation is far worse than a uniform guess. It may recover, so training continues.

        Args:
            found: the figure on the validation split.
            step: the last step done.
        """
        if self._doubted or found is None or not is_unusable(found):
            return None
        self._doubted = True
        return (
            f"validation {found.label} {found.value:,.4g} after {step:,} steps, a uniform guess has {found.chance:.2f}: running statistics "
            "that are not settled yet, or a learning rate that is too high"
        )

    def explain(self, kept: str) -> str:
        """Returns the error message; ``kept`` describes the checkpoint."""
        return (
            f"training has diverged: since step {self._first_step} the label loss lies {FAR:g} times and more above a uniform guess's, "
            f"at step {self._step} {self.latest:.3g} times; {kept}. {ADVICE}"
        )


def is_unusable(found: ChanceLevel) -> bool:
    """Whether predictions with this figure are unusable."""
    return found.value > UNUSABLE * found.chance


def require_usable(found: ChanceLevel | None, latest: float, method: Method, steps: int, averaged: bool) -> None:
    """Refuse to deploy a student that is unusable on its own training samples.

    Args:
        found: the student's figure on the training samples, as it would be deployed (in eval mode); None: not measured.
        latest: the last label loss in training, in multiples of a uniform guess's; NaN: not known.
        method: the evaluated method.
        steps: number of optimizer steps trained.
        averaged: whether ``method`` is a moving average.

    Raises:
        RunError: training has diverged; or the losses are normal, but the network's running statistics have not settled.
    """
    if found is None or not is_unusable(found):
        return
    said = f"the deployed student's {found.label} on its own training samples is {found.value:,.4g}, a uniform guess has {found.chance:.2f}"
    if not latest <= FAR or not keeps_statistics(method):
        raise RunError(f"training has diverged: {said}. {ADVICE}")
    average = " and for the moving average (training.ema)" if averaged else ""
    raise RunError(
        f"{steps:,} steps are too few for the network's running statistics (BatchNorm){average}: the label loss in training is "
        f"{latest:.2g} times a uniform guess's, but {said}. "
        "Train for longer (training.epochs), take smaller batches (training.batch_size), or lower optimizer.learning_rate."
    )


def keeps_statistics(method: Method) -> bool:
    """Whether a layer normalises by running statistics in eval mode."""
    return any(getattr(module, "running_mean", None) is not None for module in method.modules())
