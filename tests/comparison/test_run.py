from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import coterie
from coterie.comparison.plan import ComparisonFolder, build_arms, keep_plan, make_plan
from coterie.comparison.run import work
from coterie.errors import CoterieError, RunError

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
    import shutil

    folder = tmp_path / "c"
    shutil.copytree(comparison[0], folder)
    before = finished(folder)
    coterie.compare(methods=["baseline", "dml"], seeds=2, output=folder, overrides=SMALL)
    assert finished(folder) == before
    result = coterie.compare(methods=["baseline"], seeds=[2], output=folder, overrides=SMALL)
    assert {path: finished(folder)[path] for path in before} == before
    # The arm that was there before takes part in the new seed as well.
    assert [run["status"] for run in result.comparison["runs"]] == ["finished"] * 6


def test_one_seed_means_the_same_start_for_student_0(comparison):
    folder, _ = comparison
    losses = []
    for label in ("baseline", "dml"):
        rows = [json.loads(line) for line in (folder / f"runs/{label}/seed0/metrics.jsonl").read_text().splitlines()]
        losses.append(next(row["losses"]["label"] for row in rows if row["split"] == "train"))
    assert losses[1] > losses[0] > 0  # two students' sum


def test_a_failing_arm_is_noted_and_the_others_go_on(tmp_path):
    arms = {"good": ["optimizer.learning_rate=0.1"], "bad": ["optimizer.learning_rate=1e30"]}
    recipes = {label: coterie.load_recipe(None, [*SMALL, "method=baseline", *more]) for label, more in arms.items()}
    with pytest.raises(RunError, match="1 run\\(s\\) failed: bad seed 0"):
        coterie.compare(recipes, seeds=1, output=tmp_path / "c")
    stored = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert [run["status"] for run in stored["runs"]] == ["finished", "failed"]
    assert "not finite" in stored["runs"][1]["error"]
    assert (tmp_path / "c" / "report.html").is_file()


def test_nothing_is_written_for_bad_input(tmp_path):
    with pytest.raises(CoterieError, match="unknown method"):
        coterie.compare(methods=["baseline", "dm"], seeds=2, output=tmp_path / "c", overrides=SMALL)
    assert not (tmp_path / "c").exists()


def test_two_processes_share_the_work(tmp_path):
    folder = tmp_path / "c"
    processes = [subprocess.Popen(command(folder), env=ENVIRONMENT, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=240)
        assert process.returncode == 0
    assert len(finished(folder)) == 4
    # Run once each: a second training in the same folder would have begun its metrics anew or twice.
    for path in folder.glob("runs/*/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert sum(row["split"] == "validation" for row in rows) == 1


def test_a_killed_process_is_replaced(tmp_path):
    folder = tmp_path / "c"
    plan = make_plan(build_arms([], ["baseline"], [*SMALL, "training.epochs=400"]), 1)
    plan = keep_plan(ComparisonFolder(folder), plan)
    (job,) = plan.jobs()
    worker = subprocess.Popen([sys.executable, "-m", "coterie.comparison.run", str(folder)], env=ENVIRONMENT)
    checkpoint = ComparisonFolder(folder).run(job) / "checkpoint" / "last.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert ComparisonFolder(folder).claim(job).is_file()
    work(ComparisonFolder(folder), plan, True)
    summary = json.loads((ComparisonFolder(folder).run(job) / "summary.json").read_text())
    assert summary["status"] == "finished"
    rows = [json.loads(line) for line in (ComparisonFolder(folder).run(job) / "metrics.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in rows if row["split"] == "validation"]
    assert epochs == list(range(400))  # it went on from the checkpoint; no epoch is missing or there twice


def test_an_interruption_can_be_gone_on_from(tmp_path):
    folder = tmp_path / "c"
    process = subprocess.Popen(
        command(folder, "training.epochs=400"),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/*/*/checkpoint/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in error
    assert not list(folder.rglob("*.claim"))


@pytest.mark.slow
def test_workers(tmp_path):
    result = coterie.compare(methods=["baseline", "dml"], seeds=2, output=tmp_path / "c", overrides=SMALL, workers=2)
    assert [run["status"] for run in result.comparison["runs"]] == ["finished"] * 4
