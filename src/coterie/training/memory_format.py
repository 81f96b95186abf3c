"""Chooses the memory format of a run, and keeps certain convolutions contiguous on a CPU.

The choice depends on the networks, the image size and the batch size, not on timings: two runs of one recipe choose the same format.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coterie.methods.method import Method
from coterie.recipe import Recipe
from coterie.recipe.sections import resolved
from coterie.tasks.task import Task

LANES = 16  # float32 numbers in a register of AVX-512, and oneDNN's block of channels
WIDE = 4  # depthwise convolutions with a larger kernel side have no specialised backward kernel in oneDNN
# The cost of oneDNN's general kernel for the weight gradient of a wide depthwise convolution in channels-last format: it pads each group
# to 16x16 channels, and clears and sums that buffer. This cost is independent of the batch size. Contiguous tensors use a matrix product,
# which costs the same at this many output positions (batch times height times width; benchmarks/speed/memory_format.py).
BREAK_EVEN = 140


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
        chosen = suits_channels_last(method.networks, size, resolved(recipe.training.batch_size), device)
    task.data.use_channels_last(chosen)
    return with_channels_last(recipe, chosen)


def with_channels_last(recipe: Recipe, value: bool | str) -> Recipe:
    """Returns the recipe with another ``training.channels_last``."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"channels_last": value})})


def suits_channels_last(
    network: nn.Module, input_size: tuple[int, ...] | None, batch_size: int, device: torch.device
) -> bool:
    """Whether training is at least as fast in channels-last as in contiguous format.

    On CUDA it is. On a CPU it is for convolutional networks, except those whose wide depthwise convolutions have few output positions.
    Networks whose only convolutions cut an image into patches are equally fast in both formats, and stay contiguous.

    Args:
        network: run once on two blank images, in eval mode.
        input_size: channels, height and width of an image; None if samples are not images.
        batch_size: number of images in a step.
        device: the training device.
    """
    if device.type == "cuda":
        return True
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    if device.type != "cpu" or input_size is None or all(_cuts_patches(each) for each in convolutions):
        return False
    positions = _output_positions(network, convolutions, input_size, batch_size)
    # Time that channels last saves (or loses), in units of one group, tap and position of a wide depthwise convolution.
    saved = 0
    for each, count in positions:
        if each.groups == each.in_channels > 1:
            taps = each.groups * each.kernel_size[0] * each.kernel_size[1]
            saved += taps * (count - BREAK_EVEN if max(each.kernel_size) > WIDE else count // 4)
    return saved >= 0


def _cuts_patches(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == convolution.stride and convolution.stride != (1, 1)


def _output_positions(
    network: nn.Module, convolutions: list[nn.Conv2d], input_size: tuple[int, ...], batch_size: int
) -> list[tuple[nn.Conv2d, int]]:
    """Returns each call of a convolution with its output's height times width times the batch size."""
    found: list[tuple[nn.Conv2d, int]] = []

    def note(convolution: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(convolution, nn.Conv2d):
            found.append((convolution, output.shape[-2] * output.shape[-1] * batch_size))

    hooks = [each.register_forward_hook(note) for each in convolutions]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, *input_size))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return found


def move_to_device(method: Method, device: torch.device, channels_last: bool) -> Method:
    """Move a method, in place, to the device and memory format of training and evaluation; the format affects the last bits of results."""
    method.to(device)
    if channels_last:
        method.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        avoid_overflow(method)
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
