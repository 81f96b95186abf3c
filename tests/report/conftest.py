"""Fabricated run folders: plausible figures of a training that never took place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from coterie.metrics import classification_figures, diversity_figures, mean_figures
from coterie.metrics.notable import gallery_samples
from coterie.recipe import load_recipe
from coterie.tasks.classification import ClassEvaluation
from coterie.tasks.classification import with_classes as with_own_classes

MakeRun = Callable[..., Path]


def fabricate_logits(students: int, samples: int, classes: int, skill: float, seed: int) -> tuple[Any, Any]:
    """Logits float32 [n, N, K] whose errors are partly common to the students and fall mostly on the next class; labels [N]."""
    generator = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    common = generator.normal(size=(samples, classes))
    common[np.arange(samples), (labels + 1) % classes] += 1.2
    logits = common + 0.8 * generator.normal(size=(students, samples, classes))
    logits[:, np.arange(samples), labels] += skill
    return 1.6 * logits.astype(np.float32), labels.astype(np.int64)


def group_figures(logits: Any, labels: Any, deployed: int) -> dict[str, Any]:
    tensor, targets = torch.as_tensor(logits), torch.as_tensor(labels)
    students = [classification_figures(student, targets) for student in tensor]
    ensemble = classification_figures(tensor.softmax(-1).mean(0).log(), targets)
    figures = {
        "deployed": {"student": deployed, **students[deployed]},
        "students": students,
        "mean_student": mean_figures(students),
        "ensemble": {"mean_probability": ensemble, "mean_logit": ensemble, "method": ensemble},
        "diversity": diversity_figures(tensor, targets),
        "statistics": {},
    }
    return figures


def with_classes(figures: dict[str, Any], logits: Any, labels: Any, names: list[str]) -> dict[str, Any]:
    predicted = torch.as_tensor(logits).argmax(-1)
    return with_own_classes(ClassEvaluation(figures, predicted, torch.as_tensor(labels)), names)


def fabricate_run(
    folder: Path,
    *,
    method: str = "okdmde",
    students: int = 3,
    classes: int = 10,
    samples: int = 300,
    epochs: int = 4,
    validation: bool = True,
    status: str = "finished",
    side: int = 8,
    class_names: list[str] | None = None,
) -> Path:
    """Write a run folder with the schema of the real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    names = class_names or [f"class_{number}" for number in range(classes)]
    options: Mapping[str, Any] = {"temperature": 3.0} if method == "okdmde" else {}
    recipe = load_recipe(
        {
            "data": {"name": "digits", "validation": 0.1 if validation else 0},
            "network": {"name": "resnet8_cifar", "branches": students, "at": "layer3"},
            "method": {"name": method, **options},
            "training": {"epochs": epochs},
        }
    )
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    environment = {
        "versions": {"coterie": "0.1.0", "torch": "2.9", "timm": "1.0.20", "python": "3.12"},
        "git_commit": "0123456789abcdef",
        "platform": "Linux",
        "device": "cpu",
        "threads": 2,
        "processes": 1,
        "seed": 0,
        "command": ["coterie", "train", "data=digits", f"method={method}", "network.at=layer 3"],
    }
    (folder / "environment.json").write_text(json.dumps(environment))

    steps, rows = 20, []
    terms = ["label"] if students == 1 else ["label", "ensemble_label", "distillation", "diversity"]
    for epoch in range(epochs):
        done = (epoch + 1) / epochs
        for step in (steps // 2, steps):
            losses = {
                name: float(
                    (place + 1) * (0.2 + np.exp(-3 * (epoch + step / steps) / epochs)) + 0.02 * generator.random()
                )
                for place, name in enumerate(terms)
            }
            rate = 0.05 * (1 + np.cos(np.pi * done))
            rows.append(
                {
                    "epoch": epoch,
                    "step": epoch * steps + step,
                    "split": "train",
                    "losses": losses,
                    "learning_rate": rate,
                }
            )
        if validation:
            logits, labels = fabricate_logits(students, 120, classes, 4 * (1 - np.exp(-3 * done)), epoch)
            figures = group_figures(logits, labels, 0)
            if method == "okdmde":
                weights = np.exp(0.5 * done * np.sin(np.arange(students) + 1.7))
                weights /= weights.sum()
                entropy = float(-(weights * np.log(weights)).sum() / np.log(students))
                figures["statistics"] = {"attention": weights.tolist(), "attention_entropy": entropy}
            rows.append({"epoch": epoch, "step": (epoch + 1) * steps, "split": "validation", **figures})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    summary: dict[str, Any] = {
        "status": status,
        "method": method,
        "data": "digits",
        "network": "resnet8_cifar",
        "seed": 0,
        "epochs": epochs if status == "finished" else 2 * epochs,
        "class_names": names,
        "num_train": 1290,
        "num_validation": 143 if validation else 0,
        "num_test": samples,
    }
    if status != "finished":
        summary |= {"epoch": epochs, "step": epochs * steps}
        if status == "failed":
            summary["error"] = "the loss term 'label' was not finite at step 80"
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder
    logits, labels = fabricate_logits(students, samples, classes, 4.0, 100)
    held_out = group_figures(*fabricate_logits(students, 143, classes, 4.0, 101), 0)
    deployed = int(np.argmax([each["top1"] for each in held_out["students"]])) if validation else 0
    held_out["deployed"] = {"student": deployed, **held_out["students"][deployed]}
    summary |= {
        "split": "test",
        **with_classes(group_figures(logits, labels, deployed), logits, labels, names),
        "deployed_reason": ""
        if students == 1
        else "no other student is better"
        if validation
        else "there is no validation split to choose on",
        "train_top1": 0.9987,
        "validation": held_out if validation else None,
        "selected_epoch": epochs - 1,
        "best_validation": {"epoch": epochs - 1, "top1": 0.95} if validation else None,
        "parameters": {"trained": 193_000, "deployed": 77_754},
        "seconds": {"total": 83.2, "training": 80.1, "per_epoch": 80.1 / epochs},
        "images_per_second": 480.2,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    tensors = {
        "logits": logits.astype(np.float16),
        "ensemble": logits.mean(0).astype(np.float16),
        "labels": labels,
        "indices": np.arange(samples),
    }
    save_file(tensors, folder / "predictions.safetensors")
    (folder / "gallery").mkdir(exist_ok=True)
    for index in gallery_samples(tensors["logits"].astype(np.float32), labels, deployed):
        shape = (side, side) if side <= 8 else (side, side, 3)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(folder / "gallery" / f"{index}.png")
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    return lambda name="run", **settings: fabricate_run(tmp_path / name, **settings)
