"""Several processes at one run folder: one trains, the others are told so; whoever is dead stands in nobody's way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import coterie
from coterie.errors import CoterieError
from coterie.export import export_run
from coterie.report import write_report
from coterie.run_folder import RunFolder
from coterie.run_lock import RunLocked, holder, lock
from coterie.running.reload import evaluate_run

HOLDING = """
import sys, time
from coterie.run_lock import lock
from coterie.run_folder import RunFolder
with lock(RunFolder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TRAIN = [sys.executable, "-m", "coterie", "train", "network.branches=2", "training.device=cpu"]


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds, and that process."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield RunFolder(tmp_path / "run"), process
    process.kill()
    process.wait()


def test_a_folder_is_held_once_and_the_message_names_the_holder(held, small):
    folder, process = held
    assert holder(folder) is not None
    assert str(process.pid) in holder(folder)
    for _ in range(2):  # a refusal changes nothing
        with pytest.raises(RunLocked, match=rf"being trained by process {process.pid} on '"), lock(folder):
            pass
    with pytest.raises(CoterieError, match=f"process {process.pid}"):
        coterie.train(small(), output=folder.path, quiet=True)
    assert sorted(os.listdir(folder.path)) == [".lock", ".lock.json"]


@pytest.mark.fast_for("9")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_the_dead_stands_in_nobodys_way(held, number, small):
    folder, process = held
    process.send_signal(number)
    process.wait()
    assert folder.lock.is_file()
    assert holder(folder) is None
    run = coterie.train(small(training={"epochs": 1}), output=folder.path, quiet=True)
    assert run.summary["status"] == "finished"
    assert not [name for name in os.listdir(folder.path) if name.startswith(".")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, CoterieError])
def test_a_lock_leaves_nothing_whatever_ends_it(tmp_path, error):
    folder = RunFolder(tmp_path / "run")
    with contextlib.suppress(error), lock(folder):
        assert holder(folder) is not None
        raise error
    assert holder(folder) is None
    assert os.listdir(folder.path) == []


def test_a_folder_that_came_in_the_place_of_a_held_one_keeps_its_lock(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with lock(folder):
        folder.path.rename(tmp_path / "elsewhere")
        folder.path.mkdir()
        folder.lock.touch()
    assert folder.lock.is_file()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CoterieError, match="cannot write to"), lock(RunFolder(tmp_path / "file" / "run")):
        pass


def until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_beside_a_training_others_are_refused_and_its_death_is_told(tmp_path):
    path = tmp_path / "run"
    training = subprocess.Popen(
        [*TRAIN, "training.epochs=2000", "--output", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )  # fmt: skip
    folder = RunFolder(path)
    try:
        until(folder.last.is_file, training)
        started = f"process {training.pid} on "
        with pytest.raises(CoterieError, match="holds another run; go on with it by --resume"):
            coterie.train(output=path, quiet=True)
        with pytest.raises(RunLocked, match=f"is being trained by {started}"):
            coterie.train(output=path, resume=True, quiet=True)
        for command in (evaluate_run, coterie.load_student, export_run):
            with pytest.raises(CoterieError, match=f"is not finished: {started}.*trains it"):
                command(path)
        assert f"Being trained by {started}" in write_report(path, tmp_path / "report.html").read_text()
        assert training.poll() is None
    finally:
        training.kill()
        training.communicate()
    assert json.loads(folder.summary.read_text())["status"] == "running"
    for command in (evaluate_run, coterie.load_student, export_run):
        with pytest.raises(CoterieError, match=r"the process that trained it is gone; go on with .*--resume"):
            command(path)
    assert "The process that trained it is gone" in write_report(path, tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_of_trainings_that_start_at_once_one_trains(tmp_path):
    path = tmp_path / "run"
    processes = [
        subprocess.Popen(
            [*TRAIN, "training.epochs=40", "--output", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        for _ in range(2)
    ]  # fmt: skip
    errors = [process.communicate()[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2], errors
    assert json.loads((path / "summary.json").read_text())["status"] == "finished"
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    validated = [row["epoch"] for row in rows if row["split"] == "validation"]
    assert validated == sorted(set(validated))
    assert not [name for name in os.listdir(path) if name.startswith(".")]
