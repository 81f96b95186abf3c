"""Chooses the memory format of a run, and keeps certain convolutions contiguous on a CPU.

The choice depends on the networks, not on timings: two runs of one recipe choose the same format.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coterie.methods.method import Method
from coterie.recipe import Recipe
from coterie.tasks.task import Task
from coterie.training.small_maps import speed_up_small_maps

LANES = 16  # float32 numbers in a register of AVX-512, and oneDNN's block of channels


def resolve_memory_format(recipe: Recipe, task: Task, method: Method, device: torch.device) -> Recipe:
    """Returns the recipe with ``training.channels_last`` resolved, and sets that format for the task's batches.

    Args:
        recipe: a run's recipe; ``auto`` is replaced by the result of :func:`suits_channels_last`.
        task: the task, set up; its loaders are set to the format.
        method: the task's method, not yet trained.
        device: where it will be trained.
    """
    chosen = recipe.training.channels_last
    if chosen == "auto":
        size = getattr(task.data.info, "input_size", None)
        chosen = suits_channels_last(method.networks, size, device)
    task.data.use_channels_last(chosen)
    return with_channels_last(recipe, chosen)


def with_channels_last(recipe: Recipe, value: bool | str) -> Recipe:
    """Returns the recipe with another ``training.channels_last``."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"channels_last": value})})


def suits_channels_last(network: nn.Module, input_size: tuple[int, ...] | None, device: torch.device) -> bool:
    """Whether training is at least as fast in channels-last as in contiguous format.

    On CUDA it is. On a CPU it is for convolutional networks (with the gradients of :mod:`coterie.training.small_maps`). Networks whose
    only convolutions cut an image into patches are equally fast in both formats, and stay contiguous.

    Args:
        network: of any kind.
        input_size: channels, height and width of an image; None if samples are not images.
        device: the training device.
    """
    if device.type == "cuda":
        return True
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    return device.type == "cpu" and input_size is not None and not all(_cuts_patches(each) for each in convolutions)


def _cuts_patches(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == convolution.stride and convolution.stride != (1, 1)


def move_to_device(method: Method, device: torch.device, channels_last: bool) -> Method:
    """Move a method, in place, to the device and memory format of training and evaluation; the format affects the last bits of results."""
    method.to(device)
    if channels_last:
        method.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        avoid_overflow(method)
        speed_up_small_maps(method)
    return method


def overflows(module: nn.Module) -> bool:
    """Whether the weight gradient of this convolution writes out of bounds in channels-last format on a CPU.

    This is a bug of oneDNN's strided 1x1 kernel with fewer input channels than a block (https://github.com/uxlfoundation/oneDNN/issues/6035):
    the process dies, hangs, or continues with wrong numbers. With one channel both formats are the same. Which sizes are affected
    depends on the number of threads and the batch, so all such convolutions are avoided, whatever the size.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and 1 < module.in_channels < LANES
    )


def avoid_overflow(method: nn.Module) -> None:
    """Make convolutions for which :func:`overflows` is true compute in contiguous format, whatever their input; for CPUs.

    A network may produce channels-last activations by itself (ConvNeXt permutes), so this is needed in either format.
    """
    for module in method.modules():
        if overflows(module) and isinstance(module, nn.Conv2d):
            weight = module.weight
            # .contiguous() would not change 1x1 kernels, but torch infers the format from their strides.
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)
            if _to_contiguous not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_to_contiguous)


def _to_contiguous(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].contiguous(), *inputs[1:])


def compiler_options(method: nn.Module) -> dict[str, Any] | None:
    """Returns options for torch.compile, which must not convert to channels last what :func:`avoid_overflow` keeps contiguous."""
    guarded = any(_to_contiguous in module._forward_pre_hooks.values() for module in method.modules())
    return {"layout_optimization": False} if guarded else None
