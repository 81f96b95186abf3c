"""The state of a training in a checkpoint: how it is written and restored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3

from coterie.methods.method import Method
from coterie.run_folder import MetricsLog, RunFolder
from coterie.training.checkpoint import UNTRAINED, load_checkpoint, restoring, save_checkpoint
from coterie.training.display import Display
from coterie.training.divergence import DivergenceCheck
from coterie.training.loss_record import LossRecord
from coterie.training.optimization import RestartedSchedule, require_fitting_state
from coterie.training.sharded_checkpoint import (
    KEY,
    optimizer_settings,
    optimizer_tensors,
    read_sharded,
    restore_optimizer,
    save_sharded,
    weights_of,
)
from coterie.training.sharding import Shards
from coterie.training.stopping import BestEpoch


class Training(Protocol):
    """The attributes of a training that checkpoints need, see :class:`coterie.training.loop.Trainer`."""

    accelerator: Accelerator
    folder: RunFolder
    log: MetricsLog
    display: Display
    method: Method
    untrained: frozenset[str]
    has_written_untrained: bool
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    own_optimizers: dict[str, torch.optim.Optimizer]
    schedule: RestartedSchedule
    shards: Shards | None
    losses: LossRecord
    divergence: DivergenceCheck
    best: BestEpoch
    epoch: int
    batch: int
    step: int
    epochs: int
    batches: int
    seconds: float

    @property
    def evaluated(self) -> Method: ...

    @property
    def evaluates(self) -> bool: ...

    def evaluate(self) -> None: ...


def untrained_names(method: Method) -> frozenset[str]:
    """Returns the names in a method's state dict of weights that training never changes; modules list theirs in ``never_trained``."""
    return frozenset(
        f"{name}.{each}" if name else each
        for name, module in method.named_modules()
        for each in getattr(module, "never_trained", ())
    )


def write_state(trainer: Training, path: Path, evaluated: bool) -> None:
    """Write a checkpoint; all processes must call this.

    Args:
        trainer: the training.
        path: path of the checkpoint.
        evaluated: whether it includes the evaluation of the epoch that ended last.

    Raises:
        RunError: the checkpoint cannot be written; the previous one is kept.
    """
    trainer.losses.average_over_processes()
    if trainer.accelerator.is_main_process:
        trainer.folder.require_place()
    if trainer.shards is not None:
        trainer.shards.reshard()
        tensors = weights_of(trainer.method) | optimizer_tensors(trainer.method, trainer.optimizer)
        save_sharded(path, state_of(trainer, evaluated), tensors, trainer.accelerator)
    elif trainer.accelerator.is_main_process:
        if not trainer.has_written_untrained:
            state = trainer.method.state_dict()
            others = {name: state[name] for name in trainer.untrained}
            save_checkpoint(path.with_name(UNTRAINED), {"method": others})
            trainer.has_written_untrained = True
        save_checkpoint(path, state_of(trainer, evaluated))


def state_of(trainer: Training, evaluated: bool) -> dict[str, Any]:
    """Returns all state needed to resume a training, except weights that it never changes: those are written once, see :func:`untrained_names`.

    Sharded tensors are stored separately.

    Args:
        trainer: the training.
        evaluated: whether the state includes the evaluation of the epoch that ended last.
    """
    scaler, whole = trainer.accelerator.scaler, trainer.shards is None
    method = trainer.method.state_dict() if whole else {}
    return {
        "position": {"epoch": trainer.epoch, "batch": trainer.batch, "step": trainer.step},
        "evaluated": evaluated,
        "seconds": trainer.seconds,
        "method": {name: value for name, value in method.items() if name not in trainer.untrained},
        "without_untrained": bool(trainer.untrained),
        "ema": trainer.ema.module.state_dict() if trainer.ema is not None else None,
        "optimizer": trainer.optimizer.state_dict() if whole else optimizer_settings(trainer.optimizer),
        "own_optimizers": {name: each.state_dict() for name, each in trainer.own_optimizers.items()},
        "scaler": scaler.state_dict() if scaler is not None else None,
        "losses": trainer.losses.state_dict(),
    }


def load_state(trainer: Training, state: dict[str, Any]) -> None:
    """Load a state into a training.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: the state is damaged, or belongs to another training; see :func:`coterie.training.checkpoint.restoring`.
    """
    position = [state["position"][key] for key in ("epoch", "batch", "step")]
    for number, end in zip(position, (trainer.epochs, trainer.batches, math.inf), strict=True):
        if type(number) is not int or not 0 <= number <= end:
            raise ValueError(f"its position is {number!r}")
    trainer.epoch, trainer.batch, trainer.step = position
    trainer.seconds = float(state["seconds"])
    if trainer.shards is None:
        trainer.method.load_state_dict(state["method"])
        trainer.optimizer.load_state_dict(state["optimizer"])
    else:
        trainer.shards.reshard()
        read_sharded(trainer.folder.last, state[KEY], weights_of(trainer.method))
        restore_optimizer(trainer.folder.last, state[KEY], trainer.method, trainer.optimizer, state["optimizer"])
    if trainer.ema is not None:
        trainer.ema.module.load_state_dict(state["ema"])
    require_fitting_state(trainer.optimizer)
    for name, each in trainer.own_optimizers.items():
        each.load_state_dict(state["own_optimizers"][name])
        require_fitting_state(each)
    if trainer.accelerator.scaler is not None and state["scaler"] is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.losses.load_state_dict(state["losses"])


def restore(trainer: Training) -> None:
    """Restore the last checkpoint: weights, optimizer, position, and the metrics written up to it.

    Raises:
        CoterieError: there is no checkpoint, or it is damaged.
    """
    state = load_checkpoint(trainer.folder.last)
    with restoring(trainer.folder.last):
        load_state(trainer, state)
    # The checkpoint of an epoch is written before its evaluation, so the evaluation is repeated: same weights, same figures. If the
    # method learns from the evaluation, a second checkpoint follows it, and the evaluation is not repeated.
    evaluated = state.get("evaluated", False) is True
    done = trainer.epoch - 1 if trainer.batch == 0 and not evaluated else trainer.epoch
    if trainer.accelerator.is_main_process:
        trainer.log.cut_back(trainer.step, done)
    trainer.accelerator.wait_for_everyone()
    for row in trainer.log.rows():
        if row["split"] == "train":
            trainer.display.losses(row["losses"], trainer.method.label_factor)
            trainer.divergence.add(row["losses"], row["step"])
        else:
            trainer.best.add(row, row["epoch"])
    trainer.schedule.step_update(
        trainer.step
    )  # an extended run starts a new schedule, from the learning rate at which it ended
    if trainer.batch == 0 and trainer.epoch and not evaluated and trainer.evaluates:
        trainer.evaluate()


def load_best(trainer: Training) -> None:
    """Load the weights of the best epoch into the evaluated method."""
    if trainer.shards is not None:
        trainer.shards.reshard()
    load_weights(trainer.folder.best, trainer.evaluated)


def load_weights(path: Path, method: Method) -> None:
    """Load a checkpoint's weights into a method: their moving average if there is one.

    Args:
        path: path of the checkpoint.
        method: written in place; it may be whole or sharded, whatever it was when the checkpoint was written.

    Raises:
        CoterieError: the checkpoint is damaged, or belongs to another method.
    """
    state = load_checkpoint(path)
    with restoring(path):
        if KEY in state:
            read_sharded(path, state[KEY], weights_of(method))
        else:
            method.load_state_dict(state["ema"] if state["ema"] is not None else state["method"])
