"""Builds timm's optimizers and learning-rate schedules, which include the papers' SGD and milestones."""

from __future__ import annotations

import logging
from typing import Any

import timm.optim
import timm.scheduler
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from coterie.errors import CoterieError, did_you_mean
from coterie.methods.method import Method
from coterie.recipe import Recipe
from coterie.recipe.sections import OptimizerRecipe, ScheduleRecipe, resolved

# Entries of an optimizer's state that are shaped like their parameter. Second moments are not always: NovoGrad has one number per tensor.
AVERAGES = {"momentum_buffer", "exp_avg"}
FUSED = {"sgd", "momentum", "adam", "adamw"}  # optimizers of torch, under timm's names
FUSED_IN_PARTS = {"adam", "adamw"}  # those that can be fused over sharded parameters


def build_optimizer(recipe: OptimizerRecipe, method: Method, fuses: bool = True) -> torch.optim.Optimizer:
    """Build timm's optimizer of that name over the method's parameter groups; fused, if torch has a fused version of it.

    A fused step is one call for all parameters instead of several for each: the same update, with other rounding in the last bits. Torch's fused
    optimizers do not support parameters that get their first gradient later than others (``fuses=False``).

    Raises:
        CoterieError: the name is unknown, the optimizer does not take an option or cannot work here (a package or a device is
            missing, or it needs second derivatives), or no parameter of the students is trainable.
    """
    if not any(parameter.requires_grad for parameter in method.networks.parameters()):
        raise CoterieError(
            "every parameter of the students is frozen (requires_grad=False): there is nothing to train; "
            "leave at least the classifier trainable"
        )
    known = [str(name) for name in timm.optim.list_optimizers()]
    if recipe.name not in known:
        raise CoterieError(
            f"unknown optimizer {recipe.name!r}{did_you_mean(recipe.name, known)}; expected a name of timm.optim"
        )
    groups = method.parameter_groups()
    if resolved(recipe.exclude_norm_and_bias):
        groups = [part for group in groups for part in _split_decay(group)]
    devices = {parameter.device.type for parameter in method.parameters()}
    shared = any(isinstance(parameter, DTensor) for parameter in method.parameters())
    can = FUSED_IN_PARTS if shared else FUSED
    fused = {"fused": True} if fuses and recipe.name in can and devices <= {"cpu", "cuda"} else {}
    try:
        optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
            groups,
            opt=recipe.name,
            lr=resolved(recipe.learning_rate),
            weight_decay=resolved(recipe.weight_decay),
            momentum=recipe.momentum,
            **{**fused, **recipe.options},
        )
    except (TypeError, ValueError, AssertionError, ImportError, RuntimeError) as error:
        # An optimizer reports a missing package or device by an assertion or an import error.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CoterieError(f"optimizer.name={recipe.name!r} cannot be built: {reason}") from None
    if getattr(optimizer, "is_second_order", False):  # timm's word for it
        raise CoterieError(
            f"optimizer.name={recipe.name!r} needs second derivatives, which a training step here does not compute; "
            "expected one that needs gradients only, such as adamw"
        )
    return optimizer


def build_own_optimizers(recipe: Recipe, method: Method) -> dict[str, torch.optim.Optimizer]:
    """Builds the method's additional optimizers, by name.

    Raises:
        CoterieError: the method has some, and the precision is fp16, whose loss scale serves one optimizer only.
    """
    own = method.build_optimizers()
    if own and recipe.training.precision == "fp16":
        raise CoterieError(
            f"training.precision='fp16': {recipe.method.name} has optimizers of its own, which one loss scale does not serve; "
            "use bf16 or fp32"
        )
    return own


def _split_decay(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Splits a group into its matrices, and its vectors and scalars without weight decay."""
    matrices = [p for p in group["params"] if p.ndim > 1]
    vectors = [p for p in group["params"] if p.ndim <= 1]
    return [
        part
        for part in ({**group, "params": matrices}, {**group, "params": vectors, "weight_decay": 0.0})
        if part["params"]
    ]


def build_schedule(
    recipe: ScheduleRecipe, optimizer: torch.optim.Optimizer, epochs: int, steps_per_epoch: int
) -> timm.scheduler.scheduler.Scheduler:
    """Build timm's schedule; call ``schedule.step_update(step)`` at every optimizer step."""
    shared: dict[str, Any] = {
        "warmup_t": round(resolved(recipe.warmup_epochs) * steps_per_epoch),
        "warmup_lr_init": recipe.warmup_learning_rate,
        "t_in_epochs": False,
    }
    total = epochs * steps_per_epoch
    if recipe.name in {"constant", "multistep"}:
        # timm's scheduler lowers the rate one update before a milestone, hence the 1.
        milestones = [round(at * total) + 1 for at in recipe.milestones] if recipe.name == "multistep" else []
        return timm.scheduler.MultiStepLRScheduler(
            optimizer, decay_t=milestones, decay_rate=recipe.decay_rate, **shared
        )
    if recipe.name == "step":
        return timm.scheduler.StepLRScheduler(
            optimizer, decay_t=recipe.decay_epochs * steps_per_epoch, decay_rate=recipe.decay_rate, **shared
        )
    shared |= {
        "lr_min": recipe.minimum_learning_rate,
        "warmup_prefix": True,
        "t_initial": max(1, total - shared["warmup_t"]),
    }
    kind = {
        "cosine": timm.scheduler.CosineLRScheduler,
        "poly": timm.scheduler.PolyLRScheduler,
        "tanh": timm.scheduler.TanhLRScheduler,
    }[recipe.name]
    # Silences timm's warning that a cosine of one step has no effect: that is right for a training of one step.
    logging.getLogger("timm.scheduler.cosine_lr").setLevel(logging.ERROR)
    return kind(optimizer, **shared)


class RestartedSchedule:
    """The learning-rate schedule, started anew at each of the recipe's restarts.

    Args:
        recipe: the schedule's settings.
        optimizer: its groups hold their peak learning rates.
        epochs: number of epochs of the whole training.
        steps_per_epoch: number of optimizer steps in an epoch.
    """

    def __init__(
        self, recipe: ScheduleRecipe, optimizer: torch.optim.Optimizer, epochs: int, steps_per_epoch: int
    ) -> None:
        largest = [group["lr"] for group in optimizer.param_groups]
        self._stretches = []
        for start, end in reversed(
            recipe.stretches(epochs)
        ):  # the first one last: it leaves the rate of the first step
            for group, rate in zip(optimizer.param_groups, largest, strict=True):
                group["lr"] = rate
                group.pop("initial_lr", None)  # timm's
            schedule = build_schedule(recipe, optimizer, end - start, steps_per_epoch)
            self._stretches.append((start * steps_per_epoch, schedule))

    def step_update(self, step: int) -> None:
        """Set the learning rate of the step that follows ``step`` steps."""
        start, schedule = next(each for each in self._stretches if each[0] <= step)
        schedule.step_update(step - start)


def require_fitting_state(optimizer: torch.optim.Optimizer) -> None:
    """Check that restored moving averages have the shape of their parameter; torch would fail only at the next step.

    Raises:
        ValueError: a moving average has another shape.
    """
    for parameter, state in optimizer.state.items():
        for name in AVERAGES & state.keys():
            value = state[name]
            if value is not None and (not isinstance(value, Tensor) or value.shape != parameter.shape):
                found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"the optimizer's {name} is {found} for a parameter {list(parameter.shape)}")
