"""What a traced forward makes, draws and counts: kept, or refused; nothing frozen in silence."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

import coterie
from coterie.errors import CoterieError
from coterie.networks.teacher import Teacher

EXAMPLE = torch.zeros(2, 3, 16, 16)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 4)
        self.calls = 0
        self.seen = []
        self.table = None
        self.own_random = random.Random(0)
        self.own_numpy = np.random.default_rng(0)
        self.register_buffer("steps", torch.zeros(()))

    def between(self, x):
        return x

    def forward(self, x):
        return self.fc(self.layer3(self.between(self.stem(x))).mean((2, 3)))


def network(between):
    return type(between.__name__, (Plain,), {"between": between})


def literal(self, x):
    return x * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]).view(1, 8, 1, 1) + torch.full((8, 1, 1), 0.5)


def of_the_input(self, x):
    return x + torch.arange(x.shape[1], device=x.device, dtype=x.dtype).view(1, -1, 1, 1) + torch.ones_like(x)


def of_the_mode(self, x):
    return x * (torch.tensor(2.0) if self.training else torch.tensor(3.0))


def cached(self, x):
    if self.table is None:
        self.table = torch.linspace(0, 1, 8).view(1, 8, 1, 1)
    return x + self.table


def made_again(self, x):
    self.table = torch.eye(8)[0].view(1, 8, 1, 1)
    return x + self.table


def noise(self, x):
    return x + torch.rand(1)


@pytest.mark.parametrize("at", ["layer3", None])
@pytest.mark.parametrize("between", [literal, of_the_input, of_the_mode, cached, made_again])
def test_tensors_made_in_forward_are_kept(between, at):
    group = coterie.branch(network(between), branches=2, at=at, example=EXAMPLE)
    assert not [name for name in group.state_dict() if "constant" in name or "table" in name]
    inputs = torch.randn(4, 3, 16, 16)
    for training in (False, True):
        group.train(training)
        for number in range(2):
            student = group.student(number)
            assert student.training == training
            other = copy.deepcopy(group)
            torch.testing.assert_close(group(inputs).logits[number], student(inputs), rtol=0, atol=0)
            assert torch.equal(other(inputs).logits, group(inputs).logits)


def test_constants_move_with_the_group():
    group = coterie.branch(network(literal), branches=2, at="layer3", example=EXAMPLE).double().eval()
    assert group(torch.randn(2, 3, 16, 16).double()).logits.dtype == torch.float64
    assert {tensor.dtype for tensor in group.trunk.buffers() if tensor.is_floating_point()} == {torch.float64}


def test_random_tensors_are_drawn_anew():
    group = coterie.branch(network(noise), branches=1, at=None, example=EXAMPLE).eval()
    inputs = torch.randn(4, 3, 16, 16)
    assert not torch.equal(group(inputs).logits, group(inputs).logits)


def python_random(self, x):
    return x * 2 if random.random() < 1e-9 else x


def numpy_random(self, x):
    return x * float(np.random.rand())


def generator_of_its_own(self, x):
    return x * 2 if self.own_random.random() < 1e-9 else x


def numpy_generator_of_its_own(self, x):
    return x * 2 if self.own_numpy.random() < 1e-9 else x


def counter(self, x):
    self.calls += 1
    return x * 2 if self.calls % 1000 == 0 else x


def counting_buffer(self, x):
    self.steps += 1
    return x * self.steps


def growing_list(self, x):
    self.seen.append(1)
    return x * len(self.seen)


def in_train_mode_only(self, x):
    return x * 2 if self.training and random.random() < 1e-9 else x


def remembered_values(self, x):
    self.table = x.mean() if self.table is None else 0.9 * self.table + 0.1 * x.mean()
    return x + self.table


def drawn_number(self, x):
    return x * torch.empty(1).uniform_().item()


FROZEN = {
    python_random: "Python's random",
    numpy_random: "numpy.random",
    generator_of_its_own: "self.own_random",
    numpy_generator_of_its_own: "self.own_numpy",
    counter: "self.calls",
    counting_buffer: "self.steps",
    growing_list: "self.seen",
    in_train_mode_only: "Python's random",
    remembered_values: "for the next",
    drawn_number: "torch",
}


@pytest.mark.parametrize("at", ["layer3", None])
@pytest.mark.parametrize("between", FROZEN, ids=lambda each: each.__name__)
def test_what_python_decides_at_every_call_is_refused(between, at):
    built = network(between)().train()
    before = {name: value for name, value in vars(built).items() if isinstance(value, int | list) or value is None}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with pytest.raises(CoterieError) as caught:
        coterie.branch(built, branches=2, at=at, example=EXAMPLE)
    first, second = str(caught.value).splitlines()
    assert FROZEN[between] in first
    assert "sub-module of its own" in second
    assert {name: getattr(built, name) for name in before} == before  # nothing is left behind
    assert built.steps == 0
    assert built.training
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_the_way_out_of_the_message_works():
    class Drop(nn.Module):
        def forward(self, x):
            return x * 2 if random.random() < 0.5 else x

    def between(self, x):
        return self.drop(x)

    class WithDrop(network(between)):
        def __init__(self):
            super().__init__()
            self.drop = Drop()

    group = coterie.branch(WithDrop, branches=2, at="layer3", example=EXAMPLE).eval()
    inputs = torch.randn(2, 3, 16, 16)
    assert len({group(inputs).logits.sum().item() for _ in range(20)}) == 2


class FrozenNorms(Plain):
    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                module.requires_grad_(False)
        return self


class FrozenStage(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[1].train(False)
        return self


class FrozenAncestor(Plain):
    def __init__(self):
        super().__init__()
        self.layer3 = FrozenStage(*self.layer3)


@pytest.mark.parametrize(("kind", "at"), [(FrozenNorms, "layer3"), (FrozenNorms, None), (FrozenAncestor, "layer3.1")])
def test_an_overridden_train_is_kept(kind, at):
    group = coterie.branch(kind, branches=2, at=at, example=EXAMPLE)
    for each in (group, copy.deepcopy(group)):
        each.train()
        plain = kind().train()
        expected = {
            name: module.training for name, module in plain.named_modules() if isinstance(module, nn.BatchNorm2d)
        }
        frozen = {
            name.split("body.")[-1].removeprefix("trunk."): m.training
            for name, m in each.named_modules()
            if isinstance(m, nn.BatchNorm2d)
        }
        assert frozen == expected
        assert not all(frozen.values())
        before = {name: value.clone() for name, value in each.named_buffers() if "layer3" in name}
        each(torch.randn(4, 3, 16, 16))
        assert all(torch.equal(value, dict(each.named_buffers())[name]) for name, value in before.items())
    trained = {
        name.split("body.")[-1].removeprefix("trunk.")
        for name, value in group.named_parameters()
        if value.requires_grad
    }
    assert trained == {name for name, value in kind().train().named_parameters() if value.requires_grad}
    student = group.eval().student(1)
    inputs = torch.randn(2, 3, 16, 16)
    assert torch.equal(student(inputs), group(inputs).logits[1])


class Auxiliary(Plain):
    """With an auxiliary head, defined last, so that it is not the classifier by its place."""

    def __init__(self):
        super().__init__()
        self.helper = nn.Linear(8, 4)

    def outputs(self, x):
        early = self.stem(x)
        return self.fc(self.layer3(early).mean((2, 3))), self.helper(early.mean((2, 3)))

    def forward(self, x):
        return self.outputs(x)


class AuxiliaryFirst(Auxiliary):
    def forward(self, x):
        logits, helper = self.outputs(x)
        return {"aux": helper, "out": logits}


class AuxiliaryInTraining(Auxiliary):
    def forward(self, x):
        return self.outputs(x) if self.training else self.outputs(x)[0]


@pytest.mark.parametrize("kind", [Auxiliary, AuxiliaryFirst, AuxiliaryInTraining])
def test_of_several_outputs_the_classifiers_is_taken_and_said(kind):
    built = kind()
    with pytest.warns(UserWarning, match="only that of 'fc' is trained"):
        group = coterie.branch(built, branches=2, at="layer3", example=EXAMPLE)
    inputs = torch.randn(4, 3, 16, 16)
    expected = group.student(1).eval().outputs(inputs)[0]
    assert torch.equal(group.eval()(inputs).logits[1], expected)
    group.train()(inputs).logits.sum().backward()
    teacher = Teacher(kind(), EXAMPLE, taps=())
    assert (teacher.hides, teacher.embedding_dim, teacher.num_classes) == ("", 8, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_torchvisions_networks_with_auxiliary_heads(name):
    def build():
        return getattr(torchvision.models, name)(weights=None, num_classes=4, aux_logits=True, init_weights=False)

    inputs = torch.randn(2, 3, 80, 80)
    with pytest.warns(UserWarning, match="only that of 'fc' is trained"):
        group = coterie.branch(build(), branches=2, example=torch.zeros(2, 3, 80, 80))
    assert torch.equal(group.student(1).eval()(inputs), group.eval()(inputs).logits[1])
    teacher = Teacher(build(), torch.zeros(2, 3, 80, 80))
    assert teacher(inputs).logits.shape == (2, 4)


@pytest.mark.fast_for("mobilenet_v3_small", "squeezenet1_1")
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small"])
def test_other_networks_of_torchvision_are_split_or_get_their_line(name):
    built = torchvision.models.get_model(name, weights=None, num_classes=4)
    inputs = torch.randn(2, 3, 64, 64)
    if name == "squeezenet1_1":  # its classifier is a convolution
        with pytest.raises(CoterieError, match="no linear layer"):
            coterie.branch(built, branches=2, example=inputs)
        return
    group = coterie.branch(built, branches=2, example=inputs).eval()
    assert torch.equal(group.student(1)(inputs), group(inputs).logits[1])


class Lazy(Plain):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(4)
        self.layer3 = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU())


@pytest.mark.parametrize("given", [Lazy, Lazy()], ids=["callable", "module"])
def test_lazy_layers_get_their_shapes_from_the_example(given):
    group = coterie.branch(given, branches=2, at="layer3", example=EXAMPLE, seed=3).eval()
    inputs = torch.randn(2, 3, 16, 16)
    logits = group(inputs).logits
    assert not torch.equal(logits[0], logits[1])
    assert torch.equal(group.student(1)(inputs), logits[1])
    if given is Lazy:
        again = coterie.branch(given, branches=2, at="layer3", example=EXAMPLE, seed=3).eval()
        assert torch.equal(again(inputs).logits, logits)


def test_a_lazy_teacher_was_never_trained():
    with pytest.raises(CoterieError, match="lazy layers without values"):
        Teacher(Lazy(), EXAMPLE)


@pytest.mark.slow
def test_networks_of_timm_are_recorded_as_before():
    for name in ("vit_tiny_patch16_224", "resnet10t"):
        group = coterie.branch(timm.create_model(name, num_classes=4), branches=2).eval()
        inputs = torch.randn(1, 3, 224, 224)
        assert torch.equal(group.student(0)(inputs), group(inputs).logits[0])
        assert all(
            type(part).__name__ in {"Trunk", "Branch", "TwoModeModule"} for part in [group.trunk, *group.branches]
        )
