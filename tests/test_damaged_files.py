"""Every file of a finished run, damaged in every place: an error in a line that names the file, or no difference; never a raw exception."""

from __future__ import annotations

import copy
import json
import random
import shutil
import traceback
from pathlib import Path

import pytest
import torch

import coterie
import coterie.prediction
from coterie.errors import CoterieError, RunError
from coterie.running.reload import evaluate_run

SETTINGS = {
    "data": {"train_limit": 60},
    "network": {"branches": 2},
    "training": {"epochs": 2, "device": "cpu", "ema": 0.5},
    "method": "okdmde",
}
OTHERS = [None, True, -1, 0, 10**12, 0.5, "", "x", "\x1b[31m", [], [[]], ["x"], [1, 2, 3, 4], {}, {"a": 1}]
GONE = object()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "run"
    coterie.train(SETTINGS, output=path, quiet=True)
    return path


def load(path: Path) -> None:
    coterie.load_student(path)


def predict(path: Path) -> None:
    for prediction in coterie.prediction.predict(path, sorted((path / "gallery").glob("*.png"))[:2]):
        assert all(isinstance(name, str) and 0 <= value <= 1 for name, value in prediction.classes)


def evaluate(path: Path) -> None:
    evaluate_run(path)


def export(path: Path) -> None:
    coterie.export_run(path, output=path / "exported")


def export_method(path: Path) -> None:
    coterie.export_run(path, "safetensors", path / "exported", which="method")


def export_student(path: Path) -> None:
    coterie.export_run(path, "safetensors", path / "exported", which="1")


def report(path: Path) -> None:
    coterie.write_report(path)


def resume_finished(path: Path) -> None:
    coterie.train(output=path, resume=True, quiet=True)


def resume_stopped(path: Path) -> None:
    """As a kill after the last checkpoint leaves it."""
    (path / "summary.json").unlink()
    coterie.train(output=path, resume=True, quiet=True)


def teach(path: Path) -> None:
    settings = {**SETTINGS, "method": "kd", "teacher": str(path), "network": {}, "training": {"epochs": 1}}
    coterie.train(settings, output=path / "taught", quiet=True)


# What reads each file.
READERS = {
    "student.json": [load, predict, evaluate, export, export_method, export_student],
    "summary.json": [resume_finished, report, export, export_student, load],
    "data.json": [resume_stopped, evaluate],
    "environment.json": [report, export],
    "metrics.jsonl": [report, resume_stopped],
    "recipe.yaml": [report, evaluate, export_method, resume_finished],
    "student.safetensors": [load, predict, export],
    "predictions.safetensors": [report],
    "checkpoint/last.pt": [evaluate, export_method, resume_stopped],
    "checkpoint/best.pt": [resume_stopped],
}
JSON_FILES = [name for name in READERS if ".json" in name]


def attempt(action, original: Path, damaged: Path, what: str) -> str:
    """Do it to a copy; the message, empty where it went well."""
    place = damaged.parent / "tried"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(damaged, place, copy_function=shutil.copy)
    try:
        action(place)
    except (CoterieError, RunError) as error:
        message = str(error)
        assert len(message) < 600, (what, message)
        assert message.count("\n") <= 2, (what, message)
        return message
    except BaseException:
        pytest.fail(f"{what}, {action.__name__}:\n{traceback.format_exc()}")
    return ""


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Paths to everything in a JSON value; of lists the first two."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def with_replaced(value: object, path: tuple, other: object) -> object:
    if not path:
        return {} if other is GONE else other
    changed = copy.deepcopy(value)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if other is GONE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = other
    return changed


def damages(text: str, is_lines: bool) -> list[tuple[str, str]]:
    """Descriptions and contents of a JSON file with one thing wrong in each."""
    lines = text.splitlines() if is_lines else [text]
    found = []
    for number in sorted({0, len(lines) - 1}):
        value = json.loads(lines[number])
        for path in places(value):
            for other in [GONE, *OTHERS]:
                line = json.dumps(with_replaced(value, path, other))
                shown = "gone" if other is GONE else repr(other)
                found.append(
                    (f"line {number} {path} {shown}", "\n".join([*lines[:number], line, *lines[number + 1 :], ""]))
                )
    return found


def try_all(name: str, chosen: list[tuple[str, str]], actions: list, run: Path, damaged: Path) -> None:
    shutil.copytree(run, damaged)
    for what, content in chosen:
        (damaged / name).write_text(content)
        for action in actions:
            attempt(action, run, damaged, f"{name}: {what}")


def amounts(few: int):
    """A sample, and where there is time everything."""
    return pytest.mark.parametrize("amount", [few, pytest.param(10**6, marks=pytest.mark.slow)])


def some(found: list, amount: int) -> list:
    return random.Random(1).sample(found, min(amount, len(found)))


@pytest.mark.fast_for("student.json-3")
@pytest.mark.parametrize("amount", [3, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_value_that_is_missing_or_of_another_type(name, amount, run, tmp_path):
    found = damages((run / name).read_text(), name.endswith("l"))
    try_all(name, some(found, amount), READERS[name], run, tmp_path / "damaged")


@pytest.mark.slow
@pytest.mark.parametrize("name", JSON_FILES)
def test_every_value_that_is_missing_or_of_another_type(name, run, tmp_path):
    """All of them, by one reader: all readers check a file in the same place."""
    found = damages((run / name).read_text(), name.endswith("l"))
    try_all(name, found, READERS[name][:1], run, tmp_path / "damaged")


@pytest.mark.parametrize("name", ["student.json", "summary.json"])
def test_what_is_needed_is_missed_by_name(name, run, tmp_path):
    found = json.loads((run / name).read_text())
    for key in ("num_classes", "input_size") if name == "student.json" else ("students", "mean_student"):
        damaged = tmp_path / key
        shutil.copytree(run, damaged)
        (damaged / name).write_text(json.dumps({k: v for k, v in found.items() if k != key}))
        message = attempt(READERS[name][0], run, damaged, key)
        assert f"{name}' is damaged" in message
        assert key in message


@pytest.mark.fast_for("recipe.yaml-2", "student.json-2", "checkpoint/last.pt-2")
@amounts(2)
@pytest.mark.parametrize("name", READERS)
def test_files_that_are_cut_short_or_of_other_bytes(name, amount, run, tmp_path):
    content = (run / name).read_bytes()
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    others = [b"", content[: len(content) // 2], content[:-2], b"\x00" * 64, b"\xff\xfe[]", b"[" * 5000, b"null"]
    if name == "recipe.yaml":
        others.remove(b"null")  # is a recipe: the defaults
        others.remove(b"")
    for number, each in some(list(enumerate(others)), amount):
        (damaged / name).write_bytes(each)
        messages = [attempt(action, run, damaged, f"{name} {number}") for action in READERS[name]]
        if name in {"student.json", "summary.json", "student.safetensors"} and number != 2:
            assert Path(name).name in messages[0]


def of_checkpoint(state: dict) -> list[tuple[str, dict]]:
    found = []
    for path in [(), *((key,) for key in state), *((k, i) for k in ("position", "losses") for i in state[k])]:
        for other in (GONE, None, -1, "x", [], {}, torch.zeros(3, 3, 3)):
            found.append((f"{path} {other!r:.20}", with_replaced(state, path, other)))
    weight = next(iter(state["method"]))
    found += [(weight, with_replaced(state, ("method", weight), other)) for other in (GONE, None, torch.zeros(2), "x")]
    found.append(("more", {**state, "method": {**state["method"], "more": torch.zeros(1)}}))
    number = next(iter(state["optimizer"]["state"]))
    for other in (None, "x", 3, torch.zeros(2), torch.zeros(3, 3, 3)):
        found.append(
            (f"momentum {other!r:.20}", with_replaced(state, ("optimizer", "state", number, "momentum_buffer"), other))
        )
    found.append(("groups", with_replaced(state, ("optimizer", "param_groups"), [])))
    return found


@pytest.mark.fast_for("last.pt-2")
@amounts(2)
@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_checkpoints_with_parts_missing_or_of_another_kind(name, amount, run, tmp_path):
    state = torch.load(run / "checkpoint" / "last.pt", weights_only=True)
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    for what, other in some(of_checkpoint(state), amount):
        torch.save(other, damaged / "checkpoint" / name)
        for action in READERS[f"checkpoint/{name}"]:
            message = attempt(action, run, damaged, what)
            assert not message or "checkpoint" in message


@pytest.mark.parametrize("other", [torch.ones(3), torch.ones(1), 1.0, True, "1", None, [1]])
def test_a_checkpoint_of_another_format(other, run, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    state = torch.load(run / "checkpoint" / "last.pt", weights_only=True)
    torch.save({**state, "format": other}, damaged / "checkpoint" / "last.pt")
    assert "not a checkpoint of this version" in attempt(evaluate, run, damaged, "format")


@pytest.mark.parametrize("other", ["x", torch.zeros(2), torch.zeros(3, 3, 3)])
def test_an_optimizers_state_of_another_shape(other, run, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    state = torch.load(run / "checkpoint" / "last.pt", weights_only=True)
    number = next(iter(state["optimizer"]["state"]))
    state["optimizer"]["state"][number]["momentum_buffer"] = other
    torch.save(state, damaged / "checkpoint" / "last.pt")
    assert "checkpoint" in attempt(resume_stopped, run, damaged, "optimizer")


@pytest.mark.parametrize("change", [("statistics", "attention"), ("statistics", "attention", 0), ("students", 0)])
def test_evaluations_that_do_not_fit_together(change, run, tmp_path):
    """A value that is right by itself, and not beside the other rows'."""
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if json.loads(line)["split"] == "validation")
    other = [] if len(change) == 2 else GONE
    lines[last] = json.dumps(with_replaced(json.loads(lines[last]), change, other))
    (damaged / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    assert "metrics.jsonl' is damaged" in attempt(report, run, damaged, str(change))


def test_an_empty_checkpoint(run, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    (damaged / "checkpoint" / "last.pt").write_bytes(b"")
    assert "last.pt' is damaged" in attempt(evaluate, run, damaged, "empty")


@pytest.mark.parametrize("key", ["network", "num_classes", "class_names", "input_size", "options", "mean"])
def test_a_teachers_run_that_is_damaged(key, run, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    description = json.loads((run / "student.json").read_text())
    for other in (GONE, 7, "x"):
        (damaged / "student.json").write_text(json.dumps(with_replaced(description, (key,), other)))
        assert attempt(teach, run, damaged, f"{key} {other!r}")


def test_a_plan_that_is_damaged(tmp_path):
    place = tmp_path / "comparison"
    place.mkdir()
    arm = {"data": {"name": "digits"}, "method": {"name": "baseline"}}
    plan = {"reference": "a", "seeds": [0, 1], "arms": {"a": arm, "b": arm}}
    (place / "plan.json").write_text(json.dumps(plan))
    from coterie.comparison.run import write_again

    assert write_again(place).is_file()
    for what, content in damages(json.dumps(plan), False):
        (place / "plan.json").write_text(content)
        message = ""
        try:
            write_again(place)
        except CoterieError as error:
            message = str(error)
        assert not message or "is damaged" in message, what
