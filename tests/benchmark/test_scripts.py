"""Every benchmark can be begun: its imports are there, and it says what it does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.rglob("*.py") if "script_parser(__doc__" in path.read_text("utf-8"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(BENCHMARKS).as_posix())
def test_a_benchmark_says_what_it_does(path, monkeypatch, capsys):
    name = ".".join(path.relative_to(BENCHMARKS.parent).with_suffix("").parts)
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"python -m {name}" in said  # the command that a reader copies
