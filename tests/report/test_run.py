from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from coterie.errors import CoterieError
from coterie.report.run import read_run

MakeRun = Callable[..., Path]


def test_a_finished_run(make_run: MakeRun) -> None:
    run = read_run(make_run(students=3, epochs=2, samples=50))
    assert run.summary.status == "finished"
    assert run.figures is not None
    assert len(run.figures.students) == 3
    assert [row.epoch for row in run.validation_rows] == [0, 1]
    assert len(run.train_rows) == 4
    assert run.predictions is not None
    assert run.predictions.logits.shape == (3, 50, 10)
    assert run.predictions.logits.dtype == np.float32
    assert 24 <= len(run.gallery) <= 48


def test_an_unfinished_run_has_no_final_figures(make_run: MakeRun) -> None:
    run = read_run(make_run(status="interrupted"))
    assert run.figures is None
    assert run.predictions is None
    assert run.gallery == {}
    assert len(run.validation_rows) == 4


def test_a_last_row_that_a_kill_cut_short_is_left_out(make_run: MakeRun) -> None:
    path = make_run(status="interrupted")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    assert len(read_run(path).validation_rows) == 4


def test_predictions_without_figures_are_what_a_kill_left(make_run: MakeRun) -> None:
    path = make_run(epochs=1, samples=20)
    edit_json("summary.json", lambda summary: [summary.pop(key) for key in ("students", "deployed", "mean_student")])(
        path
    )
    assert read_run(path).predictions is None


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CoterieError, match="is not a run"):
        read_run(tmp_path)


def edit_json(name: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        value = json.loads((run / name).read_text())
        edit(value)
        (run / name).write_text(json.dumps(value))

    return damage


def shorten_labels(run: Path) -> None:
    tensors = load_file(run / "predictions.safetensors")
    save_file({**tensors, "labels": tensors["labels"][:-1]}, run / "predictions.safetensors")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no summary": (lambda run: (run / "summary.json").unlink(), "cannot read .*summary.json"),
    "summary cut short": (lambda run: (run / "summary.json").write_text('{"status": '), "summary.json' is damaged"),
    "summary of another kind": (lambda run: (run / "summary.json").write_text("[]"), "summary.json' is damaged"),
    "no seed": (edit_json("summary.json", lambda s: s.pop("seed")), "summary.json' is damaged: seed: Field required"),
    "text for a figure": (
        edit_json("summary.json", lambda s: s["students"][1].update(top1="high")),
        r"summary.json' is damaged: students\.1\.top1",
    ),
    "a student without a figure": (
        edit_json("summary.json", lambda s: s["students"][1].pop("nll")),
        "summary.json' is damaged: students.1: .*nll",
    ),
    "an unknown student deployed": (
        edit_json("summary.json", lambda s: s["deployed"].update(student=7)),
        "summary.json' is damaged: .*none of the students",
    ),
    "no figures": (
        edit_json("summary.json", lambda s: s["mean_student"].clear()),
        "summary.json' is damaged: mean_student: .*top1",
    ),
    "environment": (edit_json("environment.json", lambda e: e.update(threads="many")), "environment.json' is damaged"),
    "metrics": (
        lambda run: (run / "metrics.jsonl").write_text('{"split": "train"}\n'),
        "metrics.jsonl' is damaged: epoch",
    ),
    "recipe": (lambda run: (run / "recipe.yaml").write_text("metod: okdmde\n"), "metod"),
    "predictions cut short": (
        lambda run: (run / "predictions.safetensors").write_bytes(b"\x08\x00"),
        "predictions.safetensors' is damaged",
    ),
    "one student too few": (
        edit_json("summary.json", lambda s: s["students"].append(s["students"][0])),
        "predictions.safetensors' is damaged: its tensors",
    ),
    "fewer labels": (shorten_labels, "predictions.safetensors' is damaged: its tensors"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_named_in_one_line(make_run: MakeRun, damage: Callable[[Path], object], message: str) -> None:
    path = make_run(students=2, epochs=1, samples=20)
    damage(path)
    with pytest.raises(CoterieError, match=message) as caught:
        read_run(path)
    assert len(str(caught.value).splitlines()) <= 2
