"""What a method needs of a loop besides its losses' gradients, hung onto the loop's optimizer."""

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
    """Have a method follow somebody else's training: pass what this returns to the method at each batch.

    After each step of the optimizer the method's further optimizers step (adversaries, policies: their gradients are of the same backward pass), its
    moving averages move, and the progress goes on, as in :func:`coterie.train`.

    Args:
        method: that is trained, on its device.
        optimizer: of ``method.parameter_groups()``.
        epochs: of the whole training.
        steps_per_epoch: optimizer steps of one; after so many the next epoch begins.

    Raises:
        CoterieError: the method learns from a validation split, which another loop does not give it; numbers that are not positive.
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
    """Write the weights of the student that is deployed, with the plain network's keys, as safetensors.

    Raises:
        RunError: the file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda place: save_model(method.student().cpu(), str(place)))
