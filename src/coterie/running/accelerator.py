"""Sets up device, precision, processes and trackers of a run with accelerate."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from coterie.errors import CoterieError
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.running.allocation import keep_freed_memory


def several_processes() -> bool:
    """Whether a launcher has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def wait_for_all(recipe: Recipe) -> None:
    """With several processes, wait until all of them have reached this point."""
    if several_processes():
        build_accelerator(recipe).wait_for_everyone()


@contextlib.contextmanager
def process_group(recipe: Recipe) -> Iterator[None]:
    """Context with the process group that ``training.shard`` needs; without a launcher, a group of this process alone."""
    if not recipe.training.shard or several_processes() or torch.distributed.is_initialized():
        yield
        return
    on_gpu = recipe.training.device != "cpu" and torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def require_trackers(recipe: Recipe) -> None:
    """Refuse a tracker that is not installed; accelerate would silently skip it.

    Raises:
        CoterieError: a tracker cannot be imported.
    """
    for name in recipe.training.trackers:
        modules = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
        if not any(importlib.util.find_spec(module) for module in modules):
            raise CoterieError(
                f"training.trackers: {name!r} is not installed: pip install {name}, or leave it out of training.trackers"
            )


def build_accelerator(recipe: Recipe, folder: RunFolder | None = None) -> Accelerator:
    """Builds the accelerator for the recipe's device and precision.

    Raises:
        CoterieError: the device is not available, or does not support the precision.
    """
    settings = recipe.training
    device = settings.device
    if device not in {None, "cpu", "cuda", "mps"}:
        raise CoterieError(f"training.device={device!r}: expected cpu, cuda or mps")
    if device == "cuda" and not torch.cuda.is_available():
        raise CoterieError("training.device='cuda', but torch sees no CUDA device here; use training.device=cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise CoterieError("training.device='mps', but torch sees no Apple GPU here; use training.device=cpu")
    if settings.compile and settings.checkpoint_branches:
        raise CoterieError("training.checkpoint_branches and training.compile exclude each other; turn one off")
    if device != "cpu" and torch.cuda.is_available():
        # Shapes are constant over a run, so it pays to try every convolution algorithm once.
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    else:
        keep_freed_memory()
    # Accelerate's state is global; a second run in the same process may need another precision or device.
    distributed = PartialState._shared_state and PartialState().num_processes > 1
    AcceleratorState._reset_state(reset_partial_state=not distributed)
    try:
        return Accelerator(
            cpu=device == "cpu",
            mixed_precision={"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[settings.precision],
            log_with=list(settings.trackers) or None,
            project_dir=str(folder.path) if folder is not None else None,
        )
    except (ValueError, ImportError) as error:
        raise CoterieError(
            f"training.precision={settings.precision!r}, training.trackers={settings.trackers}: {error}"
        ) from None
