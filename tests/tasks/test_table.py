from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import coterie
from coterie import tasks
from coterie.errors import CoterieError

ROOT = Path(coterie.__file__).parent


def test_every_part_of_every_task_is_there():
    for name in tasks.known_tasks():
        row = tasks.find_row(name)
        for part in ("settings", "figures", "deployed", "kind", "description", "inputs", "formats"):
            assert tasks.find_part(name, part) is not None
        assert row.line.endswith(".")


def test_a_package_adds_a_task_by_an_entry_point(monkeypatch, tmp_path):
    (tmp_path / "own_task.py").write_text(
        "from coterie.tasks import TASKS\nROW = TASKS['text_classification']._replace(line='Mine.')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))
    found = [
        EntryPoint(name, value, "coterie.tasks") for name, value in (("mine", "own_task:ROW"), ("gone", "no_such:ROW"))
    ]
    monkeypatch.setattr(tasks, "_entry_points", lambda: {each.name: each for each in found})
    assert "mine" in tasks.known_tasks()
    assert tasks.find_row("mine").line == "Mine."
    assert coterie.load_recipe(None, ["task=mine", "data.max_length=7"]).data.max_length == 7
    with pytest.raises(CoterieError, match="task=gone comes from no_such:ROW, which cannot be imported"):
        tasks.find_row("gone")
    with pytest.raises(CoterieError, match=r"unknown task 'mien' \(did you mean 'mine'"):
        tasks.find_row("mien")


def test_no_task_is_named_outside_its_wing():
    """A line about speech is nowhere else: neither a task's name nor a wing's module, but for what the package itself offers."""
    wings = [path.name for path in (ROOT / "tasks").iterdir() if path.is_dir() and path.name != "__pycache__"]
    # A task whose name is a word of the field is meant where it stands as a name.
    words = [name if "_" in name else rf"task={name}\b|[\"'`]{name}[\"'`]" for name in tasks.TASKS]
    named = re.compile("|".join([*words, *(rf"coterie\.tasks\.{wing}\b" for wing in wings)]))
    offered = {"load_transform"}  # of images, in the public interface
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted(ROOT.rglob("*"))
        if path.suffix in {".py", ".jinja"} and (ROOT / "tasks" not in path.parents or path.parent == ROOT / "tasks")
        for line in path.read_text(encoding="utf-8").splitlines()
        if named.search(line) and path != ROOT / "tasks" / "__init__.py" and not any(name in line for name in offered)
    ]
    assert not found
