"""The arms of benchmarks/teachers/compare.py, and the pairs of arms that decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

Settings = dict[str, Any]  # `method`, `teacher` (its name, if it differs from the part's), and sections that differ
SGD = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4}
ADAMW = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05}
CNN = {"name": "resnet8_cifar"}
CNN_NARROW = {"name": "resnet8_cifar", "options": {"widths": [4, 8, 16]}}  # its teacher is four times as wide
CNN_SMALL = {"name": "resnet8_cifar", "options": {"widths": [10, 20, 40]}}  # 0.13 of its teacher's parameters
VIT = "vit_tiny_patch16_224"
VIT_STUDENT = {"name": VIT, "options": {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}}
VIT_TEACHER = {"name": VIT, "options": {"patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 6}}
VIT_SMALL = {"name": VIT, "options": {"patch_size": 4, "embed_dim": 32, "depth": 6, "num_heads": 4}}  # 0.12 of it
EXPERTS = 3
SPECIALISTS = [f"expert{number}" for number in range(EXPERTS)]
MIXUP = {"data": {"mixup": 1.0}}
TWICE = {"training": {"epochs": 80}}
SPARSITIES = [0.2, 0.4, 0.6, 0.8]
REWARDS = ("improvement", "instance", "label", "label_and_distillation", "validation")
GAMMAS, WEIGHTS = (1.0, 1.2, 1.4), (1.0, 2.0)
MIXUP_TEACHERS = ("kd", "stkd", "stkd-mixed")  # arms that learn from a teacher trained on mixtures as well
SELF = ("byot", "dks", "ddgsd", "frskd", "multilevel")


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        student: the network of every arm.
        teachers: names of the teachers, unless an arm names another.
        arms: settings that differ, by label.
        contrasts: (arm, the control that it has to beat).
        data: data of the students.
        reference: reference arm of the table.
    """

    student: Settings
    teachers: Sequence[str]
    arms: Mapping[str, Settings]
    contrasts: Sequence[tuple[str, str]] = ()
    data: str = "student"
    reference: str = "baseline"
    wanted: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        others = dict.fromkeys(arm["teacher"] for arm in self.arms.values() if "teacher" in arm)
        object.__setattr__(self, "wanted", [*self.teachers, *others])


def method(name: str, more: Settings | None = None, **options: Any) -> Settings:
    """Return the settings of an arm: a method with its options, and sections that differ."""
    return {"method": {"name": name, **options}, **(more or {})}


def kd_1(weight: float = 1.0) -> Settings:
    """Return KD with T = 1 and OFA's weights, which equals OFA with gamma = 1 without its exits."""
    return method("kd", temperature=1.0, label_weight=1.0, distillation_weight=weight)


def deep_supervision() -> Settings:
    """Return exits that learn only from the labels."""
    return method("byot", distillation_weight=0.0, feature_weight=0.0)


def heterogeneous() -> dict[str, Settings]:
    return {
        "baseline": method("baseline"),
        "kd": method("kd"),
        "kd-T1": kd_1(),
        "deep-supervision": deep_supervision(),
        "ofa": method("ofa"),
        "ofa-1.2": method("ofa", gamma=1.2),
        "ofa-1.4": method("ofa", gamma=1.4),
        "fitnet": method("fitnet"),
        "dist": method("dist"),
        "diffkd": method("diffkd"),
    }


def gammas() -> dict[str, Settings]:
    """Return OFA's exponents, each with every weight of its term, since gamma changes the size of the term."""
    return {
        **{f"kd-T1-weight-{weight:g}": kd_1(weight) for weight in WEIGHTS},
        **{
            f"ofa-{gamma:g}-weight-{weight:g}": method("ofa", gamma=gamma, distillation_weight=weight, exit_weight=weight)
            for gamma, weight in product(GAMMAS, WEIGHTS)
        },
    }  # fmt: skip


def assistants() -> dict[str, Settings]:
    return {
        "baseline": method("baseline"),
        "kd": method("kd"),
        "kd-twice": method("kd", TWICE),
        "amd": method("amd", sparsities=SPARSITIES),
        # The same candidates, trained once, with every possible choice among them.
        **{f"amd-{name}": method("amd", sparsities=SPARSITIES, selection=name) for name in ("tradeoff", *SPARSITIES)},
    }


def diffusion() -> dict[str, Settings]:
    return {
        "diffkd": method("diffkd"),
        "diffkd-no-matching": method("diffkd", noise_matching=False),
        "diffkd-1-step": method("diffkd", steps=1),
        "diffkd-projector": method("diffkd", denoiser="projector"),
        "diffkd-none": method("diffkd", denoiser="none"),
    }


def mixtures() -> dict[str, Settings]:
    """Return KD and the interpretations of STKD."""
    return {
        "kd": method("kd"),
        "stkd": method("stkd"),
        "stkd-mixed": method("stkd", reading="mixed"),
        "stkd-clean": method("stkd", reading="clean"),
        "stkd-wrong-classes": method("stkd", wrong_classes=True),
    }


def selves() -> dict[str, Settings]:
    """Return the self-distillation methods and their controls. FRSKD's pyramid has 32 channels here: a step costs 3 plain ones; with the published 256 it costs 6.5."""
    return {
        "baseline": method("baseline"),
        "label-smoothing": method("baseline", {"training": {"label_smoothing": 0.1}}),
        "mixup": method("baseline", MIXUP),
        "deep-supervision": deep_supervision(),
        **{name: method(name, **({"channels": 32} if name == "frskd" else {})) for name in SELF},
    }


HETEROGENEOUS = [
    ("ofa", "kd-T1"), ("ofa", "deep-supervision"), ("ofa-1.2", "ofa"), ("ofa-1.4", "ofa"), ("fitnet", "kd"), ("dist", "kd"), ("diffkd", "kd"),
]  # fmt: skip
ASSISTANTS = [("kd", "baseline"), ("amd", "kd"), ("amd", "kd-twice"), *(("amd", f"amd-{name}") for name in ("tradeoff", *SPARSITIES))]  # fmt: skip
DIFFUSION = [("diffkd", other) for other in ("diffkd-none", "diffkd-projector", "diffkd-no-matching", "diffkd-1-step", "kd")]  # fmt: skip
SUPERVISION = [(name, control) for control, name in product(("deep-supervision", "label-smoothing", "mixup"), SELF)]
PARTS = {
    "cnn": Part(
        CNN,
        ["cnn"],
        {
            **{name: method(name) for name in ("baseline", "kd", "dkd", "dist", "fitnet", "at", "rkd", "ofa", "stkd")},
            "kd-T1": kd_1(),
            "deep-supervision": deep_supervision(),
            "ofa-1.2": method("ofa", gamma=1.2),
            "label-smoothing": method("baseline", {"training": {"label_smoothing": 0.1}}),
            "mixup": method("baseline", MIXUP),
            "stkd-mixed": method("stkd", reading="mixed"),
            "stkd-wrong-classes": method("stkd", wrong_classes=True),
            **diffusion(),
            **{name: method(name) for name in SELF},
            "okdmde": method("okdmde"),
            "okdmde+teacher": method("okdmde", {"teaching": {}}),
        },
        [
            *(("ofa", other) for other in ("kd-T1", "deep-supervision", "kd", "fitnet")),
            ("ofa-1.2", "ofa"),
            *DIFFUSION,
            *(("stkd", other) for other in ("kd", "mixup", "stkd-mixed", "stkd-wrong-classes")),
            *((name, "deep-supervision") for name in ("byot", "dks", "multilevel")),
            *((name, "label-smoothing") for name in SELF),
            ("okdmde+teacher", "kd"),
            ("okdmde+teacher", "okdmde"),
        ],
    ),
    "to_vit": Part(VIT_STUDENT, ["cnn"], heterogeneous(), HETEROGENEOUS),
    "from_vit": Part(CNN, ["vit"], heterogeneous(), HETEROGENEOUS),
    "gamma_to_vit": Part(VIT_STUDENT, ["cnn"], gammas(), reference="kd-T1-weight-1"),
    "gamma_from_vit": Part(CNN, ["vit"], gammas(), reference="kd-T1-weight-1"),
    "mixtures": Part(
        CNN,
        ["cnn"],
        {
            "baseline": method("baseline"),
            "mixup": method("baseline", MIXUP),
            **mixtures(),
            **{f"{name}-mixup-teacher": {**mixtures()[name], "teacher": "cnn_mixup"} for name in MIXUP_TEACHERS},
        },
        [
            *(("stkd", other) for other in ("mixup", "kd", "stkd-mixed", "stkd-clean", "stkd-wrong-classes")),
            *(("stkd-mixup-teacher", f"{other}-mixup-teacher") for other in ("kd", "stkd-mixed")),
            *((f"{name}-mixup-teacher", name) for name in MIXUP_TEACHERS),
        ],
    ),
    "denoising": Part(CNN_NARROW, ["cnn"], {"baseline": method("baseline"), "kd": method("kd"), **diffusion()}, DIFFUSION),
    "exits": Part(CNN, [], selves(), SUPERVISION),
    "assistants": Part(VIT_SMALL, ["vit"], assistants(), ASSISTANTS),
    "assistants_cnn": Part(CNN_SMALL, ["cnn"], assistants(), ASSISTANTS),
    "several": Part(
        CNN,
        SPECIALISTS,
        {
            "baseline": method("baseline"),
            "kd": method("kd"),
            **{name: method("rl_kd", selection=name) for name in ("uniform", "softmax_ce", "argmin_ce")},
            **{f"policy-{name}": method("rl_kd", reward=name) for name in REWARDS},
            "policy-shuffled": method("rl_kd", shuffle_state=True),
        },
        [
            *((f"policy-{name}", other) for name in REWARDS for other in ("uniform", "argmin_ce")),
            ("policy-improvement", "policy-shuffled"),
            ("argmin_ce", "uniform"),
            ("softmax_ce", "uniform"),
        ],
        data="noisy",
    ),
    "several_clean": Part(
        CNN,
        SPECIALISTS,
        {
            **{name: method("rl_kd", selection=name) for name in ("uniform", "argmin_ce")},
            "policy-improvement": method("rl_kd"),
        },
        [("argmin_ce", "uniform"), ("policy-improvement", "uniform"), ("policy-improvement", "argmin_ce")],
        reference="uniform",
    ),
}  # fmt: skip
