"""Worker processes of a comparison: fed, replaced where they die, put away where their parent does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import coterie
from coterie.comparison import workers
from coterie.comparison.arms import build_arms
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.job import DEATHS
from coterie.comparison.plan import keep_plan, make_plan
from coterie.comparison.workers import Worker, Workers, environments
from coterie.run_folder import RunFolder

SMALL = ["data=digits", "data.train_limit=60", "training.batch_size=32", "training.device=cpu", "network=tiny_cifar"]


def until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def planned(path, *settings: str, seeds: int = 1):
    folder = ComparisonFolder(path)
    plan = keep_plan(folder, make_plan(build_arms([], ["baseline"], [*SMALL, *settings]), seeds))
    return folder, plan.jobs()


def is_finished(folder, job) -> bool:
    return RunFolder(folder.run(job)).read_summary().get("status") == "finished"


def test_each_worker_has_its_share_of_the_cores_and_one_device_in_turn(tmp_path, monkeypatch):
    _, jobs = planned(tmp_path / "c")
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr(workers, "devices", lambda: ["2", "5"])
    found = environments(jobs, 3)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["2", "5", "2"]
    assert {each["OMP_NUM_THREADS"] for each in found} == {"2"}
    _, named = planned(tmp_path / "d", "training.device=cuda:1")
    assert {each.get("CUDA_VISIBLE_DEVICES") for each in environments(named, 3)} == {
        os.environ.get("CUDA_VISIBLE_DEVICES")
    }


def test_devices_are_those_that_are_visible(monkeypatch):
    monkeypatch.setattr(workers.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(workers.torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert workers.devices() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1, 4")
    assert workers.devices() == ["GPU-1", "4"]
    monkeypatch.setattr(workers.torch.cuda, "is_available", lambda: False)
    assert workers.devices() == []


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_run_goes_on(tmp_path):
    folder, jobs = planned(tmp_path / "c", "training.epochs=120")
    group = Workers(folder, jobs, 1, lambda: None)
    killed: list[int] = []

    def kill() -> None:
        until(RunFolder(folder.run(jobs[0])).last.is_file)
        (worker,) = group.workers
        killed.append(worker.process.pid)
        worker.process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    group.run()
    thread.join()
    assert killed
    assert is_finished(folder, jobs[0])
    rows = [json.loads(line) for line in (folder.run(jobs[0]) / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["split"] == "validation"] == list(
        range(120)
    )  # none missing, none twice


def test_a_job_that_processes_die_of_has_failed_and_the_others_are_done(tmp_path, monkeypatch):
    folder, jobs = planned(tmp_path / "c", seeds=3)
    asked: list[int] = []

    class Fragile(Worker):
        """A process that dies of one job; it trains nothing."""

        def __init__(self, folder, environment) -> None:
            self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

        def do(self, number: int) -> bool:
            asked.append(number)
            if number == 1:
                self.process.kill()
            return number != 1

        def end(self) -> int:
            self.process.stdin.close()
            return self.process.wait()

    monkeypatch.setattr(workers, "Worker", Fragile)
    done: list[bool] = []
    Workers(folder, jobs, 2, lambda: done.append(True)).run()
    assert sorted(asked) == [0, *[1] * DEATHS, 2]
    assert folder.failure(jobs[1]).read_text() == "its process died 3 times (signal 9)"
    assert not folder.failure(jobs[0]).exists()
    assert done


@pytest.mark.slow
def test_a_worker_whose_parent_is_gone_puts_its_run_away(tmp_path):
    folder, jobs = planned(tmp_path / "c", "training.epochs=5000")
    worker = Worker(folder, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)})
    assert worker.process.stdin is not None
    worker.process.stdin.write("0\n")
    worker.process.stdin.flush()
    until(RunFolder(folder.run(jobs[0])).last.is_file)
    assert worker.end() == 128 + signal.SIGTERM  # its input has ended
    assert RunFolder(folder.run(jobs[0])).read_summary()["status"] == "interrupted"
    assert not folder.marker(jobs[0]).exists()


@pytest.mark.slow
def test_two_workers_give_what_one_process_gives(tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder, count in ((alone, 1), (both, 2)):
        coterie.compare(
            methods=["baseline", "dml"], seeds=1, output=folder, overrides=[*SMALL, "training.epochs=1"], workers=count
        )
    for arm in ("baseline", "dml"):
        for name in ("metrics.jsonl", "student.safetensors"):
            assert (alone / "runs" / arm / "seed0" / name).read_bytes() == (
                both / "runs" / arm / "seed0" / name
            ).read_bytes()
    assert not list(both.rglob("*.running"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2", "--cluster", "local"], "--workers 2 has no effect with --cluster"),
        (["--gpus-per-run", "0.5"], "--gpus-per-run has an effect with --cluster only"),
        (["--cpus-per-run", "2"], "--cpus-per-run has an effect with --cluster only"),
        (["--workers", "0"], "--workers 0: expected a number of at least 1, or auto"),
    ],
)
def test_options_without_effect_are_refused(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["coterie", "compare", *SMALL, "--methods", "baseline", "-o", str(tmp_path / "c"), *options]
    )
    with pytest.raises(SystemExit) as stop:
        coterie.cli.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
