"""Which memory format a run trains in, and convolutions that must not meet channels-last tensors on a CPU.

The choice is a function of the networks, the images' size and the batch, not of a clock: two runs of one recipe choose alike.
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
WIDE = 4  # kernels of depthwise convolutions above this side have no backward kernel of their own in oneDNN
# What oneDNN's general kernel costs for the weights' gradient of a wide depthwise convolution, channels last: it pads each group to
# 16x16 channels, whose buffer it clears and adds up. That is independent of the batch, and contiguous tensors, which take a matrix
# product, cost the same at this many output positions (batch times height times width; benchmarks/speed/memory_format.py).
BREAK_EVEN = 140


def resolve_memory_format(recipe: Recipe, task: Task, method: Method, device: torch.device) -> Recipe:
    """The recipe with ``training.channels_last`` decided, and the task's batches in that format.

    Args:
        recipe: a run's; ``auto`` is replaced by what :func:`suits_channels_last` says.
        task: set up for it; its loaders are told.
        method: of the task, not yet trained.
        device: where it will be trained.
    """
    chosen = recipe.training.channels_last
    if chosen == "auto":
        size = getattr(task.data.info, "input_size", None)
        chosen = suits_channels_last(method.networks, size, resolved(recipe.training.batch_size), device)
    task.data.use_channels_last(chosen)
    return with_channels_last(recipe, chosen)


def with_channels_last(recipe: Recipe, value: bool | str) -> Recipe:
    """The recipe with another ``training.channels_last``."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"channels_last": value})})


def suits_channels_last(
    network: nn.Module, input_size: tuple[int, ...] | None, batch_size: int, device: torch.device
) -> bool:
    """Whether training is at least as fast in channels-last as in contiguous format.

    On CUDA yes. On a CPU where convolutions do the work, save where wide depthwise ones have few output positions; networks whose
    only convolutions cut an image into patches are as fast either way, and stay contiguous.

    Args:
        network: is run once on two blank images, in eval mode.
        input_size: channels, height and width of an image; None where samples are no images.
        batch_size: images of a step.
        device: of the training.
    """
    if device.type == "cuda":
        return True
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    if device.type != "cpu" or input_size is None or all(_cuts_patches(each) for each in convolutions):
        return False
    positions = _output_positions(network, convolutions, input_size, batch_size)
    # In units of one group, tap and position of a wide depthwise convolution: what channels last saves there, or loses.
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
    """Each call of a convolution, with its output's height times width times the batch size."""
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
    """Move a method, in place, to where and how it is trained and evaluated; the format decides the last bits."""
    method.to(device)
    if channels_last:
        method.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        avoid_overflow(method)
    return method


def overflows(module: nn.Module) -> bool:
    """Whether the gradient of this convolution's weights writes beyond its memory, channels last on a CPU.

    That is oneDNN's strided 1x1 kernel with fewer input channels than a block (https://github.com/uxlfoundation/oneDNN/issues/6035):
    the process dies, hangs, or goes on with wrong numbers. With one channel both formats are the same. Whether a size is hit
    depends on the number of threads and the batch, so the kind is avoided, whatever the size.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and 1 < module.in_channels < LANES
    )


def avoid_overflow(method: nn.Module) -> None:
    """Let convolutions that :func:`overflows` names compute in contiguous format, whatever comes to them; on a CPU.

    A network may make channels-last activations by itself (ConvNeXt permutes), so this holds in either format.
    """
    for module in method.modules():
        if overflows(module) and isinstance(module, nn.Conv2d):
            weight = module.weight
            # .contiguous() would leave 1x1 kernels as they are; their strides are what torch reads the format from.
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)
            if _to_contiguous not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_to_contiguous)


def _to_contiguous(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].contiguous(), *inputs[1:])


def compiler_options(method: nn.Module) -> dict[str, Any] | None:
    """For torch.compile: it must not turn to channels last by itself what :func:`avoid_overflow` keeps contiguous."""
    guarded = any(_to_contiguous in module._forward_pre_hooks.values() for module in method.modules())
    return {"layout_optimization": False} if guarded else None
