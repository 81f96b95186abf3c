"""What tests of several packages share: a finished run that took no training, so that it costs a fraction of a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import coterie
from coterie.benchmark import measure
from coterie.files import write_json, write_text
from coterie.methods.method import Method
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.running import outcome
from coterie.student import save_student
from coterie.tasks.images.networks import build_method, network_options
from coterie.training.checkpoint import save_checkpoint

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the Hub, nor waits for its absence


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items):
    """Of a test marked ``fast_for(*ids)`` the other cases are slow; an id that no case has any more is an error."""
    cases = {}
    for item in items:
        if mark := item.get_closest_marker("fast_for"):
            cases.setdefault((item.path, item.originalname), (set(mark.args), set()))[1].add(item.callspec.id)
            if item.callspec.id not in mark.args:
                item.add_marker(pytest.mark.slow)
    asked = any("::" in argument and "[" in argument for argument in sys.argv)  # one case alone is no evidence
    for (path, name), (named, there) in cases.items():
        if not asked and named - there:
            raise pytest.UsageError(f"{path}::{name} is fast_for {sorted(named - there)}, which no case is called")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache folder of the test's own, so that no test writes to the home folder."""
    folder = (
        tmp_path_factory.getbasetemp() / "caches" / uuid.uuid4().hex
    )  # a counted name would list all others each time
    folder.mkdir(parents=True)
    monkeypatch.setenv("COTERIE_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def forgets_modules(tmp_path_factory):
    """A module that a test wrote itself is unknown to the next, which may write another of the same name."""
    before = len(sys.modules)
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in list(sys.modules)[before - len(sys.modules) :] if len(sys.modules) > before else ():
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(written):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def seed():
    """The same random numbers in every test, whatever ran before it: a failure can be repeated."""
    torch.default_generator.manual_seed(0)


@pytest.fixture
def real_report():
    """For a test that needs the report itself, see :func:`short_report`."""


@pytest.fixture(autouse=True)
def short_report(request):
    """A line in place of the report, which takes as long as all the rest of a training here and is tested in tests/report.

    By a patch of its own: a test that undoes its patches keeps this one.
    """

    def write(path: Path, *_: Any, **__: Any) -> None:
        RunFolder(path).report.write_text("a report")

    with pytest.MonkeyPatch.context() as patch:
        if "real_report" not in request.fixturenames:
            patch.setattr(outcome, "write_report", write)
        yield


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(4, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.flatten(self.pool(self.act(self.stem(images)))))


@pytest.fixture
def own_network():
    """Builds a network that timm does not know: images [B, 3, H, W] to 5 classes."""
    return Own


FIGURES = {"top1": 0.75, "top5": 0.95, "nll": 0.9, "brier": 0.4, "ece": 0.05}


def make_run(
    path: Path,
    network: str | None = "tiny_cifar",
    input_size: tuple[int, int, int] = (3, 32, 32),
    branches: int = 2,
    at: str | None = None,
    method: str = "okdmde",
    num_classes: int = 5,
    gallery: bool = True,
    own: nn.Module | None = None,
) -> Method:
    """Write a run folder as `coterie train` leaves it, with weights that no method's start would explain; return its method."""
    torch.manual_seed(0)
    folder = RunFolder(path)
    settings = {"name": network, "branches": branches, **({"at": at} if at else {})}
    recipe = load_recipe({"data": "/home/someone/pictures", "network": settings, "method": method})
    built = build_method(recipe, num_classes, input_size, own)
    with torch.no_grad():  # BatchNorm's statistics move, and no module is at its initial values
        built.train()
        for _ in range(2):
            built(torch.randn(8, *input_size), torch.arange(8) % num_classes)
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    built.deployed_student = branches - 1
    built.eval()
    folder.last.parent.mkdir(parents=True)
    write_text(folder.recipe, recipe.to_yaml())
    save_checkpoint(folder.last, {"method": built.state_dict(), "ema": None})
    channels, height, width = input_size
    description = {
        "network": network,
        "options": network_options(recipe, network, input_size) if network else {},
        "num_classes": num_classes,
        "class_names": [f"class {number}" for number in range(num_classes)],
        "input_size": list(input_size),
        "mean": [0.5, 0.4, 0.3, 0.2][:channels],
        "std": [0.2, 0.25, 0.3, 0.2][:channels],
        "interpolation": "bilinear",
        "crop": 1.0,
        "method": method,
        "data": "pictures",
        "student": built.deployed_student,
        "figures": FIGURES,
    }
    save_student(folder, built.student(), description)
    students = [{**FIGURES, "top1": 0.5 + 0.01 * number} for number in range(branches)]
    ensembles = {"mean_probability": {**FIGURES, "top1": 0.81}, "method": {**FIGURES, "top1": 0.82}}
    header = {"status": "finished", "seed": 0, "epochs": 3, "split": "test", "num_train": 100, "num_test": 20}
    write_json(
        folder.summary,
        {**header, "students": students, "mean_student": FIGURES, "ensemble": ensembles, "seconds": {"training": 7.0}},
    )
    write_json(folder.environment, {"versions": {"coterie": "0.1.0", "torch": "2.9"}, "command": ["/home/someone/x"]})
    if gallery:
        folder.gallery.mkdir()
        generator = np.random.default_rng(0)
        for index in range(4):
            pixels = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
            Image.fromarray(pixels.squeeze()).save(folder.gallery / f"{index}.png")
    return built


@pytest.fixture(scope="session")
def run_maker():
    """:func:`make_run`."""
    return make_run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A finished run of two tiny_cifar branches, and its method: read it, do not write into it."""
    path = tmp_path_factory.mktemp("small") / "run"
    return path, make_run(path)


class Said(NamedTuple):
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def quick_ceiling():
    """The machine's ceiling by small matrices, in a moment; for tests of a benchmark that do not look at it closely."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "ceiling", partial(measure.ceiling, side=512))
        yield


@pytest.fixture
def command(monkeypatch, capsys):
    """``command("train", "data=digits", ...)`` runs the command line in this process."""
    from coterie import cli

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["coterie", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return Said(code, *capsys.readouterr())

    return run


# Two branches of a tiny network on a few hundred digits: about half a second an epoch.
SMALL: dict[str, Any] = {
    "data": {"name": "digits", "train_limit": 200},
    "network": {"name": "tiny_cifar", "branches": 2},
    "training": {"epochs": 2, "batch_size": 32, "log_every": 3, "device": "cpu"},
}


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(tree)
    for key, value in changes.items():
        result[key] = (
            merged(result[key], value) if isinstance(result.get(key), dict) and isinstance(value, dict) else value
        )
    return result


@pytest.fixture
def small():
    """Settings of a small run; ``small(training={"epochs": 3})`` changes some."""
    return lambda **changes: merged(SMALL, changes)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """``finished(training={"epochs": 3})`` is the finished run of these settings of :func:`small`, trained once: read it, do not write into it."""
    runs: dict[str, Any] = {}

    def run(**changes: Any) -> Any:
        key = json.dumps(changes, sort_keys=True)
        if key not in runs:
            path = tmp_path_factory.mktemp("finished") / "run"
            runs[key] = coterie.train(merged(SMALL, changes), output=path, quiet=True)
        return runs[key]

    return run


TRAIN = """
import json, sys, coterie
coterie.train(json.loads(sys.argv[1]), output=sys.argv[2], quiet=True)
"""


@pytest.fixture
def run_processes(tmp_path):
    """Runs a script in one process, or in several that torch launches, and fails with what it printed."""

    def run(count: int, code: str, *arguments: object) -> None:
        script = tmp_path / "script.py"
        script.write_text(code)
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        command = [sys.executable, *(several if count > 1 else []), str(script), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)
        assert found.returncode == 0, found.stdout + found.stderr

    return run


@pytest.fixture
def by_one_and_two(tmp_path, run_processes):
    """Trains a recipe in one process and in two, asserts that their students are equal, and returns the two run folders."""

    def train(recipe: dict[str, object], before: str = "") -> list[Path]:
        folders = [tmp_path / "one", tmp_path / "two"]
        for count, folder in enumerate(folders, 1):
            run_processes(count, before + TRAIN, json.dumps(recipe), folder)
        first, second = (load_file(folder / "student.safetensors") for folder in folders)
        assert first.keys() == second.keys()
        for key in first:
            torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=1e-4)
        return folders

    return train
