from __future__ import annotations

import json

import pytest

from coterie.comparison.arms import build_arms
from coterie.comparison.collect import collect, flat_figures
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.plan import keep_plan, make_plan

KEYS = ("top1", "top5", "nll", "brier", "ece")


def figures(value: float) -> dict[str, float]:
    return dict.fromkeys(KEYS, value)


def summary_of(leader: int | None = None, validation: bool = True) -> dict:
    """A finished run's summary, each of its figures a number of its own."""

    def evaluation(offset: float) -> dict:
        return {
            "students": [figures(offset + 0.1), figures(offset + 0.2)],
            "mean_student": figures(offset + 0.15),
            "deployed": {"student": 1, **figures(offset + 0.2)},
            "ensemble": {
                "mean_probability": figures(offset + 0.3),
                "mean_logit": figures(offset + 0.31),
                "method": figures(offset + 0.32),
            },
            "diversity": {"distance": 0.4, "disagreement": 0.41, "kl": 0.42, "double_fault": 0.43},
            "statistics": {},
        }

    return {
        "status": "finished",
        "method": "dml",
        "data": "digits",
        "network": "tiny_cifar",
        "split_point": None,
        "epochs": 2,
        "split": "test",
        "num_train": 60,
        "num_validation": 6,
        "num_test": 9,
        "leader": leader,
        **evaluation(0.0),
        "validation": evaluation(0.5) if validation else None,
        "train_top1": 0.9,
        "seconds": {"per_epoch": 1.5},
        "parameters": {"trained": 20, "deployed": 10},
    }


@pytest.fixture
def folder(tmp_path):
    """A comparison of two arms and two seeds in which nothing was trained yet."""
    found = ComparisonFolder(tmp_path / "c")
    arms = build_arms([], ["baseline", "dml"], ["data.root=/somewhere"])
    keep_plan(found, make_plan(arms, 2))
    return found


def write_run(folder, label, seed, summary, rows=()):
    place = folder.runs(label) / f"seed{seed}"
    place.mkdir(parents=True)
    (place / "summary.json").write_text(json.dumps(summary))
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_primary_is_the_mean_student_or_the_leader():
    recipe = build_arms([], ["dml"])["dml"]
    mean = flat_figures(summary_of(), recipe)
    assert mean["primary.top1"] == mean["mean_student.top1"] == 0.15
    assert mean["validation.primary.top1"] == 0.65
    led = flat_figures(summary_of(leader=0), recipe)
    assert led["primary.nll"] == 0.1
    assert led["validation.primary.nll"] == 0.6
    assert led["mean_student.nll"] == 0.15


def test_flat_figures_by_their_names():
    found = flat_figures(summary_of(), build_arms([], ["dml"])["dml"])
    assert found["deployed.ece"] == 0.2
    assert found["ensemble_mean_probability.top1"] == 0.3
    assert found["ensemble_mean_logit.brier"] == 0.31
    assert found["ensemble_method.top5"] == 0.32
    assert found["validation.ensemble_method.nll"] == pytest.approx(0.82)
    assert found["diversity.double_fault"] == 0.43
    assert (found["train_top1"], found["seconds_per_epoch"]) == (0.9, 1.5)
    assert (found["parameters.trained"], found["parameters.deployed"]) == (20, 10)
    assert "attention_entropy" not in found


def test_without_a_validation_split_there_are_no_figures_of_one():
    found = flat_figures(summary_of(validation=False), build_arms([], ["dml"])["dml"])
    assert not [name for name in found if name.startswith("validation")]
    assert found["primary.top1"] == 0.15


def test_every_planned_run_is_there_with_how_far_it_got(folder):
    write_run(folder, "baseline", 0, summary_of())
    write_run(folder, "dml", 0, {"status": "interrupted"})
    write_run(folder, "baseline", 1, {"status": "failed", "error": "the loss is not finite"})
    folder.runs("dml").joinpath("seed1.error").write_text("no space left\n")
    found = collect(folder)
    assert [(run["label"], run["seed"], run["status"], run.get("error")) for run in found["runs"]] == [
        ("baseline", 0, "finished", None),
        ("dml", 0, "interrupted", None),
        ("baseline", 1, "failed", "the loss is not finite"),
        ("dml", 1, "failed", "no space left"),
    ]
    assert [bool(run["figures"]) for run in found["runs"]] == [True, False, False, False]
    assert json.loads(folder.comparison.read_text()) == json.loads(json.dumps(found))
    assert found["title"] == "digits, tiny_cifar, 60 training samples, 2 epochs"


def test_curves_are_one_point_an_epoch(folder):
    def train(epoch, step, loss):
        return {"split": "train", "epoch": epoch, "step": step, "losses": {"label": loss, "mutual": 0.5}}

    def validation(epoch, top1):
        def figures(value):
            return {"top1": value, "top5": 1.0, "nll": 1.0, "brier": 0.5, "ece": 0.1}

        ensemble = dict.fromkeys(("mean_probability", "mean_logit", "method"), figures(top1 + 0.1))
        evaluated = {"students": [figures(top1)], "deployed": {"student": 0, **figures(top1)}, "diversity": {}}
        evaluated |= {"mean_student": figures(top1), "ensemble": ensemble}
        return {"split": "validation", "epoch": epoch, "step": 1, **evaluated}

    rows = [train(0, 1, 3.0), train(0, 2, 2.0), validation(0, 0.2), train(1, 3, 1.0), validation(1, 0.4)]
    write_run(folder, "dml", 0, summary_of(), rows)
    (run,) = [run for run in collect(folder)["runs"] if run["status"] == "finished"]
    assert run["curves"] == {
        "epoch": [1, 2],
        "mean_student_top1": [0.2, 0.4],
        "ensemble_top1": [pytest.approx(0.3), 0.5],
        "train_epoch": [1, 2],
        "train_loss": [2.5, 1.5],
    }


def test_settings_that_all_share_and_those_that_differ(folder):
    found = collect(folder)
    assert found["arm_settings"] == {"baseline": {"method.name": "baseline"}, "dml": {"method.name": "dml"}}
    assert found["shared_settings"]["data.name"] == "digits"
    assert not {"seed", "data.root"} & found["shared_settings"].keys()  # no place on anybody's disk


def test_what_another_machine_added_to_the_plan_is_collected_too(folder):
    collect(folder)
    keep_plan(folder, make_plan(build_arms([], ["one"]), [5]))
    assert {(run["label"], run["seed"]) for run in collect(folder)["runs"]} >= {("one", 5), ("dml", 5), ("one", 0)}
