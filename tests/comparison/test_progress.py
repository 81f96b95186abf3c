from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

import coterie
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.plan import make_plan
from coterie.comparison.progress import ComparisonDisplay, State, seconds_left, state_of

FIGURES = {"top1": 0.5, "top5": 0.9, "nll": 1.0, "brier": 0.5, "ece": 0.1}


def group(top1: float):
    figures = {**FIGURES, "top1": top1}
    return {
        "students": [figures] * 2,
        "mean_student": figures,
        "deployed": {"student": 0, **figures},
        "ensemble": dict.fromkeys(("mean_probability", "mean_logit", "method"), figures),
        "diversity": {},
    }


class Place:
    """A comparison's folder whose runs are written by the test."""

    def __init__(self, path):
        recipe = coterie.load_recipe(None)
        self.plan = make_plan({"a": recipe, "b[bold]": recipe}, 2)
        self.folder, self.jobs = ComparisonFolder(path), self.plan.jobs()

    def begin(self, number, epochs_done=0):
        run = self.folder.run(self.jobs[number])
        run.mkdir(parents=True, exist_ok=True)
        self.folder.marker(self.jobs[number]).touch()
        (run / "summary.json").write_text(json.dumps({"status": "running", "epochs": 10, "leader": None}))
        rows = [
            {"split": "train", "epoch": 0, "step": 1, "losses": {"label": 1.0}},
            *({"split": "validation", "epoch": each, "step": each, **group(0.4 + each / 100)} for each in range(epochs_done)),
        ]  # fmt: skip
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"split": "vali')

    def finish(self, number, seconds, top1=0.7, notes=()):
        job = self.jobs[number]
        run = self.folder.run(job)
        run.mkdir(parents=True, exist_ok=True)
        known = {"method": "okdmde", "data": "digits", "network": "tiny", "split_point": None, "split": "test"}
        counts = {"epochs": 10, "num_train": 10, "num_validation": 0, "num_test": 10, "leader": None}
        rest = {"statistics": {}, "validation": None, "train_top1": 1.0, "parameters": {"trained": 1, "deployed": 1}}
        took = {"total": seconds, "training": seconds / 2, "per_epoch": 1.0}
        summary = {"status": "finished", **known, **counts, **rest, **group(top1), "seconds": took}
        (run / "summary.json").write_text(json.dumps({**summary, "data_notes": list(notes)}))
        self.folder.marker(job).unlink(missing_ok=True)

    def fail(self, number, reason):
        self.folder.runs(self.jobs[number].label).mkdir(parents=True, exist_ok=True)
        self.folder.failure(self.jobs[number]).write_text(reason)
        self.folder.marker(self.jobs[number]).unlink(missing_ok=True)

    def display(self, terminal=False):
        display = ComparisonDisplay(self.folder, self.plan, quiet=False)
        file = io.StringIO()
        display.console = Console(file=file, width=100, force_terminal=terminal, color_system=None, _environ={})
        return display, file


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "c")


def test_how_far_a_run_is(place):
    assert state_of(place.folder, place.jobs[0]) == State("waiting")
    place.begin(0)
    assert state_of(place.folder, place.jobs[0]) == State("running", (0, 10))
    place.begin(0, epochs_done=3)
    expected = State("running", (3, 10), said="validation 42.00% (the mean student)")
    assert state_of(place.folder, place.jobs[0]) == expected
    place.finish(0, 12.0)
    finished = State("finished", seconds=12.0, said="test top-1 of the mean student 70.00%")
    assert state_of(place.folder, place.jobs[0]) == finished
    place.fail(1, "no memory")
    assert state_of(place.folder, place.jobs[1]) == State("failed", said="no memory")


@pytest.mark.parametrize("damage", ['{"status": "finished"}', "{", '{"status": 3}'])
def test_a_damaged_run_is_not_there_yet(place, damage):
    place.begin(0)
    (place.folder.run(place.jobs[0]) / "summary.json").write_text(damage)
    assert state_of(place.folder, place.jobs[0]).status == "running"


def test_the_time_left_is_that_of_the_same_arm(place):
    waiting = State("waiting")
    assert seconds_left(place.jobs, [waiting] * 4) is None
    # Jobs: a0, b0, a1, b1.
    took = [State("finished", seconds=10.0), State("finished", seconds=40.0), waiting, waiting]
    assert seconds_left(place.jobs, took) == 50
    half = State("running", (5, 10))
    assert seconds_left(place.jobs, [*took[:2], half, waiting]) == 5 + 40
    assert seconds_left(place.jobs, [*took[:2], half, half]) == (5 + 20) / 2  # two at once
    assert seconds_left(place.jobs, [took[0], waiting, waiting, State("failed")]) == 20
    assert seconds_left(place.jobs, [took[0], waiting, waiting, waiting]) == 30


def test_every_run_has_its_lines(place):
    display, file = place.display()
    place.begin(0)
    display.look()
    place.finish(0, 12.0, notes=["two images are one"])
    place.begin(1)
    display.look()
    place.fail(1, "no\nmemory")
    place.finish(2, 8.0, notes=["two images are one"])
    display.look()
    place.finish(3, 8.0)
    display.look()
    assert file.getvalue().splitlines() == [
        "run 1 of 4: a, seed 0",
        "run 1 of 4: a, seed 0: test top-1 of the mean student 70.00%, 12 s; 3 to go, about 36 s",
        "two images are one",
        "run 2 of 4: b[bold], seed 0",
        r"run 2 of 4: b[bold], seed 0 failed: no\nmemory",
        "run 3 of 4: a, seed 1: test top-1 of the mean student 70.00%, 8 s; 1 to go, about 10 s",
        "run 4 of 4: b[bold], seed 1: test top-1 of the mean student 70.00%, 8 s; all done",
    ]


def test_a_terminal_shows_what_is_in_progress(place):
    display, file = place.display(terminal=True)
    place.finish(0, 12.0)
    place.begin(1, epochs_done=2)
    place.begin(2)
    display.states = display._read()
    display.console.print(display._picture())
    lines = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert lines[0] == "run 2 of 4: b[bold], seed 0 epoch 3/10 validation 41.00% (the mean student)"
    assert lines[1] == "run 3 of 4: a, seed 1 epoch 1/10"
    assert lines[2].startswith("runs 1/4 ━")
    assert lines[2].endswith("3 to go, about 17 s")


def test_a_quiet_one_says_nothing(place, capsys):
    with ComparisonDisplay(place.folder, place.plan, quiet=True):
        place.finish(0, 1.0)
    assert capsys.readouterr() == ("", "")


def test_what_ends_between_two_looks_is_said_at_the_end(place, capsys):
    place.finish(3, 1.0)
    with ComparisonDisplay(place.folder, place.plan, quiet=False):
        place.finish(0, 1.0)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "4 runs, 1 of them done before"
    assert said[1].startswith("run 1 of 4: a, seed 0: test top-1")
