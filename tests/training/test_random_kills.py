"""Kills at random moments: whatever a run was at, it goes on to the very bits of an undisturbed one, and nothing of it is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

KILLS_OF_EACH = 5
# Imports once and forks for every training: starting Python and torch takes longer than these trainings. It starts no thread itself.
NURSERY = """
import json, os, signal, sys, time, traceback
import torch
torch.set_num_threads(1)
import coterie.running.train, coterie.report, sklearn.datasets, torchvision.transforms.v2
if "text" in sys.argv:
    import transformers, tokenizers
for line in sys.stdin:
    settings, output, resume, delay = json.loads(line)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            coterie.running.train.train(settings, output=output, resume=resume, quiet=True)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    status = 0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if delay is not None and time.monotonic() - started >= delay:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - started]), flush=True)
"""
SMALL = {"epochs": 4, "batch_size": 32, "log_every": 2, "device": "cpu"}
DIGITS = {"name": "digits", "train_limit": 200}


def recipe(method, training=None, data=None, network=None, **more):
    network = {"name": "tiny_cifar", "branches": 2, **(network or {})}
    return {"data": data or DIGITS, "network": network, "method": method, "training": {**SMALL, **(training or {})}, **more}  # fmt: skip


def folder_of_images(path: Path) -> str:
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for number, name in enumerate(("cat", "dog")):
            (path / split / name).mkdir(parents=True)
            for image in range(count):
                pixels = generator.integers(0, 128, (24, 24, 3)) + 127 * number
                Image.fromarray(pixels.astype(np.uint8)).save(path / split / name / f"{image}.png")
    return str(path)


def texts(path: Path) -> dict:
    place = Path(__file__).parents[1] / "tasks" / "conftest.py"
    spec = importlib.util.spec_from_file_location("text_places", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    network, films = module.save_network(path / "network"), module.save_films(path / "films.csv")
    return recipe("dml", data={"name": str(films)}, network={"name": str(network)}, task="text_classification")


CONFIGURATIONS = {
    "okdmde with a moving average": lambda path: recipe("okdmde", {"ema": 0.9}),
    "kdcl general": lambda path: recipe({"name": "kdcl", "target": "general"}),
    "amd with its first stage": lambda path: recipe(
        {"name": "amd", "sparsities": [0.5]}, {"epochs": 2}, network={"branches": None}, teacher={"run": str(path / "teacher")}
    ),
    "texts": texts,
    "a streamed folder": lambda path: recipe(
        "okdmde", data={"name": folder_of_images(path / "images"), "in_memory": False, "workers": 0, "image_size": 16}
    ),
    "a view for each student": lambda path: recipe("pcl", data={**DIGITS, "views": "per_student"}),
    "accumulated gradients": lambda path: recipe("dml", {"accumulate": 2, "checkpoint_steps": 1}),
    "the best epoch": lambda path: recipe("afd", {"select": "best"}),
}  # fmt: skip


class Nursery:
    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )

    def train(self, settings, output, resume, delay=None):
        """Exit code and seconds of one training, which is killed after ``delay`` seconds."""
        self.process.stdin.write(json.dumps([settings, str(output), resume, delay]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def nursery(request):
    started = Nursery(*(["text"] if "texts" in request.node.name else []))
    yield started
    started.process.stdin.close()
    started.process.wait()


def comparable(path: Path) -> dict:
    summary = json.loads((path / "summary.json").read_text())
    # A first stage is named by its folder, which differs between the two runs.
    for teacher in summary["teachers"]:
        teacher.pop("source", None)
    return {key: value for key, value in summary.items() if key not in {"seconds", "images_per_second"}}


def require_same(path: Path, whole: Path) -> None:
    for run in sorted(each.parent for each in whole.rglob("recipe.yaml")):
        other = path / run.relative_to(whole)
        assert comparable(other) == comparable(run)
        assert comparable(other)["status"] == "finished"
        for name in ("student.safetensors", "predictions.safetensors", "metrics.jsonl"):
            assert (other / name).read_bytes() == (run / name).read_bytes(), name

    def names(folder):
        return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))

    assert names(path) == names(whole)  # the report among them, no temporary file, no lock
    assert "report.html" in names(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_run_that_is_killed_again_and_again_ends_like_an_undisturbed_one(nursery, tmp_path, name):
    settings = CONFIGURATIONS[name](tmp_path)
    whole = tmp_path / "whole"
    if "teacher" in settings:
        alone = recipe("baseline", {"epochs": 1}, network={"name": "resnet8_cifar", "branches": None})
        assert nursery.train(alone, settings["teacher"]["run"], False)[0] == 0
    code, seconds = nursery.train(settings, whole, False)
    assert code == 0
    chance = random.Random(name)
    kills, runs, path = 0, 0, tmp_path / "run-0"
    while True:
        # Anywhere in the run, or close to its end, where its files are written.
        delay = chance.uniform(0, seconds) if chance.random() < 0.6 else chance.uniform(0.8, 1.05) * seconds
        code, _ = nursery.train(
            settings, path, (path / "recipe.yaml").is_file(), delay if kills < KILLS_OF_EACH else None
        )
        assert code in {0, -9}
        if code:
            kills += 1
            continue
        require_same(path, whole)
        runs += 1
        path = tmp_path / f"run-{runs}"
        if kills >= KILLS_OF_EACH:
            break
    print(f"{name}: {kills} kills of {runs} runs, 0 lost, 0 bits differ")
