"""Compares teacher, multi-teacher and self-distillation methods and their controls on CIFAR-100, at a size for two CPU cores.

16x16 images; students train on 2,500 of them, teachers on 45,000, none of which is in the students' validation or test split. A
teacher therefore knows much that a student cannot learn from its own labels.

    python -m benchmarks.teachers.compare prepare  --root CIFAR100 --work DIR      # data sets
    python -m benchmarks.teachers.compare PART     --work DIR [--seeds 1 2 3] [--workers 2]    # its teachers (about ten minutes of a core each) and students

PART: `cnn` (CNN to CNN, and the self-distillation methods), `to_vit` (CNN to transformer), `from_vit` (transformer to CNN), `assistants` and
`assistants_cnn` (AMD), `several` (RL-KD: three specialists, and labels of which 30 % are wrong), `several_clean` (the right labels); and for the mechanisms, `mixtures` (STKD),
`denoising` (DiffKD), `gamma_to_vit` and `gamma_from_vit` (OFA), `exits` (self-distillation). Arms are in arms.py. Comparisons run in rounds of one seed for every arm; a stop leaves a
balanced table, and the same command continues. The tables are committed to benchmarks/results/teachers_PART.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fixed import fixed
from benchmarks.images.online_family import keep  # the same files of a comparison are committed
from benchmarks.shared import RESULTS, script_parser
from benchmarks.teachers.analysis import contrasts, regret, right_expert, share_assistants, tuned_gamma
from benchmarks.teachers.arms import ADAMW, EXPERTS, GAMMAS, MIXUP, PARTS, SGD, SPARSITIES, VIT, VIT_TEACHER, WEIGHTS
from benchmarks.teachers.mechanisms import denoising, divergence_on_mixtures, exit_accuracies

SIDE, TRAIN_LIMIT, WRONG_LABELS, RARE = 16, 2500, 0.3, 20
COSINE = {"name": "cosine", "warmup_epochs": 2}
TRAINING = {"epochs": 40, "batch_size": 64, "device": "cpu", "evaluate_every": 20}


def prepare(root: Path, work: Path) -> None:
    """Write the data sets of teachers and students, as .npz folders with the same validation and test images."""
    from coterie.data.splits import carve, limit
    from coterie.tasks.images.data.memory import shrink
    from coterie.tasks.images.data.raw import Arrays

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
    """Train the missing teachers; resume an interrupted one."""
    import coterie

    kinds: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
        **{f"expert{number}": (f"expert{number}", {"name": "resnet20_cifar"}, SGD, 20) for number in range(EXPERTS)},
        "cnn": ("teacher", {"name": "resnet20_cifar"}, SGD, 16),
        "cnn_mixup": ("teacher", {"name": "resnet20_cifar"}, SGD, 16),
        "vit": ("teacher", VIT_TEACHER, ADAMW, 16),
    }
    for name in wanted:
        data, network, optimizer, epochs = kinds[name]
        folder = work / "teachers" / name
        recipe = {
            "data": {
                "name": "cifar100",
                "root": str(work / "data" / data),
                **(MIXUP["data"] if "mixup" in name else {}),
            },
            "network": network,
            "method": {"name": "baseline"},
            "optimizer": optimizer,
            "schedule": COSINE,
            "training": {**TRAINING, "epochs": epochs, "batch_size": 128, "evaluate_every": 4},
        }
        result = coterie.train(fixed(recipe), output=folder, resume=(folder / "recipe.yaml").is_file(), quiet=True)
        print(f"{name}: test top-1 {result.summary['deployed']['top1']:.2%}", flush=True)


def arms(part: str, work: Path) -> dict[str, dict[str, Any]]:
    """Return complete recipes by label."""
    from coterie.methods import TABLE

    chosen, found = PARTS[part], {}
    for label, changes in chosen.arms.items():
        named = changes["method"]
        taught = TABLE[named["name"]].kind in {"teacher", "multi-teacher"} or "teaching" in changes
        names = [changes["teacher"]] if "teacher" in changes else list(chosen.teachers)
        teachers = [{"run": str(work / "teachers" / name)} for name in names]
        settings: dict[str, Any] = {
            "data": {"name": "cifar100", "root": str(work / "data" / chosen.data)},
            "network": chosen.student,
            "optimizer": ADAMW if chosen.student["name"] == VIT else SGD,
            "schedule": COSINE,
            "training": {**TRAINING, "epochs": 40},
        }
        for section, values in changes.items():
            if section not in {"method", "teaching", "teacher"}:
                settings[section] = {**settings[section], **values}
        given = ({"teacher": teachers[0]} if len(teachers) == 1 else {"teachers": teachers}) if taught else {}
        found[label] = fixed({**settings, "method": named, **given})
    return found


def said_besides(part: str, output: Path, results: Path, work: Path, seeds: list[int]) -> list[str]:
    """Return the measurements of a part beyond its table."""
    if part in {"assistants", "assistants_cnn"}:
        return regret(output, seeds, SPARSITIES)
    if part in {"gamma_to_vit", "gamma_from_vit"}:
        return tuned_gamma(results, GAMMAS, WEIGHTS)
    if part in {"several", "several_clean"}:
        return right_expert(output, work / "data" / "student", seeds, EXPERTS)
    if part == "mixtures":
        return divergence_on_mixtures(output, seeds)
    if part == "denoising":
        return denoising(output, seeds)
    return exit_accuracies(output, seeds) if part == "exits" else []


def main() -> None:
    import coterie

    parser = script_parser(__doc__, "root", "workers", "seeds")
    parser.add_argument("part", choices=["prepare", *PARTS])
    parser.add_argument("--work", type=Path, default=Path("comparisons/teachers"))
    arguments = parser.parse_args()
    if arguments.part == "prepare":
        if not (arguments.work / "data" / "student").is_dir():
            prepare(arguments.root, arguments.work)
        return
    train_teachers(arguments.work, list(PARTS[arguments.part].wanted))
    output = arguments.work / arguments.part
    chosen = arms(arguments.part, arguments.work)
    # Arms with another choice among assistants come last, since they reuse those of the arm `amd`.
    first = {label: arm for label, arm in chosen.items() if not (arm["method"]["name"] == "amd" and "selection" in arm["method"])}  # fmt: skip
    for each in (first, chosen) if len(first) < len(chosen) else (chosen,):
        if each is not first:
            others = {label: arm for label, arm in chosen.items() if label not in first}
            share_assistants(output, others, arguments.seeds)
        result = coterie.compare(
            each,
            seeds=arguments.seeds,
            output=output,
            reference=PARTS[arguments.part].reference,
            workers=arguments.workers,
        )
    folder = RESULTS / f"teachers_{arguments.part}"
    keep(result.path, folder)
    lines = contrasts(folder, PARTS[arguments.part].contrasts)
    lines += said_besides(arguments.part, output, folder, arguments.work, arguments.seeds)
    (folder / "contrasts.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
