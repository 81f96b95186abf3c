"""Wrong invocations: one or two clear lines, exit code 2 (1 for a run that failed), no traceback, nothing half-written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie import cli
from coterie.recipe import load_recipe


def images(folder: Path, count: int, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (count, 20, 20, 3), dtype=np.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders of images with one thing wrong in each, recipes, and one finished run."""
    root = tmp_path_factory.mktemp("world")
    for name in ("good", "missing-in-val", "corrupt"):
        for split, count in (("train", 12), ("val", 4)):
            for label in ("cat", "dog", "owl"):
                images(root / name / split / label, count)
    shutil.rmtree(root / "missing-in-val" / "val" / "owl")
    (root / "corrupt" / "train" / "dog" / "3.png").write_bytes(b"\x89PNG nothing")
    images(root / "one-class" / "cat", 8)
    (root / "empty").mkdir()
    (root / "no-images" / "cat").mkdir(parents=True)
    (root / "no-images" / "dog").mkdir()
    (root / "no-images" / "cat" / "a.txt").write_text("x")
    (root / "file").write_text("x")
    (root / "not-yaml.yaml").write_text("data: [digits")
    (root / "list.yaml").write_text("- data\n")
    (root / "unknown-key.yaml").write_text("data: digits\nepochs: 3\n")
    (root / "wrong-type.yaml").write_text("training: {epochs: many}\n")
    (root / "text.png").write_text("no image")
    import coterie as package

    settings = {"network": {"branches": 2}, "training": {"epochs": 1, "device": "cpu"}, "data": {"train_limit": 100}}
    package.train(settings, output=root / "run", quiet=True)
    (root / "weights.pth").write_text("some text")
    torch.save({101: torch.zeros(2)}, root / "numbers.pth")
    for name in ("no-student", "damaged", "stopped"):
        shutil.copytree(root / "run", root / name)
    (root / "no-student" / "student.safetensors").unlink()
    (root / "damaged" / "student.safetensors").write_bytes(b"12345678broken")
    for path in (root / "stopped" / "checkpoint").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    (root / "words").mkdir()
    (root / "words" / "recipe.yaml").write_text(load_recipe({"task": "language_modeling"}).to_yaml())
    summary = json.loads((root / "stopped" / "summary.json").read_text())
    (root / "stopped" / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    return root


SMALL = "training.epochs=1 training.device=cpu"
TAUGHT = "train method=kd network=tiny_cifar teacher.network=tiny_cifar "
CASES = {
    "unknown method": ("train method=okdmd", "did you mean 'okdmde'"),
    "a method's argument that another section makes": ("train method.label_loss=3", "made by training.label_loss"),
    "unknown setting of a method": ("train method.temprature=3", "did you mean 'temperature'"),
    "setting of a method out of bounds": ("train method.temperature=0", "greater than 0"),
    "unknown network": ("train network=resnet32_cifr", "did you mean 'resnet32_cifar'"),
    "network option that it does not take": ("train network.options.nonsense=1", "nonsense"),
    "unknown split point": ("train network.at=layr3", "did you mean 'layer3'"),
    "unknown data set": ("train data=digit", "did you mean 'digits'"),
    "unknown data key": ("train data.rot=here", "did you mean 'data.root'"),
    "unknown section": ("train trainng.epochs=3", "did you mean 'training'"),
    "no folder": ("train data={root}/nowhere", "nowhere"),
    "a file as folder": ("train data={root}/file", "file"),
    "empty folder": ("train data={root}/empty", "empty"),
    "no images": ("train data={root}/no-images", "no-images"),
    "one class": ("train data={root}/one-class", "one class"),
    "class missing from val": ("train data={root}/missing-in-val", "owl"),
    "corrupt image": ("train data={root}/corrupt", "3.png"),
    "negative epochs": ("train training.epochs=-3", "greater than or equal to 1"),
    "no batch": ("train training.batch_size=0", "greater than or equal to 1"),
    "absurd learning rate": ("train optimizer.learning_rate=inf", "finite"),
    "absurd validation": ("train data.validation=1.5", "less than 1"),
    "too many branches": ("train network.branches=1000", "less than or equal to 64"),
    "two students for a baseline": ("train method=baseline network.branches=2", "at most 1 student"),
    "unknown precision": ("train training.precision=int4", "'fp32', 'bf16' or 'fp16'"),
    "unknown optimizer": ("train optimizer.name=sgdd", "did you mean"),
    "unknown device": ("train training.device=tpu", "cpu, cuda or mps"),
    "class weights for other classes": ("train training.class_weights=[1,2]", "10 classes"),
    "a teacher's file that is none": (TAUGHT + "teacher.weights={root}/weights.pth", "cannot be read as weights"),
    "a teacher's file of other things": (
        TAUGHT + "teacher.weights={root}/numbers.pth",
        "it holds no named tensors",
    ),
    "a teacher's mean alone": (TAUGHT + "teacher.pretrained=true teacher.mean=[0.5]", "together with teacher.std"),
    "a teacher's mean of other channels": (
        TAUGHT + "teacher.pretrained=true teacher.mean=[0.5,0.5] teacher.std=[1,1]",
        "expected 1 value(s)",
    ),
    "mixed labels where classes are needed": ("train method=kdcl data.mixup=1 training.device=cpu", "mixup"),
    "a second stage's mistake before the first stage": (
        "train method=amd method.temperature=-1 teacher.run={root}/run training.epochs=1",
        "greater than 0",
    ),
    "two recipes": ("train a.yaml b.yaml", "one recipe"),
    "no such recipe": ("train {root}/none.yaml", "No such file"),
    "recipe that is not YAML": ("train {root}/not-yaml.yaml", "not a YAML recipe"),
    "recipe that is a list": ("train {root}/list.yaml", "not a recipe"),
    "unknown key in a recipe": ("train {root}/unknown-key.yaml", "unknown setting 'epochs'"),
    "wrong type in a recipe": ("train {root}/wrong-type.yaml", "valid integer"),
    "output holds another run": ("train --output {root}/run", "holds another run"),
    "output is not empty": ("train --output {root}/good", "not empty"),
    "output below a file": ("train --output {root}/file/run", "cannot write"),
    "resume without a folder": ("train --resume", "--output"),
    "resume what is no run": ("train --resume --output {root}/empty", "is not a run"),
    "resume with another recipe": (
        "train --resume --output {root}/stopped optimizer.learning_rate=9",
        "optimizer.learning_rate",
    ),
    "resume with a setting of the run's own task": (
        "train --resume --output {root}/words data.block_length=64",
        "with another recipe: data.block_length differs",
    ),
    "resume from a damaged checkpoint": ("train --resume --output {root}/stopped", "damaged"),
    "evaluate what is no run": ("evaluate {root}/good", "is not a run"),
    "evaluate with other networks": ("evaluate {root}/run network=resnet18", "only data.* and training.*"),
    "evaluate on other classes": ("evaluate {root}/run data={root}/good", "classes"),
    "predict without a student": ("predict {root}/no-student {root}/text.png", "no student"),
    "predict with damaged weights": ("predict {root}/damaged {root}/good/val/cat/0.png", "damaged"),
    "an image that is not there": ("predict {root}/run {root}/nothing.png", "nothing.png"),
    "unknown format": ("export {root}/run --format onxx", "did you mean 'onnx'"),
    "unknown student": ("export {root}/run --which 7", "7"),
    "ensemble as timm": ("export {root}/run --format timm --which ensemble", "timm"),
    "report on what is no run": ("report {root}/good", "is not a run"),
    "unknown command": ("trian", "did you mean 'train'?"),
    "unknown option": ("train --ouptut x", "did you mean '--output'"),
    "a setting as an option": ("train --training.epochs=3", "settings have no dashes: training.epochs="),
    "an option without its value": ("train --output", "'--output' requires an argument"),
    "a flag with a value": ("train --resume=3", "'--resume' does not take a value"),
    "missing arguments": ("predict x", "missing argument"),
    "an option's value of another type": ("predict a b --top x", "'--top'"),
    "an option's value out of bounds": ("predict a b --top 0", "greater than or equal to 1"),
    "list what is not listed": ("list method", "did you mean 'methods'"),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_invocation(name, world, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    line, message = CASES[name]
    before = sorted(path for path in world.rglob("*"))
    arguments = [part.format(root=world) for part in line.split()]
    code, _, errors = command(*arguments)
    assert code == 2, errors
    # Where only the first batch shows the mistake, what is trained has been said before.
    errors = errors[errors.index("coterie: ") :]
    lines = errors.strip().splitlines()
    assert 1 <= len(lines) <= 2, errors
    assert message in errors
    assert "Traceback" not in errors
    assert len(errors) < 600
    assert sorted(path for path in world.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_exits_with_1(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, _, errors = command("train", "optimizer.learning_rate=1e9", "schedule.name=constant", "training.epochs=3", "training.device=cpu", "--output", "run", "--quiet",
    )  # fmt: skip
    assert code == 1
    assert "was not finite at step" in errors
    assert len(errors.strip().splitlines()) <= 2
    assert json.loads(Path("run/summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_full_disk_fails_the_run_and_leaves_no_half_file(tmp_path, monkeypatch, command):
    import errno
    import os

    import torch

    monkeypatch.chdir(tmp_path)
    calls = []
    original = torch.save

    def full(state, stream):
        calls.append(1)
        if len(calls) == 2:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(state, stream)

    monkeypatch.setattr(torch, "save", full)
    code, _, errors = command("train", "training.epochs=2", "training.device=cpu", "--output", "run", "--quiet")
    assert code == 1
    assert "the disk is full" in errors
    assert [path.name for path in Path("run/checkpoint").iterdir()] == ["last.pt"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    code, _, _ = command("train", "--resume", "--output", "run", "--quiet")
    assert code == 0


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["coterie", "train", "method=nothing", "--debug"])
    with pytest.raises(coterie.CoterieError):
        cli.main()


def test_recomputed_branches_are_not_compiled(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, _, errors = command("train", "training.compile=true", "training.checkpoint_branches=true", "--output", "run")
    assert code == 2
    assert "exclude each other" in errors
    assert not Path("run").exists()


def test_a_picture_that_cannot_be_read_is_named_and_ends_with_1(world, command):
    code, _, text = command("predict", world / "run", world / "text.png")
    assert code == 1
    assert "text.png" in text
    assert len(text.splitlines()) <= 2
