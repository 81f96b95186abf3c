"""Every command and snippet of README and docs is run, in the order of its page, in a folder where its files exist."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import coterie.tasks
from coterie import cli
from coterie.benchmark import measure
from coterie.data import stdlib
from coterie.tasks.images.data import sources

ROOT = Path(__file__).parents[1]
MADE = {"_build", "results", "api"}  # by the building of the site
PAGES = [
    "README.md",
    *sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "docs").rglob("*.md")
        if path.relative_to(ROOT / "docs").parts[0] not in MADE
    ),
]
# Pages that train for more than a few seconds: what they show has quick tests of its own, or stands on a page that is left.
LONG = {
    f"docs/{name}.md"
    for name in (
        *("compare", "deploy", "index", "language", "language-trainers", "other-loops", "own-images", "restoration", "retrieval", "speech", "teachers", "text"),
        *(f"methods/{name}" for name in ("afd", "cl_ilr", "dml", "ffl", "ffsd", "kdcl", "mcl", "okddip", "okdph", "one", "pcl")),
    )
}  # fmt: skip
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Smaller, and without the network: what is tested is that the words of the page are right.
SMALLER = ["training.epochs=1", "training.device=cpu", "network.pretrained=false", "optimizer.learning_rate=0.005"]
SMALLER_IMAGES = ["data.image_size=32", "data.workers=0"]
SMALLEST = "network=tiny_cifar"  # README.md trains what is chosen by itself
# Run elsewhere: `make test` runs this test, `make demo` is test_demo, the launchers are test_processes, pip sets .venv up.
OPTIONAL = ("trl", "datasets")  # a page's code that imports them is run where they are
ELSEWHERE = ("make ", "pip install", "accelerate launch", "torchrun")


@pytest.fixture
def place(tmp_path):
    """A folder with what the pages take for granted: ./pictures and holiday.jpg."""
    root = tmp_path
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for label in ("cat", "dog"):
            folder = root / "pictures" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    Image.fromarray(rng.integers(0, 255, (50, 60, 3), dtype=np.uint8)).save(root / "holiday.jpg")
    return root


def run_command(line: str, monkeypatch, capsys, smallest: tuple[str, ...] = (SMALLEST,)) -> None:
    arguments = shlex.split(line, comments=True)
    assert arguments[0] == "coterie", line
    is_folder = any(each.removeprefix("data=").startswith("./") for each in arguments)
    if arguments[1] == "train":
        if "--resume" in arguments:  # for longer than the one epoch that there was
            arguments = [re.sub("^(training.epochs=).*", r"\g<1>2", each) for each in arguments if each != "..."]
        else:
            arguments += SMALLER + ([*SMALLER_IMAGES, *smallest] if is_folder else [])
    elif arguments[1] == "compare":
        arguments += [*SMALLER, *(SMALLER_IMAGES if is_folder else ["data.train_limit=100"])]
        if "--seeds" in arguments:  # of several seeds nothing but their number differs
            arguments[arguments.index("--seeds") + 1] = "1"
    elif arguments[1] == "benchmark":
        arguments += [SMALLEST, "data.train_limit=100"]
        monkeypatch.setattr(measure, "measure", partial(measure.measure, least=0.01))
    expanded = [str(path) for each in arguments for path in (sorted(Path().glob(each)) if "*" in each else [each])]
    monkeypatch.setattr(sys, "argv", expanded)
    cli.main()
    assert capsys.readouterr().out


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    """A quarter of the digits to train on, whichever way a page asks for them."""
    original = sources.digits

    def fewer():
        raw = original()
        return dataclasses.replace(raw, train=sources.Arrays(raw.train.images[::4], raw.train.labels[::4]))

    monkeypatch.setattr(sources, "digits", fewer)


@pytest.fixture(autouse=True)
def few_sources(monkeypatch):
    """A part of the standard library's files, whose docstrings are parsed in a second."""
    original = stdlib.stdlib_files
    monkeypatch.setattr(stdlib, "stdlib_files", lambda root=None: original(root)[::20])


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page in LONG else page for page in PAGES]
)
def test_page(page, place, monkeypatch, capsys, quick_ceiling, real_report):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(coterie.tasks, "TASKS", dict(coterie.tasks.TASKS))  # to which a page may add
    text = (ROOT / page).read_text(encoding="utf-8")
    if "runs/first" in text and page != "docs/quickstart.md":  # which trains it itself
        run_command("coterie train training.epochs=1 network.branches=2 --output runs/first", monkeypatch, capsys)
    names: dict[str, object] = {"__name__": "page"}
    for language, block in BLOCK.findall(text):
        if language == "python":
            code = compile(block, page, "exec")
            if any(f"from {each} import" in block and importlib.util.find_spec(each) is None for each in OPTIONAL):
                continue  # visible skips: tests/losses/test_in_trainers.py, test_dual_encoder.py
            first = next(iter(re.findall(r"`(\w+\.py)`", text[: text.index(block)])[-1:]), None)
            if "class " in block and first:
                Path(first).write_text(block)
            exec(code, names)
        elif language == "yaml":
            name = re.match(r"# (\S+\.yaml)", block)
            assert name, "a recipe in a page starts with its file name"
            Path(name[1]).write_text(block)
        elif language == "sh":
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith(("#", *ELSEWHERE)):
                    run_command(line, monkeypatch, capsys, () if page == "README.md" else (SMALLEST,))
        else:
            assert language in {"json", "text"}, f"{page}: nothing runs a block of {language!r}"


def test_the_recipe_reference_is_up_to_date():
    path = ROOT / "docs" / "make_recipe_reference.py"
    spec = importlib.util.spec_from_file_location("make_recipe_reference", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == module.reference()


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_run_folders_page_names_every_file_and_key(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    run_command("coterie train training.epochs=1 network.branches=2 --output runs/first", monkeypatch, capsys)
    text = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
    for path in Path("runs/first").iterdir():
        assert path.name in text, path
    for key in json.loads(Path("runs/first/summary.json").read_text()):
        assert f"`{key}`" in text, key


@pytest.mark.slow
def test_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    output = capsys.readouterr().out
    assert "OKDMDE, deployed student" in output
    assert "report.html" in output
    assert " is a " in output
