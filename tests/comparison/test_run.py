from __future__ import annotations

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
from coterie.comparison import job as one_job
from coterie.comparison import run
from coterie.comparison.arms import build_arms
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.plan import keep_plan, make_plan
from coterie.errors import CoterieError, RunError
from coterie.run_folder import RunFolder
from coterie.run_lock import lock
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


def read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


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
    assert not list(folder.rglob("*.running"))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_second_call_is_told_who_is_at_work(tmp_path):
    folder = tmp_path / "c"
    other = subprocess.Popen(
        command(folder, "training.epochs=2000"), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: list(folder.glob("runs/*/*/recipe.yaml")), 120)
        with pytest.raises(CoterieError, match=f"c' is being trained by process {other.pid} on "):
            coterie.compare(methods=["baseline"], seeds=1, output=folder, overrides=SMALL)
    finally:
        other.kill()
        other.wait()


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_waited_for(tmp_path, monkeypatch, capsys):
    folder = ComparisonFolder(tmp_path / "c")
    plan = keep_plan(folder, make_plan(build_arms([], ["baseline"], SMALL), 1))
    (first,) = plan.jobs()
    monkeypatch.setattr(one_job, "POLL_SECONDS", 0.05)
    held = lock(RunFolder(folder.run(first)))
    held.__enter__()
    said: list[str] = []

    def let_go() -> None:
        until(lambda: "is being trained by" in (said.append(read(folder.marker(first))) or said[-1]))
        held.__exit__(None, None, None)

    thread = threading.Thread(target=let_go)
    thread.start()
    result = coterie.compare(methods=["baseline"], seeds=1, output=folder.path, overrides=SMALL)
    thread.join()
    assert [each["status"] for each in result.comparison["runs"]] == ["finished"]


@pytest.mark.slow
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
    assert not list(folder.rglob("*.running"))
    cli.main()
    assert len(finished(folder)) == 4


def test_a_run_of_a_comparison_is_the_run_alone(comparison, tmp_path):
    folder, _ = comparison
    coterie.train(overrides=[*SMALL, "method=dml", "seed=1"], output=tmp_path / "alone", quiet=True)
    for name in ("metrics.jsonl", "student.safetensors", "recipe.yaml"):
        assert (tmp_path / "alone" / name).read_bytes() == (folder / "runs/dml/seed1" / name).read_bytes(), name


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("peak", "free", "cards", "cores", "expected"),
    [
        (3, 40, 1, 16, 9),
        (3, 40, 1, 4, 4),
        (39, 40, 1, 16, 1),
        (60, 10, 1, 16, 1),
        (7, 40, 2, 16, 8),
    ],  # 0.9 * 40 / (3 + 1)
)
def test_workers_that_fit_gpus(monkeypatch, peak, free, cards, cores, expected):
    monkeypatch.setattr(run, "cores", lambda: cores)
    monkeypatch.setattr(run, "devices", lambda: ["0"] * cards)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: peak * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert run.workers_that_fit() == expected


def test_workers_that_fit_the_memory(monkeypatch):
    monkeypatch.setattr(run, "cores", lambda: 8)
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
    assert not list(folder.rglob("*.running"))
