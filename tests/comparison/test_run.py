from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import coterie
from coterie import cli
from coterie.comparison import run
from coterie.comparison.claims import claim
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.plan import build_arms, keep_plan, make_plan
from coterie.comparison.run import work
from coterie.errors import CoterieError, RunError
from coterie.run_folder import RunFolder
from coterie.running.accelerator import build_accelerator
from coterie.tasks.images.task import ImageClassification
from coterie.training.loop import Trainer

SMALL = [
    "data=digits",
    "data.train_limit=60",
    "training.epochs=1",
    "training.batch_size=32",
    "training.device=cpu",
    "network=tiny_cifar",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def finished(folder) -> dict[str, float]:
    """When each run's summary was written."""
    return {str(path.parent): path.stat().st_mtime_ns for path in sorted(folder.glob("runs/*/*/summary.json"))}


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def epochs_of(folder) -> list[int]:
    """Epochs that a run's metrics evaluate, in their order."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["epoch"] for row in rows if row["split"] == "validation"]


def command(folder, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "coterie",
        "compare",
        *SMALL,
        "--methods",
        "baseline,dml",
        "--seeds",
        "2",
        "-q",
        "-o",
        str(folder),
        *more,
    ]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A comparison of two methods and two seeds, and what it returned; read it only."""
    folder = tmp_path_factory.mktemp("comparison") / "c"
    return folder, coterie.compare(methods=["baseline", "dml"], seeds=2, output=folder, overrides=SMALL)


def test_every_arm_and_seed_is_trained_and_reported(comparison):
    folder, result = comparison
    assert result.path == folder
    stored = json.loads((folder / "comparison.json").read_text())
    assert [(run["label"], run["seed"]) for run in stored["runs"]] == [
        ("baseline", 0),
        ("dml", 0),
        ("baseline", 1),
        ("dml", 1),
    ]
    assert {run["status"] for run in stored["runs"]} == {"finished"}
    summary = json.loads((folder / "runs/dml/seed1/summary.json").read_text())
    assert stored["runs"][3]["figures"]["primary.top1"] == summary["mean_student"]["top1"]
    assert (
        stored["runs"][3]["figures"]["ensemble_mean_probability.nll"] == summary["ensemble"]["mean_probability"]["nll"]
    )
    assert stored["shared_settings"]["training.epochs"] == 1
    assert stored["arm_settings"]["dml"] == {"method.name": "dml"}
    for name in ("comparison.md", "comparison.csv", "report.html"):
        assert (folder / name).is_file()
    assert not list(folder.rglob("*.claim"))


def test_the_same_call_trains_nothing_again_and_more_seeds_only_those(comparison, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(comparison[0], folder)
    before = finished(folder)
    coterie.compare(methods=["baseline", "dml"], seeds=2, output=folder, overrides=SMALL)
    assert finished(folder) == before
    result = coterie.compare(methods=["baseline"], seeds=[2], output=folder, overrides=SMALL)
    assert {path: finished(folder)[path] for path in before} == before
    # The arm that was there before takes part in the new seed as well.
    assert [run["status"] for run in result.comparison["runs"]] == ["finished"] * 6


def test_one_seed_means_the_same_images_and_the_same_start_for_student_0(tmp_path):
    plan = make_plan(build_arms([], ["baseline", "dml", "okdmde"], SMALL), [3])
    starts, batches = [], []
    for job in plan.jobs():
        task = ImageClassification(job.recipe, build_accelerator(job.recipe))
        starts.append(task.build_method().group.student(0).state_dict())
        batches.append(next(iter(task.data.train.epoch(0))))
    for start, batch in zip(starts[1:], batches[1:], strict=True):
        assert start.keys() == starts[0].keys()
        assert all(torch.equal(start[key], starts[0][key]) for key in start)
        assert torch.equal(batch.inputs, batches[0].inputs)
        assert torch.equal(batch.targets, batches[0].targets)


def test_a_failing_arm_is_noted_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, rate in (("good", 0.1), ("bad", 1e30)):
        recipe = coterie.load_recipe(None, [*SMALL, "method=baseline", f"optimizer.learning_rate={rate}"])
        Path(f"{name}.yaml").write_text(recipe.to_yaml())
    monkeypatch.setattr(sys, "argv", ["coterie", "compare", "bad.yaml", "good.yaml", "--seeds", "1", "-o", "c"])
    for attempt in range(2):  # the second call tries the failed run again, and only that
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 1
        output, error = capsys.readouterr()
        assert "1 run(s) failed: bad:baseline seed 0; the first one: " in error
        assert error.count("run 1 of 2: bad:baseline, seed 0 failed: ") == 1
        assert ("run 2 of 2: good:baseline, seed 0: test top-1 of the network " in error) == (attempt == 0)
        assert "good:baseline" in output[output.index("top-1 %") :]  # the table of what did not fail
    stored = json.loads(Path("c/comparison.json").read_text())
    assert [run["status"] for run in stored["runs"]] == ["failed", "finished"]
    assert "not finite" in stored["runs"][0]["error"]


def test_nothing_is_written_for_bad_input(tmp_path):
    with pytest.raises(CoterieError, match="unknown method"):
        coterie.compare(methods=["baseline", "dm"], seeds=2, output=tmp_path / "c", overrides=SMALL)
    assert not (tmp_path / "c").exists()


def test_two_processes_share_the_work(tmp_path, monkeypatch, capsys):
    """Another one, and this one, which joins it as soon as it is at work."""
    folder = tmp_path / "c"
    spoken = [each for each in command(folder) if each != "-q"]
    other = subprocess.Popen(spoken, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until(lambda: list(folder.rglob("*.claim")) or finished(folder))
    monkeypatch.setattr(sys, "argv", ["coterie", *spoken[3:]])
    cli.main()
    output = [capsys.readouterr().err, other.communicate(timeout=240)[1]]
    assert other.returncode == 0, output[1]
    runs = ["run 1 of 4: baseline, seed 0", "run 2 of 4: dml, seed 0", "run 3 of 4: baseline, seed 1", "run 4 of 4: dml, seed 1"]  # fmt: skip
    told: set[str] = set()
    for said in output:
        results = [line.partition(": test top-1")[0] for line in said.splitlines() if ": test top-1" in line]
        assert len(results) == len(set(results))
        told |= set(results)  # the results of all, whoever trained them, but those that were there when it came
    assert told == set(runs)
    assert len(finished(folder)) == 4
    # A second training in the same folder would have left its rows as well.
    assert all(epochs_of(path.parent) == [0] for path in folder.glob("runs/*/*/metrics.jsonl"))


@pytest.mark.slow  # of claims of the dead: tests/comparison/test_claims.py; of killed runs: tests/training/test_kill.py
def test_a_killed_process_is_replaced(tmp_path):
    folder = tmp_path / "c"
    plan = make_plan(build_arms([], ["baseline"], [*SMALL, "training.epochs=150"]), 1)
    plan = keep_plan(ComparisonFolder(folder), plan)
    (job,) = plan.jobs()
    worker = subprocess.Popen([sys.executable, "-m", "coterie.comparison.run", str(folder)], env=ENVIRONMENT)
    until(RunFolder(ComparisonFolder(folder).run(job)).last.is_file, 120)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert ComparisonFolder(folder).claim(job).is_file()
    work(ComparisonFolder(folder), plan)
    summary = json.loads((ComparisonFolder(folder).run(job) / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert epochs_of(ComparisonFolder(folder).run(job)) == list(
        range(150)
    )  # it went on from the checkpoint; no epoch is missing or there twice


def test_an_interruption_can_be_gone_on_from(tmp_path, monkeypatch, capsys):
    folder, evaluate = tmp_path / "c", Trainer.evaluate

    def interrupted(self):
        evaluate(self)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sys, "argv", ["coterie", *command(folder, "training.epochs=3")[3:]])
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", interrupted)
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(list(folder.glob("runs/*/*/checkpoint/last.pt"))) == 1
    assert not list(folder.rglob("*.claim"))
    cli.main()
    assert len(finished(folder)) == 4


def test_a_run_of_a_comparison_is_the_run_alone(comparison, tmp_path):
    folder, _ = comparison
    coterie.train(overrides=[*SMALL, "method=dml", "seed=1"], output=tmp_path / "alone", quiet=True)
    for name in ("metrics.jsonl", "student.safetensors", "recipe.yaml"):
        assert (tmp_path / "alone" / name).read_bytes() == (folder / "runs/dml/seed1" / name).read_bytes(), name


def test_the_report_of_an_unfinished_comparison(comparison, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "c"
    shutil.copytree(comparison[0], folder)
    shutil.rmtree(folder / "runs/dml/seed1")
    (folder / "report.html").unlink()
    monkeypatch.setattr(sys, "argv", ["coterie", "report", str(folder)])
    cli.main()
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    stored = json.loads((folder / "comparison.json").read_text())
    assert stored["runs"][3]["status"] == "missing"
    assert "1 of 4 runs are not finished." in (folder / "comparison.md").read_text()


def test_one_who_lost_its_claim_leaves_the_run_and_does_it_when_it_is_free(tmp_path, monkeypatch):
    folder = ComparisonFolder(tmp_path / "c")
    plan = keep_plan(folder, make_plan(build_arms([], ["baseline"], [*SMALL, "training.epochs=60"]), 1))
    (job,) = plan.jobs()
    monkeypatch.setattr(run, "claim", functools.partial(claim, heartbeat=0.05))
    monkeypatch.setattr(run, "POLL_SECONDS", 0.05)
    left: list[dict] = []

    def other_machine() -> None:
        """Take the run over when it is under way; give it back when its first owner has let go."""
        until(RunFolder(folder.run(job)).last.is_file)
        theirs = tmp_path / "theirs"
        theirs.write_text(json.dumps({"host": "elsewhere", "pid": 1, "processes": "other", "token": "theirs"}))
        os.replace(theirs, folder.claim(job))
        until(lambda: RunFolder(folder.run(job)).read_summary()["status"] != "running")
        left.append(RunFolder(folder.run(job)).read_summary())
        folder.claim(job).unlink()

    thread = threading.Thread(target=other_machine)
    thread.start()
    work(folder, plan)
    thread.join()
    assert left[0]["status"] == "interrupted"
    assert RunFolder(folder.run(job)).read_summary()["status"] == "finished"
    assert not folder.failure(job).exists()
    assert epochs_of(folder.run(job)) == list(range(60))


def test_what_dying_worker_processes_leave_is_done_by_the_one_that_started_them(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_work_in_processes", lambda *arguments: None)
    result = coterie.compare(methods=["baseline"], seeds=1, output=tmp_path / "c", overrides=SMALL, workers=2)
    assert [each["status"] for each in result.comparison["runs"]] == ["finished"]


@pytest.mark.parametrize(
    ("peak", "free", "cores", "expected"),
    [(3, 40, 16, 9), (3, 40, 4, 4), (39, 40, 16, 1), (60, 10, 16, 1)],  # 0.9 * 40 / (3 + 1)
)
def test_workers_that_fit_a_gpu(monkeypatch, peak, free, cores, expected):
    monkeypatch.setattr(run, "_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: peak * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert run.workers_that_fit() == expected


def test_workers_that_fit_the_memory(monkeypatch):
    monkeypatch.setattr(run, "_cores", lambda: 8)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for times, expected in ((100, 8), (5.1, 3), (1, 1)):  # 0.6 of the memory
        sizes = {"SC_PHYS_PAGES": int(times * used / 4096), "SC_PAGE_SIZE": 4096}
        monkeypatch.setattr(run.os, "sysconf", sizes.__getitem__)
        assert run.workers_that_fit() == expected


@pytest.mark.slow
def test_several_processes_try_a_failing_run_once_in_all(tmp_path, capfd):
    recipe = coterie.load_recipe(None, [*SMALL, "method=baseline"])
    arms = {"bad": coterie.load_recipe(recipe, ["optimizer.learning_rate=1e30"]), "good": recipe}
    with pytest.raises(RunError, match="2 run\\(s\\) failed: bad seed 0, bad seed 1"):
        coterie.compare(arms, seeds=2, output=tmp_path / "c", workers=2, quiet=False)
    lines = capfd.readouterr().err.splitlines()
    assert sorted(line.partition(" failed: ")[0] for line in lines if " failed: " in line) == [
        "run 1 of 4: bad, seed 0",
        "run 3 of 4: bad, seed 1",
    ]
    assert len(finished(tmp_path / "c")) == 4  # a failed run has a summary as well


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_puts_the_runs_of_all_worker_processes_away(tmp_path, number, code):
    folder = tmp_path / "c"
    process = subprocess.Popen(
        command(folder, "training.epochs=2000", "--workers", "2"),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(list(folder.glob("runs/*/*/checkpoint/last.pt"))) == 2, 120)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command goes on" in error
    assert "Traceback" not in error
    summaries = [json.loads(path.read_text()) for path in folder.glob("runs/*/*/summary.json")]
    assert [summary["status"] for summary in summaries] == ["interrupted"] * 2
    assert not list(folder.rglob("*.claim"))
