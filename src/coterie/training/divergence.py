"""Whether a training has got away from the labels: in its losses while it trains, and in what it would deploy at the end.

A uniform guess is the measure: it has the label loss at equal logits, ln K nats of K classes for cross-entropy. A spike in one record,
a loss that is falling again, and a confident network that is wrong on new images are none of it.
"""

from __future__ import annotations

import math

from coterie.errors import RunError
from coterie.methods.method import Method
from coterie.tasks.evaluation import ChanceLevel

FAR = 10.0  # times the loss of a uniform guess
RECORDS, STEPS = 3, 30  # that it lies there without a new low
UNUSABLE = 20.0  # times a uniform guess's figure, on the training samples themselves
ADVICE = "Try a lower optimizer.learning_rate, training.clip_gradient, or a longer schedule.warmup_epochs."


class DivergenceCheck:
    """Watches the records of the label term; they are on the host when it sees them.

    Args:
        method: whose term ``label`` lies at ``method.guess_loss`` where nothing is known.
    """

    def __init__(self, method: Method) -> None:
        self.chance = method.guess_loss
        self.latest = math.nan  # label loss of the latest record, in multiples of a uniform guess's
        self._step = self._first_step = 0  # of the latest record, and of those far above chance since the last low
        self._low, self._records = math.inf, 0
        self._doubted = False

    @property
    def suspected(self) -> bool:
        """Whether the latest record lies far above chance."""
        return self.latest > FAR

    @property
    def is_certain(self) -> bool:
        """Whether the records have stayed there, without falling."""
        return self._records >= RECORDS and self._step - self._first_step >= STEPS

    def add(self, losses: dict[str, float], step: int) -> None:
        """The means of a record that ends at ``step``."""
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
        """A sentence, once, where an evaluation is worth nothing; it may yet come right, so that it ends nothing.

        Args:
            found: the validation split's.
            step: that was the last.
        """
        if self._doubted or found is None or not is_unusable(found):
            return None
        self._doubted = True
        return (
            f"validation {found.label} {found.value:,.4g} after {step:,} steps, a uniform guess has {found.chance:.2f}: running statistics "
            "that are not settled yet, or a learning rate that is too high"
        )

    def explain(self, kept: str) -> str:
        """What the error says; ``kept`` tells of the checkpoint."""
        return (
            f"training has diverged: since step {self._first_step} the label loss lies {FAR:g} times and more above a uniform guess's, "
            f"at step {self._step} {self.latest:.3g} times; {kept}. {ADVICE}"
        )


def is_unusable(found: ChanceLevel) -> bool:
    """Whether predictions of which this was measured are worth nothing at all."""
    return found.value > UNUSABLE * found.chance


def require_usable(found: ChanceLevel | None, latest: float, method: Method, steps: int, averaged: bool) -> None:
    """Refuse to deploy a student that knows nothing of the samples it was trained on.

    Args:
        found: of the student on the training samples, as it would be deployed (in eval mode); None: nothing tells.
        latest: the last label loss in training, in multiples of a uniform guess's; NaN: not known.
        method: that is evaluated.
        steps: that were trained.
        averaged: whether ``method`` is a moving average.

    Raises:
        RunError: training has diverged; or the losses were in order, and statistics that the network gathers while it trains are not settled.
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
    """Whether a layer normalises by running statistics once it is evaluated."""
    return any(getattr(module, "running_mean", None) is not None for module in method.modules())
