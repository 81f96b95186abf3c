from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from torch import nn

from coterie.errors import CoterieError
from coterie.methods.group_method import GroupMethod
from coterie.methods.options import choices, conditions, option_fields, unused_options
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup


class Head(nn.Module):
    """A branch that returns (logits, embedding, feature map)."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        feature_map = torch.relu(self.conv(x))
        embedding = feature_map.mean((2, 3))
        return self.fc(embedding), embedding, feature_map


@pytest.fixture
def make_group():
    """Builds a small group on a shared trunk: ``make_group(students, classes, widths=None)``."""

    def build(students: int = 3, classes: int = 4, widths: list[int] | None = None) -> StudentGroup:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        heads = [Head(5, width, classes) for width in widths or [8] * students]
        return StudentGroup(trunk, heads, example=torch.zeros(2, 3, 6, 6))

    return build


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 6, 6, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])


class Slow:
    """The family's formulas once more, sample by sample in double precision, to check the fast ones against."""

    @staticmethod
    def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        exponentials = [math.exp(float(value) / temperature) for value in logits]
        return np.array([each / sum(exponentials) for each in exponentials])

    @classmethod
    def divergence(cls, target: np.ndarray, logits: np.ndarray, temperature: float) -> float:
        """T² KL(softmax(target/T) ‖ softmax(logits/T)) of [B, K], mean over samples."""
        total = 0.0
        for wanted, said in zip(target, logits, strict=True):
            q, p = cls.softmax(wanted, temperature), cls.softmax(said, temperature)
            total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True))
        return temperature**2 * total / len(logits)

    @classmethod
    def cross_entropy(cls, logits: np.ndarray, targets: Sequence[int]) -> float:
        return -sum(math.log(cls.softmax(z)[y]) for z, y in zip(logits, targets, strict=True)) / len(targets)

    @classmethod
    def labels(cls, logits: np.ndarray, targets: Sequence[int]) -> float:
        """Sum over students of [n, B, K]."""
        return sum(cls.cross_entropy(each, targets) for each in logits)


@pytest.fixture
def slow():
    return Slow


@pytest.fixture
def said(batch):
    """``said(method)``: every student's logits on the batch as float64 [n, B, K]."""

    def run(method) -> np.ndarray:
        with torch.no_grad():
            return method.group(batch[0]).logits.double().numpy()

    return run


@pytest.fixture
def reaches():
    """``reaches(method, term, part)``: whether a term's gradient reaches the parameters whose names start with ``part``."""

    def find(method, term, part: str) -> bool:
        named = [p for name, p in method.named_parameters() if name.startswith(part) and p.requires_grad]
        if not named or not term.requires_grad:
            return False
        found = torch.autograd.grad(term, named, retain_graph=True, allow_unused=True)
        return any(bool(each.abs().sum() > 0) for each in found if each is not None)

    return find


@pytest.fixture
def logit_gradient():
    """``logit_gradient(method, inputs, targets, term)``: logits on which the students disagree, and a term's gradient with respect to them.

    Both are [n, B, K]; the logits take the place of the group's, whose untrained students hardly differ.
    """

    def find(method, inputs, targets, term: str) -> tuple[torch.Tensor, torch.Tensor]:
        output = method.group(inputs)
        generator = torch.Generator().manual_seed(2)
        logits = (3 * torch.randn(output.logits.shape, generator=generator)).requires_grad_()
        forward, method.group.forward = method.group.forward, lambda _: output._replace(logits=logits)
        loss = method(inputs, targets)[term]
        method.group.forward = forward
        (gradient,) = torch.autograd.grad(loss, logits)
        return logits.detach(), gradient

    return find


CANDIDATES = (0, 1, 2, 0.5, 3, 6.0, "random", [1.0, 2.0])


@pytest.fixture
def possible():
    """``possible(type, default)``: some valid values of an option other than its default, those that the type lists first."""

    def find(kind, default) -> list:
        found = []
        for each in (*choices(kind), *CANDIDATES):
            with contextlib.suppress(ValidationError):
                value = TypeAdapter(kind).validate_python(each)
                if value not in [default, *found]:
                    found.append(value)
        return found

    return find


def trained(method, inputs, targets, kept=(), steps=((1, 39), (12, 259), (13, 279))) -> tuple[list, list]:
    """Some steps of a method, by default an early one and two late ones: what they leave in the students, and all else that an option may change."""
    students: list = []
    others: list = [method.views, method.label_factor, method.needs_validation]
    main = torch.optim.SGD(method.parameter_groups(), lr=0.05)
    own = method.build_optimizers()
    for optimizer in (main, *own.values()):
        settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        others.append(f"{type(optimizer).__name__} {getattr(optimizer, 'every', 1)} {settings}")
    for epoch, step in steps:
        progress = Progress(epoch, 20, step, 400)
        torch.manual_seed(step)
        total = sum(method.train()(inputs, targets, progress).values())
        method.zero_grad()
        total.backward()
        for optimizer in (main, *own.values()):
            optimizer.step()
        method.after_step(progress)
        others.append(total.detach())
        if isinstance(method, GroupMethod):
            with torch.no_grad():
                said = method.eval().predict(inputs)
            if method.needs_validation:
                method.after_validation(said.logits, targets)
            students.append(said.deployed)
            others.append(said.ensemble)
        method.before_epoch(epoch + 1)
        students += [each.detach().clone() for each in method.networks.state_dict().values()]
        others += [method.get_parameter(each).detach().clone() for each in kept]
    return students, others


def same(first, second, rtol=1e-5, atol=1e-7) -> bool:
    return len(first) == len(second) and all(
        torch.allclose(a.float(), b.float(), rtol=rtol, atol=atol) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(first, second, strict=True)
    )


@pytest.fixture
def misdeclared(possible):
    """``misdeclared(kind, build, elsewhere, base, kept, steps)``: where a method's ``unused`` differs from what training shows.

    In every state with one option at one of its values (those that its type lists, 0, and 1 of a share), and in every declared one, each other option is changed. It has an effect if a few
    steps of training then differ in anything. ``build(options)`` returns the method, inputs and targets; ``elsewhere`` names options that are left out; ``kept`` names
    parameters whose values count; ``base`` are options of all states. Returns a line for each difference.
    """

    def find(kind, build, elsewhere=(), base=None, **how) -> list[str]:
        fields = option_fields(kind)
        others = {name: possible(annotation, default) for name, (annotation, default) in fields.items()}

        def run(options):
            torch.manual_seed(0)
            return trained(*build(options), **how)

        states, base = [{}], base or {}
        for name, (annotation, _) in fields.items():
            listed = list(choices(annotation))
            switches = [
                each for each in others[name] if each in listed or each in (0, 1)[: 1 + (2 not in others[name])]
            ]
            states += [{name: value} for value in switches if name not in {*base, *elsewhere}]
        for key in kind.unused:
            parts = {each.option: yaml.safe_load(each.value) for each in conditions(key) if not each.differs}
            states += [parts] if len(parts) > 1 else []
        found = []
        for state in states:
            try:
                reference = run({**base, **state})
            except CoterieError:
                continue
            for name in fields.keys() - state.keys() - base.keys() - set(elsewhere):
                has_effect = declared = False
                for value in others[name]:
                    options = {**base, **state, name: value}
                    declared = name in unused_options(kind, options)
                    try:
                        students, rest = run(options)
                    except CoterieError:
                        continue
                    # Another order of operations rounds otherwise, and every step adds to that.
                    if declared and not same(students, reference[0], rtol=1e-2, atol=1e-4):
                        found.append(f"{state} {name}={value!r} is declared, and has an effect")
                    has_effect |= not (same(students, reference[0]) and same(rest, reference[1]))
                    if has_effect and not declared:
                        break
                if not has_effect and not declared:
                    found.append(f"{state} {name} is not declared, and has no effect")
        return found

    return find
