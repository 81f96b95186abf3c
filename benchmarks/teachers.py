"""Teacher, multi-teacher and self-distillation methods on CIFAR-100 at a size that two CPU cores manage, with the controls that decide.

16x16 images; students see 2,500 of them, teachers 45,000, none of which is in the students' validation or test split. So a
teacher knows much that a student cannot learn from its own labels.

    python benchmarks/teachers.py prepare  --root CIFAR100 --work DIR      # data sets
    python benchmarks/teachers.py PART     --work DIR [--seeds 1 2 3] [--workers 2]    # its teachers (about ten minutes of a core each) and students

PART: `cnn` (CNN to CNN, and the self-distillation methods), `to_vit` (CNN to transformer), `from_vit` (transformer to CNN), `assistants` (AMD),
`several` (three specialists, and labels of which 30 % are wrong). Comparisons in rounds of one seed for every arm; a stop leaves a
balanced table, and the same command goes on. The tables are committed to benchmarks/results/teachers_PART.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from online_family import keep  # the same files of a comparison are worth committing
from teachers_analysis import contrasts, regret, right_expert, share_assistants

SIDE, TRAIN_LIMIT, WRONG_LABELS, RARE, EXPERTS = 16, 2500, 0.3, 20, 3
SGD = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4}
ADAMW = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05}
COSINE = {"name": "cosine", "warmup_epochs": 2}
TRAINING = {"epochs": 40, "batch_size": 64, "device": "cpu", "evaluate_every": 20}
CNN = {"name": "resnet8_cifar"}
VIT = "vit_tiny_patch16_224"
VIT_STUDENT = {"name": VIT, "options": {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}}
VIT_TEACHER = {"name": VIT, "options": {"patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 6}}
VIT_SMALL = {
    "name": VIT,
    "options": {"patch_size": 4, "embed_dim": 32, "depth": 6, "num_heads": 4},
}  # 0.12 of the teacher


def prepare(root: Path, work: Path) -> None:
    """Write the data sets that teachers and students are trained on, as .npz folders with the same validation and test images."""
    from coterie.data.memory import shrink
    from coterie.data.raw import Arrays
    from coterie.data.splits import carve, limit

    loaded: dict[str, Arrays] = {}
    for split in ("train", "test"):
        with np.load(root / f"{split}.npz", allow_pickle=False) as file:
            loaded[split] = Arrays(shrink(file["images"], SIDE), file["labels"].astype(np.int64))
            classes = file["classes"]
    train, validation = carve(loaded["train"], 0.1, 0, "validation", [str(name) for name in classes])
    small = limit(train, TRAIN_LIMIT, 0)
    generator = np.random.default_rng(0)
    wrong = (small.labels + generator.integers(1, len(classes), len(small))) % len(classes)
    noisy = Arrays(small.images, np.where(generator.random(len(small)) < WRONG_LABELS, wrong, small.labels))
    sets = {"teacher": train, "student": small, "noisy": noisy}
    for number in range(EXPERTS):  # a specialist sees all images of a third of the classes, and few of the others
        rank = np.zeros(len(train), dtype=np.int64)
        for label in range(len(classes)):
            members = np.flatnonzero(train.labels == label)
            rank[members] = np.arange(len(members))
        sets[f"expert{number}"] = train.take(np.flatnonzero((train.labels % EXPERTS == number) | (rank < RARE)))
    for name, samples in sets.items():
        (work / "data" / name).mkdir(parents=True, exist_ok=True)
        for split, part in {"train": samples, "val": validation, "test": loaded["test"]}.items():
            path = work / "data" / name / f"{split}.npz"
            np.savez_compressed(path, images=part.images, labels=part.labels, classes=classes)


def train_teachers(work: Path, wanted: list[str]) -> None:
    """Train the teachers that are not there; go on with one that was interrupted."""
    import coterie

    kinds: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
        **{f"expert{number}": (f"expert{number}", {"name": "resnet20_cifar"}, SGD, 20) for number in range(EXPERTS)},
        "cnn": ("teacher", {"name": "resnet20_cifar"}, SGD, 16),
        "vit": ("teacher", VIT_TEACHER, ADAMW, 16),
    }
    for name in wanted:
        data, network, optimizer, epochs = kinds[name]
        folder = work / "teachers" / name
        recipe = {
            "data": {"name": "cifar100", "root": str(work / "data" / data)},
            "network": network,
            "method": {"name": "baseline"},
            "optimizer": optimizer,
            "schedule": COSINE,
            "training": {**TRAINING, "epochs": epochs, "batch_size": 128, "evaluate_every": 4},
        }
        result = coterie.train(recipe, output=folder, resume=(folder / "recipe.yaml").is_file(), quiet=True)
        print(f"{name}: test top-1 {result.summary['deployed']['top1']:.2%}", flush=True)


def method(name: str, more: dict[str, dict[str, Any]] | None = None, **options: Any) -> dict[str, Any]:
    """Settings of an arm: a method with its options, and sections that differ."""
    return {"method": {"name": name, **options}, **(more or {})}


def kd_1() -> dict[str, Any]:
    """KD with T = 1 and OFA's weights, which is OFA with gamma = 1 without its exits."""
    return method("kd", temperature=1.0, label_weight=1.0, distillation_weight=1.0)


def deep_supervision() -> dict[str, Any]:
    """Exits that learn from the labels, and nothing else."""
    return method("byot", distillation_weight=0.0, feature_weight=0.0)


def heterogeneous() -> dict[str, dict[str, Any]]:
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


SPARSITIES = [0.2, 0.4, 0.6, 0.8]
REWARDS = ("improvement", "instance", "label", "label_and_distillation", "validation")
TWICE = {"training": {"epochs": 80}}
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "cnn": {
        **{name: method(name) for name in ("baseline", "kd", "dkd", "dist", "fitnet", "at", "rkd", "ofa", "stkd")},
        "kd-T1": kd_1(),
        "deep-supervision": deep_supervision(),
        "ofa-1.2": method("ofa", gamma=1.2),
        "label-smoothing": method("baseline", {"training": {"label_smoothing": 0.1}}),
        "mixup": method("baseline", {"data": {"mixup": 1.0}}),
        "stkd-mixed": method("stkd", reading="mixed"),
        "stkd-wrong-classes": method("stkd", wrong_classes=True),
        "diffkd": method("diffkd"),
        "diffkd-no-matching": method("diffkd", noise_matching=False),
        "diffkd-1-step": method("diffkd", steps=1),
        "diffkd-projector": method("diffkd", denoiser="projector"),
        "diffkd-none": method("diffkd", denoiser="none"),
        **{name: method(name) for name in ("byot", "dks", "ddgsd", "frskd", "multilevel")},
        "okdmde": method("okdmde"),
        "okdmde+teacher": method("okdmde", {"teaching": {}}),
    },
    "to_vit": heterogeneous(),
    "from_vit": heterogeneous(),
    "assistants": {
        "baseline": method("baseline"),
        "baseline-twice": method("baseline", TWICE),
        "kd": method("kd"),
        "kd-twice": method("kd", TWICE),
        "amd": method("amd", sparsities=SPARSITIES),
        # The same candidates, trained once, another choice among them: every choice there is.
        **{f"amd-{name}": method("amd", sparsities=SPARSITIES, selection=name) for name in ("tradeoff", *SPARSITIES)},
    },
    "several": {
        "baseline": method("baseline"),
        "kd": method("kd"),
        **{name: method("rl_kd", selection=name) for name in ("uniform", "softmax_ce", "argmin_ce")},
        **{f"policy-{name}": method("rl_kd", reward=name) for name in REWARDS},
        "policy-shuffled": method("rl_kd", shuffle_state=True),
        "uniform-clean": method("rl_kd", {"data": {}}, selection="uniform"),
        "argmin_ce-clean": method("rl_kd", {"data": {}}, selection="argmin_ce"),
        "policy-improvement-clean": method("rl_kd", {"data": {}}),
    },
}  # fmt: skip
# What decides the claims: (arm, the control that it has to beat).
CONTRASTS = {
    "cnn": [
        *(("ofa", other) for other in ("kd-T1", "deep-supervision", "kd", "fitnet")),
        ("ofa-1.2", "ofa"),
        *(("diffkd", other) for other in ("diffkd-none", "diffkd-projector", "diffkd-no-matching", "diffkd-1-step", "kd")),
        *(("stkd", other) for other in ("kd", "mixup", "stkd-mixed", "stkd-wrong-classes")),
        *((name, "deep-supervision") for name in ("byot", "dks", "multilevel")),
        *((name, "label-smoothing") for name in ("byot", "dks", "ddgsd", "frskd", "multilevel")),
        ("okdmde+teacher", "kd"),
        ("okdmde+teacher", "okdmde"),
    ],
    "to_vit": [("ofa", "kd-T1"), ("ofa", "deep-supervision"), ("ofa-1.2", "ofa"), ("ofa-1.4", "ofa"), ("fitnet", "kd"), ("dist", "kd"), ("diffkd", "kd")],
    "from_vit": [("ofa", "kd-T1"), ("ofa", "deep-supervision"), ("ofa-1.2", "ofa"), ("ofa-1.4", "ofa"), ("fitnet", "kd"), ("dist", "kd"), ("diffkd", "kd")],
    "assistants": [
        ("kd", "baseline"),
        ("amd", "kd"),
        ("amd", "kd-twice"),
        *(("amd", f"amd-{name}") for name in ("tradeoff", *SPARSITIES)),
    ],
    "several": [
        *((f"policy-{name}", other) for name in REWARDS for other in ("uniform", "argmin_ce")),
        ("policy-improvement", "policy-shuffled"),
        ("argmin_ce", "uniform"),
        ("softmax_ce", "uniform"),
        ("argmin_ce-clean", "uniform-clean"),
        ("policy-improvement-clean", "uniform-clean"),
    ],
}  # fmt: skip
TEACHERS = {
    "cnn": ["cnn"],
    "to_vit": ["cnn"],
    "from_vit": ["vit"],
    "assistants": ["vit"],
    "several": [f"expert{number}" for number in range(EXPERTS)],
}
STUDENTS = {"cnn": CNN, "to_vit": VIT_STUDENT, "from_vit": CNN, "assistants": VIT_SMALL, "several": CNN}


def arms(part: str, work: Path) -> dict[str, dict[str, Any]]:
    """Label -> the settings of a whole recipe."""
    from coterie.methods import TABLE

    teachers = [{"run": str(work / "teachers" / name)} for name in TEACHERS[part]]
    found = {}
    for label, changes in PARTS[part].items():
        data = "noisy" if part == "several" and "data" not in changes else "student"
        taught = TABLE[changes["method"]["name"]].kind in {"teacher", "multi-teacher"} or "teaching" in changes
        transformer = STUDENTS[part]["name"] == VIT
        settings: dict[str, Any] = {
            "data": {"name": "cifar100", "root": str(work / "data" / data)},
            "network": STUDENTS[part],
            "optimizer": ADAMW if transformer else SGD,
            "schedule": COSINE,
            "training": {**TRAINING, "epochs": 40},
        }
        for section, values in changes.items():
            if section not in {"method", "teaching"}:
                settings[section] = {**settings[section], **values}
        given = ({"teacher": teachers[0]} if len(teachers) == 1 else {"teachers": teachers}) if taught else {}
        found[label] = {**settings, "method": changes["method"], **given}
    return found


def main() -> None:
    import coterie

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["prepare", *PARTS])
    parser.add_argument("--root", type=Path, default=Path("data/cifar100"), help="CIFAR-100 as train.npz and test.npz")
    parser.add_argument("--work", type=Path, default=Path("comparisons/teachers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.part == "prepare":
        if not (arguments.work / "data" / "student").is_dir():
            prepare(arguments.root, arguments.work)
        return
    train_teachers(arguments.work, TEACHERS[arguments.part])
    output = arguments.work / arguments.part
    chosen = arms(arguments.part, arguments.work)
    first = {
        label: arm
        for label, arm in chosen.items()
        if "selection" not in arm["method"] or arguments.part != "assistants"
    }
    for each in (first, chosen) if len(first) < len(chosen) else (chosen,):
        if each is not first:
            share_assistants(
                output, {label: arm for label, arm in chosen.items() if label not in first}, arguments.seeds
            )
        result = coterie.compare(
            each, seeds=arguments.seeds, output=output, reference="baseline", workers=arguments.workers
        )
    keep(result.path, Path(__file__).parent / "results" / f"teachers_{arguments.part}")
    folder = Path(__file__).parent / "results" / f"teachers_{arguments.part}"
    lines = contrasts(folder, CONTRASTS[arguments.part])
    if arguments.part == "assistants":
        lines += regret(output, arguments.seeds, SPARSITIES)
    if arguments.part == "several":
        lines += right_expert(output, arguments.work / "data" / "student", arguments.seeds, EXPERTS)
    (folder / "contrasts.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
