from __future__ import annotations

import copy

import pytest
import timm
import torch

from coterie.errors import CoterieError
from coterie.networks.papers.registration import register
from coterie.networks.papers.tiny import tiny_cifar
from coterie.networks.teacher import Statistics, Teacher, Teachers

register()
EXAMPLE = torch.zeros(2, 3, 16, 16)


def make(**options) -> tuple[torch.nn.Module, Teacher]:
    torch.manual_seed(0)
    network = tiny_cifar(num_classes=5)
    for _ in range(3):  # BatchNorm statistics of its own
        network.train()(torch.randn(8, 3, 16, 16))
    return network, Teacher(network, EXAMPLE, **options)


def test_it_is_frozen_whatever_is_asked_of_it():
    network, teacher = make()
    before = copy.deepcopy(network.state_dict())
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    output = teacher(torch.randn(8, 3, 16, 16, requires_grad=True))
    assert not output.logits.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert copy.deepcopy(teacher) is teacher


def test_it_says_what_the_network_says():
    network, teacher = make()
    images = torch.randn(4, 3, 16, 16)
    output = teacher(images)
    torch.testing.assert_close(output.logits, network.eval()(images))
    assert teacher.tap_names == ("layer1", "layer2", "layer3")
    assert (
        [tuple(tap.shape[1:]) for tap in output.taps]
        == list(teacher.tap_shapes)
        == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    )
    torch.testing.assert_close(output.taps[-1], output.feature_map)
    torch.testing.assert_close(output.embedding, output.feature_map.mean((2, 3)))


def test_classes_in_another_order_are_brought_into_the_datas():
    network, teacher = make(class_order=[3, 0, 4, 2, 1])
    images = torch.randn(4, 3, 16, 16)
    expected = network.eval()(images)
    logits = teacher(images).logits
    for place, own in enumerate([3, 0, 4, 2, 1]):
        assert torch.equal(logits[:, place], expected[:, own])


def test_what_was_memorised_is_answered_until_it_is_forgotten():
    _, teacher = make()
    teachers = Teachers([teacher, teacher])
    images = torch.randn(6, 3, 16, 16)
    logits = torch.stack([output.logits for output in teachers(images)])
    teachers.use_cached(torch.tensor([0, 1]))  # nothing was memorised
    assert len(teachers(images)) == 2
    assert torch.equal(teachers(images)[0].logits, logits[0])
    known = torch.randn(2, 10, 5)
    teachers.cache_logits(known)
    assert torch.equal(teachers(images)[0].logits, logits[0])
    addresses = set()
    for numbers in ([3, 1, 4], [2, 9, 0]):
        teachers.use_cached(torch.tensor(numbers))
        first, second = teachers(images[:3])
        assert torch.equal(first.logits, known[0, numbers])
        assert torch.equal(second.logits, known[1, numbers])
        assert torch.equal(teachers(images)[1].logits, known[1, numbers].repeat(2, 1))  # two views
        addresses.add(teachers._cached_batch.data_ptr())
    assert len(addresses) == 1, "a recorded step would read another batch's"
    teachers.use_cached(torch.tensor([5]))
    assert torch.equal(teachers(images[:1])[0].logits, known[0, [5]])
    teachers.use_cached(torch.tensor([7, 7, 8]))
    assert teachers._cached_batch.data_ptr() in addresses
    teachers.stop_using_cached()
    assert torch.equal(teachers(images)[0].logits, logits[0])


def test_images_are_brought_to_its_normalisation_and_size():
    students = Statistics((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    own = Statistics((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    network, teacher = make(statistics=own, student_statistics=students, size=(32, 32))
    pixels = torch.rand(2, 3, 16, 16)

    def normalised(images, statistics):
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in statistics)
        return (images - mean) / std

    larger = torch.nn.functional.interpolate(normalised(pixels, own), (32, 32), mode="bilinear", antialias=True)
    expected = network.eval()(larger)
    torch.testing.assert_close(teacher(normalised(pixels, students)).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "resnet10t"])
def test_taps_of_timm_networks(name):
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 4} if "vit" in name else {}
    network = timm.create_model(name, num_classes=3, **options)
    teacher = Teacher(network, torch.zeros(1, 3, 32, 32))
    output = teacher(torch.randn(2, 3, 32, 32))
    assert len(output.taps) == 4
    assert all(len(tap) == 2 and tap.ndim in (3, 4) for tap in output.taps)


def test_wrong_taps_and_wrong_classes():
    with pytest.raises(CoterieError, match="did you mean 'layer2'"):
        make(taps=["layer22"])
    _, teacher = make()
    other = Teacher(tiny_cifar(num_classes=7), EXAMPLE)
    with pytest.raises(CoterieError, match=r"\[5, 7\] classes"):
        Teachers([teacher, other])


def test_several_answer_in_order():
    _, first = make()
    second = Teacher(tiny_cifar(num_classes=5), EXAMPLE)
    teachers = Teachers([first, second])
    images = torch.randn(2, 3, 16, 16)
    outputs = teachers(images)
    torch.testing.assert_close(outputs[1].logits, second(images).logits)
    assert len(teachers) == 2
    assert teachers.each() == [first, second]


class Untraceable(torch.nn.Module):
    """Its way depends on the values that it sees."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 5)

    def forward(self, images):
        pooled = images.mean((2, 3))
        return self.fc(pooled) if pooled.sum() >= 0 else self.fc(-pooled)


def test_of_a_network_that_cannot_be_traced_the_logits_are_known():
    from coterie.methods import create_method
    from coterie.networks.branching import branch

    network = Untraceable()
    teachers = Teachers([Teacher(network, EXAMPLE, name="oracle")])
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(teachers(images)[0].logits, network(images))

    def group():
        return branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE, taps="stages")

    for name in ("kd", "ofa", "rl_kd", "stkd"):
        losses = create_method(name, group(), teachers=teachers)(images, torch.arange(4))
        assert torch.isfinite(sum(losses.values())), name
    for name in ("fitnet", "at", "rkd", "diffkd"):
        with pytest.raises(CoterieError, match="compares features, and of the teacher 'oracle' only logits"):
            create_method(name, group(), teachers=teachers)
    with pytest.raises(CoterieError, match=r"does not take images \[1, 16, 16\]"):
        Teacher(network, EXAMPLE[:, :1])
    with pytest.raises(CoterieError, match="expected logits"):
        Teacher(torch.nn.Identity(), EXAMPLE)
