from __future__ import annotations

import pytest

from coterie.errors import CoterieError
from coterie.run_folder import MetricsLog, RunFolder, read_json

FIGURES = dict.fromkeys(("top1", "top5", "nll", "brier", "ece"), 0.5)
EVALUATION = {
    "deployed": {"student": 0, **FIGURES},
    "students": [FIGURES],
    "mean_student": FIGURES,
    "ensemble": dict.fromkeys(("mean_probability", "mean_logit", "method"), FIGURES),
    "diversity": {},
}


def train_row(epoch, step):
    return {"epoch": epoch, "step": step, "split": "train", "losses": {"label": 1.0}, "learning_rate": 0.1}


def test_cut_back_drops_what_a_checkpoint_does_not_know(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (5, 10, 15, 20):
        log.append(train_row(step // 10, step))
    for epoch in (0, 1):
        log.append({"epoch": epoch, "step": 10 * (epoch + 1), "split": "validation", **EVALUATION})
    kept = log.cut_back(step=15, epoch=1)
    assert [row["step"] for row in kept if row["split"] == "train"] == [5, 10, 15]
    assert [row["epoch"] for row in kept if row["split"] == "validation"] == [0]
    assert log.rows() == kept


def test_a_last_line_cut_short_by_a_kill_is_left_out(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(train_row(0, 1))
    with log.path.open("a") as file:
        file.write('{"epoch": 0, "st')
    assert [row["step"] for row in log.rows()] == [1]


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "7", '{"split": "train"}', '{"split": []}', '{"epoch": 0, "step": 1e999}']
)
def test_a_line_that_is_no_row_is_damage(tmp_path, line):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(train_row(0, 1))
    with log.path.open("a") as file:
        file.write(line + "\n")
    log.append(train_row(0, 2))
    with pytest.raises(CoterieError, match=r"metrics\.jsonl' is damaged"):
        log.rows()


def test_a_folder_without_a_recipe_is_no_run(tmp_path):
    with pytest.raises(CoterieError, match="is not a run"):
        RunFolder(tmp_path).require()


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_damaged_json_is_named(tmp_path, text):
    path = tmp_path / "summary.json"
    path.write_text(text)
    with pytest.raises(CoterieError, match=r"summary\.json"):
        read_json(path)


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.last.parent.mkdir()
    leftovers = [tmp_path / ".summary.json.12.tmp", folder.last.parent / ".last.pt.12.tmp"]
    for path in [*leftovers, folder.metrics]:
        path.write_text("x")
    folder.clear_leftovers()
    assert not any(path.exists() for path in [*leftovers, folder.metrics])
