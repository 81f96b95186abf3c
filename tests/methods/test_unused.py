"""Options that have no effect beside others are refused, and the declarations agree with what training shows."""

from __future__ import annotations

import copy
from functools import cache
from typing import ClassVar

import pytest
import torch
import yaml
from pydantic import TypeAdapter

from coterie.errors import CoterieError
from coterie.methods import METHODS, TABLE, create_method
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import Unused, method_name
from coterie.methods.options import check_options, conditions, option_fields, spelled
from coterie.methods.restoration.dfosd import DFOSD
from coterie.methods.restoration.vsd import VSD
from coterie.methods.speech.ekd import EnsembleKD
from coterie.methods.teacher.amd import Assistants
from coterie.methods.teacher.kd import KD
from coterie.methods.teacher.taught import TaughtMethod
from coterie.networks.branching import branch
from coterie.networks.group import StudentGroup
from coterie.networks.papers.registration import register
from coterie.networks.papers.tiny import tiny_cifar
from coterie.networks.teacher import Teacher, Teachers

register()
DECLARED = [
    pytest.param(kind, key, name, id=f"{method_name(kind)}-{key}-{name}")
    for kind in (*METHODS.values(), Assistants)
    for key, names in kind.unused.items()
    for name in names
]


@pytest.mark.parametrize(("kind", "key", "name"), DECLARED)
def test_what_is_declared_is_refused_in_one_line(kind, key, name, possible):
    fields = option_fields(kind)
    assert name in fields
    cause = {}
    for each in conditions(key):
        annotation, default = fields[each.option]
        value = TypeAdapter(annotation).validate_python(yaml.safe_load(each.value))
        assert spelled(value) == each.value  # else the condition never holds
        cause[each.option] = value
        if each.differs:
            cause[each.option] = next(v for v in [default, *possible(annotation, default)] if v != value)
    if message := refusal(kind, cause):  # what the condition names has no effect by default
        cause |= remedy(message)
    if message := refusal(kind, cause):  # nor otherwise: vsd's perceptual term and a weight of 0
        assert " has no effect with " in message
        return
    assert refusal(kind, {**cause, name: fields[name][1]}) is None
    wanted = possible(*fields[name])[-1]
    message = refusal(kind, {**cause, name: wanted})
    assert message.startswith(f"method.{name}={spelled(wanted)} has no effect with method.")
    assert "\n" not in message
    assert check_options(kind, {**cause, name: wanted}, unused="drop") == cause
    if all(value == fields[option][1] for option, value in cause.items()):
        assert "; set " in message
        if "; set method." in message:
            assert refusal(kind, {name: wanted, **remedy(message)}) is None


def refusal(kind: type, options: dict) -> str | None:
    try:
        check_options(kind, options)
    except CoterieError as error:
        return str(error)
    return None


def remedy(message: str) -> dict:
    """The first value that a message proposes."""
    setting = message.partition("; set method.")[2].replace(" above 0", "=1").split(" or ")[0].split(",")[0]
    option, _, value = setting.partition("=")
    return {option: yaml.safe_load(value)}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            DFOSD,
            {"adversary": "none", "discriminator_every": 3},
            "method.discriminator_every=3 has no effect with method.adversary=none",
        ),
        (
            VSD,
            {"perceptual_weight": 3},
            "method.perceptual_weight=3 has no effect with method.perceptual=none, the default; set method.perceptual=lpips, dists or ea_dists",
        ),
        (
            METHODS["mcl"],
            {"distillation_temperature": 4.5},
            "method.distillation_temperature=4.5 has no effect with method.distillation_weight=0, the default; set method.distillation_weight above 0",
        ),
        (
            EnsembleKD,
            {"aggregation": "concatenation", "teacher_weights": [1, 2]},
            "method.teacher_weights=[1.0, 2.0] has no effect with method.aggregation=concatenation",
        ),
        (
            METHODS["okdmde"],
            {"ensemble_label": False, "ensemble_gradient": "all"},
            "method.ensemble_gradient=all has no effect with method.ensemble_label=false and method.detach_target=true",
        ),
        (
            METHODS["ofa"],
            {"nontarget_power": False},
            "method.nontarget_power=false has no effect with method.gamma=1, the default; set another method.gamma",
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_messages(kind, options, message):
    with pytest.raises(CoterieError) as caught:
        check_options(kind, options)
    assert str(caught.value) == message


def test_dropping_leaves_what_is_the_same():
    """One at a time: an option without effect may be why another one has none."""

    class Both(KD):
        unused: ClassVar[Unused] = {"temperature=1": ("label_weight",), "label_weight=0": ("temperature",)}

    assert check_options(Both, {"temperature": 1, "label_weight": 0}, unused="drop") == {"temperature": 1}


def test_create_method_refuses(make_group):
    with pytest.raises(CoterieError, match=r"method.temperature=2 has no effect with method.distillation_weight=0$"):
        create_method("dml", make_group(2), distillation_weight=0, temperature=2)
    create_method("dml", make_group(2), distillation_weight=0, temperature=1)


EXAMPLE = torch.zeros(2, 3, 16, 16)
FAMILY = [name for name in TABLE if issubclass(METHODS[name], GroupMethod)]
# Left out: what acts where no step shows it.
ELSEWHERE = {
    "amd": ("sparsities", "selection", "tradeoff"),  # of the first stage
}


@cache
def built_group(count: int, at: str | None, taps: str | tuple[str, ...]) -> StudentGroup:
    torch.manual_seed(0)
    group = branch(lambda: tiny_cifar(num_classes=8), branches=count, at=at, example=EXAMPLE, taps=taps)
    for each in group.classifiers:
        each.weight.data *= 20  # logits of untrained networks are too alike to be ranked
    return group


@cache
def built_teachers(count: int) -> Teachers:
    torch.manual_seed(5)
    bodies = [tiny_cifar(num_classes=8) for _ in range(count)]
    for each in bodies:
        each.fc.weight.data *= 20
    return Teachers([Teacher(each, EXAMPLE) for each in bodies])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_training_shows_what_has_no_effect(name, misdeclared):
    kind = METHODS[name]
    count = 1 if kind.max_students == 1 else 3
    at, taps = (None, "stages") if kind.uses_taps else ("auto" if count > 1 else None, ())
    teachers = {}
    if issubclass(kind, TaughtMethod):
        teachers = {"teachers": built_teachers(1 if kind.max_teachers == 1 else 2)}
    generator = torch.Generator().manual_seed(1)
    views, targets = torch.randn(5, 6, 3, 16, 16, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0])

    def build(options):
        method = kind(copy.deepcopy(built_group(count, at, taps)), **teachers, **options)
        return method, list(views[: method.views]) if method.views > 1 else views[0], targets

    kept = ("policy_weight", "policy_bias") if name == "rl_kd" else ()
    base = {"diversity_weight": 1.0} if name == "ffsd" else {}  # its default is too small for two steps
    assert "\n".join(misdeclared(kind, build, ELSEWHERE.get(name, ()), base, kept=kept)) == ""
