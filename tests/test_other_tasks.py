"""What is shared serves a task whose figures, ensembles and samples are not a classification's: a run written by hand, read by everyone who reads runs."""

from __future__ import annotations

import json
import re
import sys
import types

import pytest
import yaml

from coterie.cli.output import print_comparison, print_figures
from coterie.comparison.arms import build_arms
from coterie.comparison.collect import collect
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.plan import keep_plan, make_plan
from coterie.errors import CoterieError
from coterie.export.model_card import model_card
from coterie.recipe import load_recipe
from coterie.report import write_report
from coterie.report.comparison import write_comparison_report
from coterie.run_folder import MetricsLog, RunFolder
from coterie.run_schema import FinishedSummary, Student, validated
from coterie.running.notebook import as_html, as_text
from coterie.tasks import TASKS, find_part
from coterie.tasks.figures import Figure
from coterie.training.display import describe_figures

AGREEMENT = ("cr_1", "mor_3")


@pytest.fixture(params=["lower", "higher"])
def better(request, monkeypatch):
    """The task of recipes that name none is one like language modeling from here on; the direction of its first figure is returned."""
    figures = (
        Figure("nll", "NLL", request.param, unit="nats", meaning="of the token that comes"),
        Figure("perplexity", "perplexity", "lower", ".2f"),
        Figure("top1", "next token", "higher", ".2%"),
        *(Figure(key, key.upper(), "higher", ".2%", optional=True) for key in AGREEMENT),
    )
    module = types.ModuleType("own_task")
    module.FIGURES = figures
    monkeypatch.setitem(sys.modules, "own_task", module)
    row = TASKS["image_classification"]._replace(
        figures="own_task:FIGURES", sample="document", card=TASKS["language_modeling"].card
    )
    monkeypatch.setitem(TASKS, "image_classification", row)
    return request.param


def figures(nll, taught):
    return {"nll": nll, "perplexity": 10.0, "top1": 0.25, **(dict.fromkeys(AGREEMENT, 0.5) if taught else {})}


def evaluation(nll, students=2, taught=False):
    each = [figures(nll + 0.1 * number, taught) for number in range(students)]
    mean = {key: sum(one[key] for one in each) / students for key in each[0]}
    own = {"ensemble": {"method": figures(nll - 0.1, False)}} if students > 1 else {}
    return {"students": each, "mean_student": mean, "deployed": {"student": 0, **each[0]}, **own}


def summary_of(nll, **changes):
    header = {"method": "dml", "data": "stdlib", "network": "tiny", "split_point": None, "leader": None, "seed": 0}
    counts = {"num_train": 60, "num_validation": 6, "num_test": 9, "epochs": 2, "epochs_trained": 2}
    end = {"seconds": {"total": 4.0, "per_epoch": 1.5}, "parameters": {"trained": 20, "deployed": 10}, "train_nll": 1.5}
    evaluated = evaluation(nll, **changes)
    return {
        "status": "finished",
        "split": "test",
        "class_names": [],
        **header,
        **counts,
        **end,
        **evaluated,
        "validation": evaluated,
    }


def write(path, summary, recipe=None):
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text((recipe or load_recipe({"method": "dml"})).to_yaml())
    (path / "summary.json").write_text(json.dumps(summary))
    rows = [
        {"split": "validation", "epoch": epoch, "step": epoch, **evaluation(nll, len(summary["students"]))}
        for epoch, nll in enumerate([3.0, 2.5])
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(page):
    return re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_a_run_is_shown_by_what_its_task_declares(better, tmp_path, capsys):
    path = write(tmp_path / "run", summary_of(2.0, taught=True))
    summary = RunFolder(path).read_summary()
    print_figures(summary, "test")
    said = capsys.readouterr().out
    assert re.search(r"NLL +perplexity +next token +CR_1 +MOR_3", said)
    assert re.search(r"ensemble, the method's +1.9000 +10.00 +25.00% +– +–", said)
    assert "the mean student, 2.0500 NLL" in said
    assert "diversity" not in said
    assert "test NLL of the mean student 2.0500, of the deployed student 0 2.0000" in as_text(path, summary)
    assert "validation NLL of the mean student over epochs" in as_html(path, summary)
    assert describe_figures(summary, None, Figure("nll", "NLL", better)).endswith(
        "student 2.0500, of the ensemble 1.9000"
    )
    page = words(write_report(path).read_text())
    assert "The deployed student reaches 2.0000 NLL on 9 test documents, the mean student 2.0500, the ensemble 1.9000." in page  # fmt: skip
    assert f"<small>nats {'↓' if better == 'lower' else '↑'}</small>" in page
    assert "it reaches 1.5000" in page
    assert "standard error" not in page
    assert "Top-1" not in page


def test_a_lone_network_without_a_teacher(better, tmp_path, capsys):
    path = write(tmp_path / "run", summary_of(2.0, students=1))
    print_figures(RunFolder(path).read_summary(), "test")
    assert "CR_1" not in capsys.readouterr().out
    assert "The network reaches 2.0000 NLL" in write_report(path).read_text()


def test_a_run_must_hold_what_its_task_declares(better, tmp_path):
    whole = summary_of(2.0)
    validated(FinishedSummary, whole, tmp_path / "summary.json")
    for key, place in (("perplexity", whole["students"][1]), ("top1", whole["deployed"]), ("train_nll", whole)):
        kept = place.pop(key)
        with pytest.raises(CoterieError, match=f"summary.json' is damaged.*the figure {key} is missing"):
            validated(FinishedSummary, whole, tmp_path / "summary.json")
        place[key] = kept
    with pytest.raises(CoterieError, match=r"deployed.*nll is no number"):
        validated(FinishedSummary, {**whole, "deployed": {**whole["deployed"], "nll": "2"}}, tmp_path / "summary.json")
    with pytest.raises(CoterieError, match="cannot be read: unknown task 'somebodys:Kind'"):
        validated(FinishedSummary, {**whole, "task": "somebodys:Kind"}, tmp_path / "summary.json")
    log = MetricsLog(tmp_path / "metrics.jsonl", "image_classification")
    log.append({"split": "validation", "epoch": 0, "step": 1, **evaluation(2.0)})
    log.append({"split": "validation", "epoch": 1, "step": 2, **evaluation(2.0), "mean_student": {"nll": 2.0}})
    with pytest.raises(CoterieError, match="the figure perplexity is missing"):
        log.rows()


@pytest.fixture
def compared(better, tmp_path):
    """Three arms over five seeds: kd's NLL lies 0.3 below the baseline's, dml's nowhere."""
    folder = ComparisonFolder(tmp_path / "c")
    arms = build_arms([], ["baseline", "dml", "one"])
    keep_plan(folder, make_plan(arms, 5))
    noise = (0.01, -0.02, 0.0, 0.02, -0.01)
    for label, nll in (("baseline", 2.5), ("dml", 2.5), ("one", 2.2)):
        for seed in range(5):
            own = nll + noise[seed] + (0.02 * noise[seed - 1] if label != "baseline" else 0)
            summary = {**summary_of(own, students=1), "seed": seed, "train_nll": own - 0.1}
            write(folder.runs(label) / f"seed{seed}", summary, arms[label])
    return folder


def test_claims_have_the_right_sign(better, compared, capsys):
    found = collect(compared)
    row = found["differences"]["primary.nll"]["one"]
    assert row["mean"] == pytest.approx(-0.3, abs=1e-6)
    assert row["p_holm"] < 0.05
    assert found["differences"]["primary.perplexity"]["one"]["mean"] == 0
    reading = " ".join(found["reading"])
    assert f"one is {'better' if better == 'lower' else 'worse'} than baseline by 0.3000 NLL (95 % interval -0.3" in reading  # fmt: skip
    assert "dml is not distinguishable from baseline" in reading
    assert f"The {'lowest mean is one' if better == 'lower' else 'highest mean is '}" in reading
    assert "on the training samples" not in reading  # what a guess has is not known of it
    assert "points" not in reading
    print_comparison(compared.path)
    said = capsys.readouterr().out
    assert re.search(r"n +NLL +- baseline", said)
    assert re.search(r"one +5 +2\.2000 ± 0\.\d{4} +-0\.3000 ± 0\.\d{4} +-0\.3", said)


def test_a_comparisons_tables_and_page(better, compared):
    collect(compared)
    page = write_comparison_report(compared.path).read_text()
    table = (compared.path / "comparison.md").read_text()
    (head,) = (line for line in table.splitlines() if line.startswith("| arm"))
    assert head.startswith("| arm | n | NLL | 95 % interval | − baseline |")
    assert "| deployed NLL | train NLL | validation NLL | perplexity | next token % | s / epoch |" in head
    assert "NLL is the leader's where a method has one" in table
    assert "Learning curves" in page
    assert "NLL in nats, 95 % interval" in page
    assert "op-1" not in words(page)
    drawn = (compared.path / "figures" / "differences.svg").read_text()
    labels = re.findall(r"<text[^>]*>(dml|one)</text>", drawn)
    assert labels == (["one", "dml"] if better == "lower" else ["dml", "one"])  # the best first
    assert "%" not in "".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn)).replace("95 %", "")


def test_a_card_shows_what_is_declared(better, tmp_path):
    description = {"network": "tiny", "method": "dml", "data": "stdlib", "student": 0, "length": 64}
    description["figures"] = figures(2.0, False)
    validated(Student, description, tmp_path / "student.json")
    text = model_card(
        format=find_part("language_modeling", "formats")[0], which="student", description=description, parameters=10, recipe=load_recipe(),
        summary=summary_of(2.0), environment={}, check="",
    )  # fmt: skip
    assert "| | NLL | perplexity | next token |" in text
    assert "| **this export** | 2.0000 | 10.00 | 25.00% |" in text
    assert "9 documents" in text
    assert "Trained on rows of 64 tokens" in text
    assert "lasses" not in text.partition("The recipe:")[0]
    metric = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]["metrics"]
    assert metric == [{"type": "nll", "name": "NLL", "value": 2.0}]


def test_figures_of_two_tasks_are_not_compared():
    text = {"task": "text_classification", "data": "films.csv", "network": "student", "method": "baseline"}
    with pytest.raises(CoterieError, match="of several tasks, image_classification, text_classification"):
        make_plan(build_arms({"pictures": {"method": "baseline"}, "texts": text}), 1)
