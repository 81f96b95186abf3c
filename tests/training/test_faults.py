"""What a run does when the world around it fails: a full disk, a folder that is gone, a kill while its last files are written."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.comparison.run import compare
from coterie.errors import CoterieError, RunError
from coterie.export import export_run
from coterie.run_folder import RunFolder
from coterie.running import outcome
from coterie.training.interruption import Interrupted
from coterie.training.loop import Trainer


@pytest.fixture
def limited(command):
    """``limited(size, *arguments)`` runs the command line where no file may have more bytes than that.

    The kernel refuses files beyond a size, as a full disk does, but with another number: torch's own writer says neither.
    """

    def run(size, *arguments):
        importlib.import_module("torch._dynamo")  # its compiled modules are larger files than that
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            return command(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)

    return run


def test_a_full_disk_is_named_by_a_training(limited, tmp_path):
    path = tmp_path / "run"
    arguments = ["train", "training.epochs=1", "data.train_limit=100", "training.device=cpu", "--output", path]
    failed = limited(40_000, *arguments)
    assert failed.code == 1, failed.err
    said = failed.err.strip().splitlines()
    assert f"cannot write '{path / 'checkpoint' / 'last.pt'}': the disk is full" in said[-1]
    assert [line[:10].strip() for line in said[:-1] if line[0] != " "] == [
        *("data", "network", "method", "settings", "* chosen", "device", "run")
    ]
    assert not list(path.rglob("*.tmp"))


@pytest.mark.fast_for("timm", "safetensors")
@pytest.mark.parametrize("format", ["timm", "safetensors", "pt2", "onnx"])
def test_a_full_disk_is_named_by_an_export(small_run, limited, tmp_path, format):
    path, _ = small_run
    run = tmp_path / "run"
    shutil.copytree(path, run)
    failed = limited(9_000, "export", run, "--format", format)
    assert failed.code == 1, failed.err
    assert f"cannot write '{run / 'export' / format}': the disk is full" in failed.err
    assert len(failed.err.strip().splitlines()) == 1
    assert not list((run / "export").rglob("*"))


@pytest.mark.fast_for("True-True", "False-False")
@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_a_folder_that_is_moved_or_removed_stops_the_run(small, tmp_path, monkeypatch, moved, replaced):
    path, original, calls = tmp_path / "run", Trainer.train_batch, []

    def disturbing(self, *args):
        original(self, *args)
        calls.append(1)
        if len(calls) == 8:  # in the second epoch
            path.rename(tmp_path / "elsewhere") if moved else shutil.rmtree(path)
            if replaced:
                path.mkdir()

    monkeypatch.setattr(Trainer, "train_batch", disturbing)
    with pytest.raises(RunError, match="was moved or removed while it was trained"):
        coterie.train(small(), output=path, quiet=True)
    assert not path.exists() or not list(path.iterdir())
    monkeypatch.undo()
    if moved:  # it goes on in its new place
        assert coterie.train(output=tmp_path / "elsewhere", resume=True, quiet=True).summary["status"] == "finished"


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_gives(small, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        run = coterie.train(small(training={"epochs": 1}), output=tmp_path / "run", quiet=True)
        export_run(run.path, "timm")
        export_run(run.path, "safetensors")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in run.path.rglob("*") if path.is_file()}
    assert set(modes.values()) == {mode}, modes


class Killed(BaseException):
    """Nothing in the code may catch it, as nothing can catch a kill."""


@pytest.mark.fast_for("_save_examples")
@pytest.mark.parametrize("point", ["_save_examples", "save_file", "write_report", "write_json"])
def test_a_kill_while_the_last_files_are_written_loses_none(small, finished, tmp_path, monkeypatch, point):
    whole = finished(training={"epochs": 1}).path

    def killed(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(outcome, point, killed)
    with pytest.raises(Killed):
        coterie.train(small(training={"epochs": 1}), output=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    folder = RunFolder(tmp_path / "run")
    assert folder.read_summary()["status"] == "running"
    coterie.train(output=folder.path, resume=True, quiet=True)
    assert {path.name for path in folder.path.iterdir()} == {path.name for path in whole.iterdir()}
    first, second = load_file(whole / "student.safetensors"), load_file(folder.student)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.fast_for("student.safetensors")
@pytest.mark.parametrize("name", ["report.html", "student.safetensors", "student.json", "predictions.safetensors", "gallery"])  # fmt: skip
def test_what_a_finished_run_lacks_is_made_by_resuming_it(finished, tmp_path, real_report, name):
    run = shutil.copytree(finished(training={"epochs": 1}).path, tmp_path / "run")
    lost = run / name
    before = lost.read_bytes() if lost.is_file() else sorted(path.name for path in lost.iterdir())
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    coterie.train(output=run, resume=True, quiet=True)
    after = lost.read_bytes() if lost.is_file() else sorted(path.name for path in lost.iterdir())
    assert before == after or name == "report.html"


@pytest.mark.fast_for("the first evaluation-okdmde")
@pytest.mark.parametrize("method", ["kdcl", "okdmde"])
@pytest.mark.parametrize("during", ["the first evaluation", "the last one"])
def test_a_signal_during_an_evaluation_changes_no_row(small, finished, tmp_path, monkeypatch, method, during):
    options = {"name": method, "target": "general"} if method == "kdcl" else method
    settings, whole = small(method=options), finished(method=options)
    original, calls = Trainer.evaluate, []

    def signalled(self):
        calls.append(1)
        if len(calls) == (1 if "first" in during else 2):
            signal.raise_signal(signal.SIGTERM)
        original(self)

    monkeypatch.setattr(Trainer, "evaluate", signalled)
    with pytest.raises(Interrupted):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    coterie.train(output=tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (whole.path / "metrics.jsonl").read_text()
    again = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert again["ensemble"] == whole.summary["ensemble"]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_refused_before_training(small, tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    settings = small(training={"trackers": [name]})
    with pytest.raises(CoterieError, match=f"{name!r} is not installed: pip install {name}"):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    with pytest.raises(CoterieError, match="is not installed"):
        compare([settings], methods=["baseline"], seeds=1, output=tmp_path / "comparison")
    assert not any(tmp_path.iterdir())
