"""Weight gradients of depthwise convolutions on small maps are those of PyTorch, whatever the geometry."""

from __future__ import annotations

import copy
import itertools

import pytest
import timm
import torch
from torch import nn

from coterie.training.memory_format import move_to_device
from coterie.training.small_maps import DepthwiseConvolution, depthwise_weight_gradient, speed_up_small_maps

CPU = torch.device("cpu")


def gradients(module, images, weights):
    images = images.detach().requires_grad_()
    output = module(images)
    return output, torch.autograd.grad((output * weights).sum(), [images, *module.parameters()])


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7, 7), (2, 3), (1, 3)])
@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("padding", [0, 1, 3, (1, 2)])
def test_gradients_equal_pytorchs(kernel, stride, padding):
    tried = 0
    sizes = itertools.product([1, 2, 3, 7], [1, 2, 7], [1, 2], [True, False])
    for height, width, dilation, bias in sizes:
        plain = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6, bias=bias).double()
        fast = copy.deepcopy(plain)
        speed_up_small_maps(fast)
        images = torch.randn(3, 6, height, width).double()
        try:
            shape = plain(images).shape
        except RuntimeError:  # the kernel is larger than the padded map
            continue
        weights = torch.randn(shape).double()
        for form in (torch.contiguous_format, torch.channels_last):
            expected, own = (gradients(each, images.to(memory_format=form), weights) for each in (plain, fast))
            torch.testing.assert_close(own[0], expected[0])
            torch.testing.assert_close(own[1], expected[1])
        exact = depthwise_weight_gradient(
            images, weights, plain.kernel_size, plain.stride, plain.padding, plain.dilation
        )
        torch.testing.assert_close(exact, expected[1][1])
        tried += 1
    assert tried


def is_own(output):
    """Whether an output comes from the own function, perhaps with a bias added."""
    nodes = [output.grad_fn, *(node for node, _ in output.grad_fn.next_functions)]
    return any(DepthwiseConvolution.__name__ in str(node) for node in nodes)


@pytest.mark.parametrize(
    ("changes", "side", "expected"),
    [
        ({}, 2, True),
        ({}, 5, False),  # as large as the kernel: oneDNN has a kernel of its own
        ({"dilation": 2}, 8, True),  # the kernel spans 9
        ({"groups": 1}, 2, False),
        ({"groups": 4}, 2, False),
        ({"out_channels": 16}, 2, False),
        ({"padding": "same"}, 2, False),
        ({"padding_mode": "reflect", "padding": 1}, 4, False),
    ],
)
def test_only_depthwise_convolutions_on_small_maps_are_computed_so(changes, side, expected):
    settings = {"in_channels": 8, "out_channels": 8, "kernel_size": 5, "padding": 2, "groups": 8, **changes}
    convolution = nn.Conv2d(**settings)
    speed_up_small_maps(convolution)
    assert is_own(convolution(torch.randn(2, 8, side, side))) is expected
    assert not is_own(convolution.eval()(torch.randn(2, 8, side, side)))


def test_a_network_and_its_copy_train_as_before_and_hold_the_same():
    torch.manual_seed(0)
    plain = timm.create_model("mobilenetv3_small_050", num_classes=3).double().train()
    fast = move_to_device(copy.deepcopy(plain), CPU, channels_last=True)
    copied = copy.deepcopy(fast)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(4, 3, 32, 32).double()
    expected, own, again = (
        torch.autograd.grad(each(images).sum(), [*each.parameters()]) for each in (plain, fast, copied)
    )
    torch.testing.assert_close(own, expected)
    assert all(torch.equal(a, b) for a, b in zip(own, again, strict=True))


def test_under_autocast_and_for_second_derivatives_it_is_sound():
    convolution = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    speed_up_small_maps(convolution)
    with torch.autocast("cpu", torch.bfloat16):
        convolution(torch.randn(2, 4, 2, 2)).float().sum().backward()
    assert convolution.weight.grad.isfinite().all()
    convolution = convolution.double()
    assert torch.autograd.gradgradcheck(
        lambda images: convolution(images).square(), torch.randn(1, 4, 2, 2).double().requires_grad_()
    )


def test_the_compiler_computes_it_as_it_would():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Flatten())
    speed_up_small_maps(network)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    images = torch.randn(2, 4, 2, 2)
    torch.testing.assert_close(compiled(images), network(images))
    assert not is_own(compiled(images))
