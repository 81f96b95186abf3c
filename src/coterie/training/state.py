"""What of a training a checkpoint holds, and how it comes back from there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from coterie.training.optimization import require_fitting_state

if TYPE_CHECKING:
    from coterie.training.loop import Trainer


def state_of(trainer: Trainer, evaluated: bool) -> dict[str, Any]:
    """Everything that decides how a training goes on.

    Args:
        trainer: the training.
        evaluated: whether the evaluation of the epoch that ended last is part of it.
    """
    scaler = trainer.accelerator.scaler
    return {
        "position": {"epoch": trainer.epoch, "batch": trainer.batch, "step": trainer.step},
        "evaluated": evaluated,
        "seconds": trainer.seconds,
        "method": trainer.method.state_dict(),
        "ema": trainer.ema.module.state_dict() if trainer.ema is not None else None,
        "optimizer": trainer.optimizer.state_dict(),
        "own_optimizers": {name: each.state_dict() for name, each in trainer.own_optimizers.items()},
        "scaler": scaler.state_dict() if scaler is not None else None,
        "losses": trainer.losses.state_dict(),
    }


def put_back(trainer: Trainer, state: dict[str, Any]) -> None:
    """Bring a training to where it was when its state was taken.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: the state is damaged, or of another training; see :func:`coterie.training.checkpoint.restoring`.
    """
    position = [state["position"][key] for key in ("epoch", "batch", "step")]
    for number, end in zip(position, (trainer.recipe.training.epochs, trainer.batches, math.inf), strict=True):
        if type(number) is not int or not 0 <= number <= end:
            raise ValueError(f"its position is {number!r}")
    trainer.epoch, trainer.batch, trainer.step = position
    trainer.seconds = float(state["seconds"])
    trainer.method.load_state_dict(state["method"])
    if trainer.ema is not None:
        trainer.ema.module.load_state_dict(state["ema"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    require_fitting_state(trainer.optimizer)
    for name, each in trainer.own_optimizers.items():
        each.load_state_dict(state["own_optimizers"][name])
        require_fitting_state(each)
    if trainer.accelerator.scaler is not None and state["scaler"] is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.losses.load_state_dict(state["losses"])
