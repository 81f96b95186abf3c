"""What follows a validation split is refused before data are read where there is none; where that is not certain, it is left to the task."""

from __future__ import annotations

import pytest

from coterie.comparison.arms import build_arms, sweep_arms
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.tasks.validation import require_validation


def asked(data, task="image_classification", **training):
    return load_recipe(task=task, data={"validation": 0, **data}, training=training)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"select": "best"}, r"training\.select=best needs a validation split"),
        ({"patience": 2}, r"training\.patience needs a validation split"),
        ({"evaluate_test": False}, r"'digits' has no validation split here"),
    ],
)
def test_an_arm_without_a_validation_split_is_refused_before_anything_is_trained(training, said):
    sections = {"data": {"validation": 0}, "training": training}
    with pytest.raises(CoterieError, match=said):
        build_arms([sections], methods=["baseline", "dml"])
    assert build_arms([{**sections, "data": {"validation": 0.1}}], methods=["baseline"])
    assert build_arms([{"data": {"validation": 0}}], methods=["baseline"])


def test_a_sweep_without_a_validation_split_is_refused():
    arms = build_arms([{"data": {"validation": 0}}], methods=["baseline"])
    with pytest.raises(CoterieError, match="leaves nothing to measure"):
        sweep_arms(arms, {"optimizer.learning_rate": ["0.1", "0.2"]})


@pytest.mark.parametrize("task", ["image_classification", "language_modeling"])
def test_folders_are_judged_by_the_names_in_them(tmp_path, task):
    for names, test, brings in [
        (("train/a", "val/a", "test/a"), "auto", True),
        (("deep/train", "deep/dev", "deep/test"), "auto", True),
        (("train/a", "val/a"), "auto", False),  # the data's only held-out split is the test split
        (("train/a", "val/a"), 0.2, True),
        (("train/a", "test/a"), "auto", False),
        (("a", "b"), "auto", False),
    ]:
        root = tmp_path / "-".join(names).replace("/", "_") / str(test)
        for name in names:
            (root / name).mkdir(parents=True)
        recipe = asked({"name": str(root), "test": test}, task, select="best")
        if brings:
            require_validation(recipe)
        else:
            with pytest.raises(CoterieError, match="needs a validation split"):
                require_validation(recipe)


def test_files_hold_several_splits_only_where_the_task_reads_them_so(tmp_path):
    (tmp_path / "clips.csv").write_text("path,split\n")
    require_validation(asked({"name": str(tmp_path / "clips.csv")}, "speech", select="best"))
    with pytest.raises(CoterieError, match="needs a validation split"):
        require_validation(asked({"name": str(tmp_path / "clips.csv")}, "language_modeling", select="best"))


@pytest.mark.parametrize(
    "data", [{"name": "hf://a/b"}, {"name": "own data"}, {"name": "cinic10"}, {"name": "cifar10", "root": "somewhere"}]
)
def test_what_cannot_be_told_is_left_to_the_task(data):
    require_validation(asked(data, select="best"))
