"""Runs the hooks that a method needs from a training loop, attached to the loop's optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model

from coterie.errors import CoterieError
from coterie.files import write_atomically
from coterie.methods.method import Method, method_name
from coterie.methods.progress import Progress


def follow(method: Method, optimizer: torch.optim.Optimizer, *, epochs: int, steps_per_epoch: int) -> Progress:
    """Attach a method to another training loop; pass the returned progress to the method at each batch.

    After each step of the optimizer, the method's additional optimizers step (adversaries, policies: their gradients come from the same backward pass), its
    moving averages are updated, and the progress advances, as in :func:`coterie.train`.

    Args:
        method: the method, on its device.
        optimizer: the optimizer of ``method.parameter_groups()``.
        epochs: number of epochs of the whole training.
        steps_per_epoch: number of optimizer steps in an epoch.

    Raises:
        CoterieError: the method learns from a validation split, which other loops do not provide; or a number is not positive.
    """
    if method.needs_validation:
        raise CoterieError(
            f"{method_name(type(method))} learns from the validation split during training, which only coterie.train gives it"
        )
    if epochs < 1 or steps_per_epoch < 1:
        raise CoterieError(f"epochs={epochs}, steps_per_epoch={steps_per_epoch}: expected numbers of at least 1")
    device = next(method.parameters()).device
    progress = Progress(0, epochs, 0, epochs * steps_per_epoch, device)
    own = method.build_optimizers()
    for each in own.values():
        each.zero_grad(set_to_none=True)

    def stepped(*_: Any) -> None:
        for each in own.values():
            each.step()
            each.zero_grad(set_to_none=True)
        method.after_step(progress)
        step = progress.step_number + 1
        if step % steps_per_epoch == 0:
            method.before_epoch(step // steps_per_epoch)
        progress.update(step // steps_per_epoch, step)

    optimizer.register_step_post_hook(stepped)
    method.before_epoch(0)
    return progress


def save_student(method: Method, path: str | Path) -> None:
    """Write the deployed student's weights as safetensors, with the keys of the plain network.

    Raises:
        RunError: the file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda place: save_model(method.student().cpu(), str(place)))
