from __future__ import annotations

import json
import re
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import coterie
from coterie.errors import RunError
from coterie.methods.online.okdmde import OKDMDE
from coterie.training.interruption import Interrupted
from coterie.training.loop import Trainer


def rows(path, split):
    return [row for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if row["split"] == split]


def weights(path):
    return load_file(path / "student.safetensors")


def assert_equal_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_run_learns_and_writes_its_folder(small, tmp_path, real_report):
    result = coterie.train(small(training={"epochs": 12}), output=tmp_path / "run", quiet=True)
    summary = json.loads((result.path / "summary.json").read_text())
    assert summary == result.summary
    assert summary["status"] == "finished"
    assert summary["deployed"]["top1"] > 0.7
    assert summary["num_train"] == 200
    assert len(summary["students"]) == 2
    assert summary["parameters"]["trained"] > summary["parameters"]["deployed"]
    names = {path.name for path in result.path.iterdir()}
    assert names == {
        "recipe.yaml", "environment.json", "metrics.jsonl", "summary.json", "predictions.safetensors", "gallery",
        "checkpoint", "student.safetensors", "student.json", "report.html", "data.json",
    }  # fmt: skip
    steps = [row["step"] for row in rows(result.path, "train")]
    assert steps == sorted(set(steps))
    assert [row["epoch"] for row in rows(result.path, "validation")] == list(range(12))
    assert set(rows(result.path, "train")[0]["losses"]) == {"label", "ensemble_label", "distillation", "diversity"}
    assert result.student().training is False


def test_two_runs_are_bit_equal_and_another_seed_is_not(small, finished, tmp_path):
    runs = [coterie.train(small(seed=seed), output=tmp_path / str(seed), quiet=True) for seed in (0, 1)]
    runs.insert(0, finished())
    assert_equal_weights(weights(runs[0].path), weights(runs[1].path))
    assert rows(runs[0].path, "train") == rows(runs[1].path, "train")
    first, other = weights(runs[0].path), weights(runs[2].path)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_global_generator_does_not_matter_and_is_left_alone(small, finished, tmp_path):
    first = finished(training={"epochs": 1})
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    second = coterie.train(small(training={"epochs": 1}), output=tmp_path / "run", quiet=True)
    assert torch.rand(1) == expected
    assert_equal_weights(weights(first.path), weights(second.path))


def test_student_0_of_every_method_starts_from_the_baselines_weights(small, tmp_path):
    from coterie.recipe import load_recipe
    from coterie.tasks.images.networks import build_method

    def student(method, **network):
        recipe = load_recipe(small(method=method, network={"branches": None, **network}))
        return build_method(recipe, 10, (1, 8, 8)).group.student(0).state_dict()

    baseline = student("baseline")
    assert_equal_weights(student("okdmde"), baseline)
    assert_equal_weights(student("independent", at="peers", branches=2), baseline)


def test_accumulated_batches_equal_one_batch_where_nothing_is_normalised_over_it(small, tmp_path):
    """tiny_cifar has BatchNorm, so a linear network stands in."""

    def network():
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
        )

    results = []
    for accumulate, batch_size in [(1, 40), (2, 20)]:
        settings = small(
            method="baseline", training={"accumulate": accumulate, "batch_size": batch_size, "log_every": 1},
            network={"name": None, "branches": None}, optimizer={"name": "sgd"},
        )  # fmt: skip
        results.append(coterie.train(settings, network=network, output=tmp_path / str(accumulate), quiet=True))
    for first, second in zip(*(weights(each.path).values() for each in results), strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)
    assert [r["step"] for r in rows(results[0].path, "train")] == [r["step"] for r in rows(results[1].path, "train")]


def test_the_step_reads_nothing_back_between_two_rows(small, tmp_path, monkeypatch):
    """A host synchronisation shows as aten._local_scalar_dense; it may occur where a row is written only."""
    recorded = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                recorded.append(function)
            return function(*args, **(kwargs or {}))

    original = Trainer.train_batch

    def watched(self, *args):
        with Watch():
            original(self, *args)

    monkeypatch.setattr(Trainer, "train_batch", watched)
    coterie.train(
        small(training={"epochs": 1, "log_every": 100, "ema": 0.9, "clip_gradient": 1.0}),
        output=tmp_path / "run",
        quiet=True,
    )
    assert recorded == []


@pytest.mark.parametrize("bad_step", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run_by_name_and_keeps_the_checkpoint(
    small, finished, tmp_path, monkeypatch, bad_step
):
    whole = finished()
    original = OKDMDE.forward
    calls = []

    def broken(self, inputs, targets, progress=None):
        losses = original(self, inputs, targets, progress)
        calls.append(1)
        if len(calls) == bad_step + 7:  # in the second epoch
            losses["distillation"] = losses["distillation"] * float("nan")
        return losses

    monkeypatch.setattr(OKDMDE, "forward", broken)
    with pytest.raises(RunError, match=rf"'distillation' was not finite at step {bad_step + 6} \(epoch 1\)"):
        coterie.train(small(), output=tmp_path / "run", quiet=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "distillation" in summary["error"]
    monkeypatch.undo()
    resumed = coterie.train(output=tmp_path / "run", resume=True, quiet=True)
    assert_equal_weights(weights(resumed.path), weights(whole.path))


OPTIONS = {"plain": {}, "all": {"ema": 0.9, "accumulate": 2, "clip_gradient": 1.0}, "best": {"select": "best"}}
# Every option and every place once: in the first epoch of six steps, at its end, in the second.
QUICK = {("all", 2), ("plain", 6), ("all", 9), ("best", 9)}


@pytest.mark.fast_for("all-9")
@pytest.mark.parametrize(
    ("options", "stop_at"),
    [
        pytest.param(name, step, marks=[] if (name, step) in QUICK else pytest.mark.slow)
        for name in OPTIONS
        for step in (2, 6, 9)
    ],
)
def test_resume_after_a_signal_is_bit_equal(small, finished, tmp_path, monkeypatch, stop_at, options):
    changes = {"epochs": 2, **OPTIONS[options]}
    settings, whole = small(training=changes), finished(training=changes)
    original = Trainer.train_batch
    calls = []

    def interrupting(self, *args):
        original(self, *args)
        calls.append(1)
        if len(calls) == stop_at:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_batch", interrupting)
    with pytest.raises(Interrupted) as stopped:
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    assert stopped.value.exit_code == 143
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    monkeypatch.undo()
    resumed = coterie.train(settings, output=tmp_path / "run", resume=True, quiet=True)
    assert_equal_weights(weights(resumed.path), weights(whole.path))
    assert rows(resumed.path, "train") == rows(whole.path, "train")
    assert rows(resumed.path, "validation") == rows(whole.path, "validation")
    timeless = [
        {k: v for k, v in each.summary.items() if "seconds" not in k and k != "images_per_second"}
        for each in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]


def test_every_epoch_is_announced_to_the_method_once(small, tmp_path, monkeypatch):
    """Before its first step and after the evaluation of the epoch before; not again where an epoch is gone on with in its midst."""
    events = []
    for owner, name in ((OKDMDE, "before_epoch"), (Trainer, "evaluate"), (Trainer, "train_batch")):
        original = getattr(owner, name)

        def noted(self, *args, original=original, name=name):
            events.append((name, *args) if name == "before_epoch" else name)
            if name == "train_batch" and events.count(name) == 8:
                signal.raise_signal(signal.SIGTERM)  # at the second step of the second epoch
            return original(self, *args)

        monkeypatch.setattr(owner, name, noted)
    settings = small(training={"epochs": 3})
    with pytest.raises(Interrupted):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    coterie.train(settings, output=tmp_path / "run", resume=True, quiet=True)
    steps = ["train_batch"] * 6
    expected = [
        ("before_epoch", 0),
        *steps,
        "evaluate",
        ("before_epoch", 1),
        *steps,
        "evaluate",
        ("before_epoch", 2),
        *steps,
        "evaluate",
    ]
    assert events == expected


def test_resume_refuses_another_recipe_and_names_the_difference(small, finished):
    path = finished(training={"epochs": 1}).path
    other = small(training={"epochs": 1}, optimizer={"momentum": 0.5})
    with pytest.raises(coterie.CoterieError, match=r"another recipe: optimizer\.momentum differs"):
        coterie.train(other, output=path, resume=True, quiet=True)


def test_the_moving_average_is_what_is_deployed(small, tmp_path):
    result = coterie.train(small(training={"epochs": 1, "ema": 0.5}), output=tmp_path / "run", quiet=True)
    state = torch.load(result.path / "checkpoint" / "last.pt", weights_only=True)
    averaged = {id(v): v for v in state["ema"].values() if v.is_floating_point()}
    student = weights(result.path)
    assert any(torch.equal(student["fc.weight"], v) for v in averaged.values())
    assert not any(torch.equal(student["fc.weight"], v) for v in state["method"].values())


def test_the_best_epoch_is_chosen_by_validation(small, tmp_path):
    settings = small(training={"epochs": 4, "select": "best"}, optimizer={"learning_rate": 0.5})
    result = coterie.train(settings, output=tmp_path / "run", quiet=True)
    scores = [row["deployed"]["top1"] for row in rows(result.path, "validation")]
    assert result.summary["selected_epoch"] == scores.index(max(scores))
    assert result.summary["validation"]["deployed"]["top1"] == pytest.approx(max(scores))


def test_without_validation_the_last_epoch_and_branch_0_are_deployed(small, tmp_path):
    result = coterie.train(small(data={"validation": 0}), output=tmp_path / "run", quiet=True)
    assert result.summary["validation"] is None
    assert result.summary["best_validation"] is None
    assert (result.summary["selected_epoch"], result.summary["deployed"]["student"]) == (1, 0)
    assert result.summary["split"] == "test"
    assert result.summary["deployed_reason"] == "there is no validation split to choose on"


def test_the_leader_is_deployed(small, tmp_path):
    result = coterie.train(small(method={"name": "okdmde", "leader": True}), output=tmp_path / "run", quiet=True)
    assert result.summary["deployed"]["student"] == 1
    assert result.summary["deployed_reason"] == "it is the method's leader"


def test_a_choice_that_validation_does_not_support_is_not_made(finished):
    summary = finished(training={"epochs": 1}).summary
    assert summary["deployed"]["student"] == 0
    expected = rf"no other student is better by more than chance on {summary['num_validation']} validation images \(standard error \d\.\d points\)"
    assert re.fullmatch(expected, summary["deployed_reason"])


def test_evaluation_again_gives_the_summarys_figures(finished):
    from coterie.running.reload import evaluate_run

    result = finished()
    split, evaluation = evaluate_run(result.path)
    assert split == "test"
    for key in ("deployed", "students", "ensemble", "diversity", "statistics"):
        assert evaluation.figures[key] == result.summary[key]


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"channels_last": False}, {"label_smoothing": 0.1}, {"class_weights": [1, 2, 3, 1, 1, 1, 1, 1, 1, 1]}, {"label_loss": "binary_cross_entropy"}])  # fmt: skip
def test_options_of_the_loop(small, finished, tmp_path, options):
    result = coterie.train(small(training={"epochs": 1, **options}), output=tmp_path / "run", quiet=True)
    assert result.summary["status"] == "finished"
    plain = finished(training={"epochs": 1})
    if "channels_last" not in options:
        assert rows(result.path, "train")[0]["losses"] != rows(plain.path, "train")[0]["losses"]


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_losses(small, finished, tmp_path, monkeypatch):
    plain, original = finished(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: original(module, backend="eager", fullgraph=True))
    compiled = coterie.train(small(training={"epochs": 2, "compile": True}), output=tmp_path / "compiled", quiet=True)
    for first, second in zip(rows(compiled.path, "train"), rows(plain.path, "train"), strict=True):
        assert first["losses"] == pytest.approx(second["losses"], rel=1e-4)


def test_trackers_receive_the_figures(small, tmp_path):
    result = coterie.train(
        small(training={"epochs": 1, "trackers": ["tensorboard"]}), output=tmp_path / "run", quiet=True
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (result.path / "coterie").glob("events*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    assert {"train/label", "learning_rate", "validation/top1", "validation/deployed_top1"} <= set(
        accumulator.Tags()["scalars"]
    )


def test_a_folder_that_holds_a_run_is_not_overwritten(small, finished):
    path = finished(training={"epochs": 1}).path
    with pytest.raises(coterie.CoterieError, match="holds another run"):
        coterie.train(small(training={"epochs": 1}), output=path, quiet=True)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, 0),
        ({"training": {"ema": 0.5}}, 0),
        ({"method": {"name": "kdcl", "target": "general"}}, 1),  # what it learned from the evaluation is measured too
    ],
)
def test_the_last_epoch_is_measured_once_on_validation(small, tmp_path, monkeypatch, changes, again):
    from coterie.tasks.images.task import ImageClassification

    original, measured = ImageClassification.evaluate, []

    def noted(self, method, loader):
        measured.append("validation" if loader is self.data.validation else "other")
        return original(self, method, loader)

    monkeypatch.setattr(ImageClassification, "evaluate", noted)
    result = coterie.train(small(**changes), output=tmp_path / "run", quiet=True)
    assert measured.count("validation") == 2 + again  # epochs
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["split"] == "validation"][-1]
    assert result.summary["validation"]["students"] == last["students"]
    assert result.summary["validation"]["deployed"] == last["deployed"]


def test_the_best_epoch_is_measured_again_where_it_is_not_the_last(small, tmp_path, monkeypatch):
    """Its figures are those that chose it, whichever epoch that is."""
    settings = small(training={"epochs": 3, "select": "best"})
    result = coterie.train(settings, output=tmp_path / "run", quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    chosen = next(
        row for row in rows if row["split"] == "validation" and row["epoch"] == result.summary["selected_epoch"]
    )
    assert result.summary["validation"]["students"] == chosen["students"]


def test_a_network_whose_predictions_are_not_finite_fails_the_run_in_words(small, tmp_path, monkeypatch):
    from coterie.tasks.images.task import ImageClassification

    original = ImageClassification.evaluate

    def diverged(self, method, loader):
        with torch.no_grad():
            method.group.classifiers[1].weight.fill_(float("nan"))
        return original(self, method, loader)

    monkeypatch.setattr(ImageClassification, "evaluate", diverged)
    with pytest.raises(RunError, match="predictions of student 1 are not finite"):
        coterie.train(small(), output=tmp_path / "run", quiet=True)


def test_images_that_are_skipped_are_counted(tmp_path):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(15):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    (tmp_path / "images" / "a" / "broken.png").write_bytes(b"nothing")
    settings = {"data": {"name": str(tmp_path / "images"), "skip_bad_images": True}, "training": {"epochs": 1, "batch_size": 8, "device": "cpu"}, "method": "baseline"}  # fmt: skip
    summary = coterie.train(settings, output=tmp_path / "run", quiet=True).summary
    assert summary["num_skipped"] == 1
    assert summary["num_train"] + summary["num_validation"] + summary["num_test"] == 30
