"""Weight gradients of depthwise convolutions on maps that are smaller than their kernel, on a CPU.

oneDNN has no specialised kernel for these maps and computes each channel by itself: 4 to 40 times slower than a sum for each tap of the kernel
(benchmarks/speed/small_maps.py).
They are the last layers of mobile networks on images of 64 pixels, whose steps take 0.7 of the time (memory_format.py there).
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.grad import conv2d_input

Pair = tuple[int, int]  # of an image's two axes


def speed_up_small_maps(method: nn.Module) -> None:
    """Makes depthwise convolutions compute the weight gradient with :class:`DepthwiseConvolution` where it is faster; for CPUs."""
    for module in method.modules():
        if isinstance(module, nn.Conv2d) and _is_plain_depthwise(module):
            module._conv_forward = types.MethodType(_conv_forward, module)  # type: ignore[method-assign]


def _is_plain_depthwise(module: nn.Conv2d) -> bool:
    return (
        type(module).forward is nn.Conv2d.forward
        and module.groups == module.in_channels == module.out_channels > 1
        and max(module.kernel_size) > 1
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
    )


def _conv_forward(self: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    trains = self.training and weight.requires_grad and torch.is_grad_enabled()
    if not trains or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not _is_small(self, input):
        return nn.Conv2d._conv_forward(self, input, weight, bias)
    output: Tensor = DepthwiseConvolution.apply(input, weight, self.stride, self.padding, self.dilation)
    return output if bias is None else output + bias.view(-1, 1, 1)


def _is_small(module: nn.Conv2d, input: Tensor) -> bool:
    sides = zip(input.shape[-2:], module.dilation, module.kernel_size, strict=True)
    return any(side < dilation * (kernel - 1) + 1 for side, dilation, kernel in sides)


class DepthwiseConvolution(torch.autograd.Function):
    """A depthwise convolution without bias, whose weight gradient is a sum of products for each tap of the kernel that meets the map.

    Inputs [B, C, H, W], weights [C, 1, KH, KW]; stride, padding and dilation as pairs; outputs [B, C, OH, OW].
    """

    @staticmethod
    def forward(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
        return F.conv2d(input, weight, None, stride, padding, dilation, weight.shape[0])

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.geometry = inputs[2:]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        from_input = from_weight = None
        if ctx.needs_input_grad[0]:
            stride, padding, dilation = ctx.geometry
            from_input = conv2d_input(input.shape, weight, gradient, stride, padding, dilation, weight.shape[0])
        if ctx.needs_input_grad[1]:
            from_weight = depthwise_weight_gradient(input, gradient, weight.shape[-2:], *ctx.geometry)
        return from_input, from_weight, None, None, None


def depthwise_weight_gradient(
    input: Tensor, gradient: Tensor, kernel_size: Sequence[int], stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Returns the gradient of a loss by the weights of a depthwise convolution, [C, 1, KH, KW].

    Args:
        input: [B, C, H, W].
        gradient: of the loss by the convolution's output, [B, C, OH, OW].
    """
    rows, columns = (
        [
            _meeting(
                input.shape[axis + 2], gradient.shape[axis + 2], tap * dilation[axis] - padding[axis], stride[axis]
            )
            for tap in range(kernel_size[axis])
        ]
        for axis in (0, 1)
    )
    result = gradient.new_zeros(kernel_size[0], kernel_size[1], input.shape[1])
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        if row is not None and column is not None:  # otherwise this weight meets nothing but padding
            result[i, j] = (gradient[:, :, row[1], column[1]] * input[:, :, row[0], column[0]]).sum((0, 2, 3))
    return result.permute(2, 0, 1).unsqueeze(1)


def _meeting(inputs: int, outputs: int, offset: int, stride: int) -> tuple[slice, slice] | None:
    """Returns the positions of input and output on one axis that a weight connects: stride times the output's plus offset is the input's."""
    first = max(0, -(offset // stride))
    last = min(outputs - 1, (inputs - 1 - offset) // stride)
    if last < first:
        return None
    return slice(first * stride + offset, last * stride + offset + 1, stride), slice(first, last + 1)
