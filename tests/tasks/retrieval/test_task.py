"""Runs of tiny encoders on ninety pairs, in this process."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

import coterie
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.running.reload import evaluate_run, load_method
from coterie.tasks.figures import figures_of
from coterie.tasks.retrieval.encoders import encoder_digest, width_of
from coterie.tasks.retrieval.panels import panels


@pytest.fixture(scope="module")
def asymmetric(place):
    return coterie.train(place.settings(), output=place.path / "asymmetric", quiet=True)


def test_an_asymmetric_run_has_all_figures_and_files(asymmetric, place):
    summary, folder = asymmetric.summary, RunFolder(asymmetric.path)
    assert {each.key for each in figures_of("retrieval")} <= summary["deployed"].keys()
    assert summary["bm25"].keys() >= {"mrr_10", "map_100"}
    (teacher,) = summary["teachers"]
    assert summary["deployed"]["kept"] == pytest.approx(summary["deployed"]["mrr_10"] / teacher["mrr_10"])
    description = folder.read_description()
    assert description["documents"] == "teacher"
    assert [each["type"] for each in description["encoder"]["modules"]] == [
        "Transformer",
        "Pooling",
        "Dense",
        "Normalize",
    ]
    assert load_recipe(folder.recipe).network.documents == "teacher"  # no more auto
    losses = [json.loads(line)["losses"] for line in folder.metrics.read_text().splitlines() if '"train"' in line]
    assert losses[0].keys() == {"label", "distillation", "embedding"}
    assert losses[-1]["embedding"] < losses[0]["embedding"]
    assert folder.report.is_file()
    titles = [panel.title for panel in panels(folder)]
    assert titles == [
        "Student, teacher and BM25",
        "Rank of the first relevant document",
        "Similarity of vectors",
        "Queries to look at",
    ]


def test_the_deployed_student_is_a_sentence_transformer_in_the_teachers_space(asymmetric, place):
    student = coterie.load_student(asymmetric.path)
    assert type(student).__name__ == "SentenceTransformer"
    assert width_of(student) == 32  # its projection is part of it
    texts = ["how to join a parser with the queue", "a window"]
    vectors = student.encode_query(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    again = load_method(asymmetric.path).student()
    for name, value in student.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    tokens = student.preprocess(texts)
    with torch.no_grad():
        assert torch.equal(again.eval()(dict(tokens))["sentence_embedding"], torch.from_numpy(vectors))


def test_a_run_is_evaluated_again_to_the_same_figures(asymmetric):
    split, evaluation = evaluate_run(asymmetric.path)
    figures = {key: value for key, value in evaluation.figures["deployed"].items() if key != "query_ms"}
    assert (split, figures) == ("test", {key: asymmetric.summary["deployed"][key] for key in figures})


def test_a_run_that_is_stopped_goes_on_bit_by_bit(asymmetric, place, tmp_path):
    stopped = place.settings(training={"checkpoint_steps": 2})
    from coterie.training.loop import Trainer

    class Stop(Exception):
        pass

    original, calls = Trainer.train_batch, []

    def stopping(self, *arguments, **options):
        if len(calls) == 6:  # in the second epoch
            raise Stop
        calls.append(1)
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_batch", stopping)
        with pytest.raises(Stop):
            coterie.train(stopped, output=tmp_path / "stopped", quiet=True)
    resumed = coterie.train(output=tmp_path / "stopped", resume=True, quiet=True)
    assert encoder_digest(resumed.student()) == encoder_digest(asymmetric.student())


@pytest.mark.slow
def test_a_symmetric_student_of_the_teachers_layers_encodes_documents(place, tmp_path):
    recipe = place.settings(
        network={"name": "auto", "layers": [0, 2], "documents": "student", "pretrained": "auto"},
        method={"name": "embed_distill", "metric": "cosine"},
        data={"pseudo_queries": 0.5},
        training={"epochs": 1},
    )
    result = coterie.train(recipe, output=tmp_path / "run", quiet=True)
    student = result.student()
    assert student[0].model.config.num_hidden_layers == 2
    assert [type(each).__name__ for each in student] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]  # of one width: no projection
    assert result.summary["network"] == "layers_0_2"
    assert any("queries without a label" in note for note in result.summary["data_notes"])
    found = coterie.predict(result.path, ["how to join a parser with the queue"], top=3)[0]
    documents = [text for _, _, text in found.documents]
    scores = student.encode_query(["how to join a parser with the queue"]) @ student.encode_document(documents).T
    np.testing.assert_allclose([score for _, score, _ in found.documents], scores[0], atol=1e-5)
    assert evaluate_run(result.path)[1].figures["deployed"]["mrr_10"] == result.summary["deployed"]["mrr_10"]


@pytest.mark.slow
def test_a_teacher_is_trained_from_labels_and_teaches_as_a_run(place, tmp_path, pairs):
    (tmp_path / "sizes.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}))  # fmt: skip
    network = {"name": str(tmp_path / "sizes.json"), "pretrained": "auto"}
    teacher = coterie.train(place.settings(method={"name": "contrastive"}, teacher=None, network=network, training={"epochs": 6}), output=tmp_path / "teacher", quiet=True)  # fmt: skip
    assert teacher.summary["deployed"]["mrr_10"] > 0.15  # a random order has 0.03
    assert teacher.summary["teachers"] == []
    method = {"name": "margin_mse", "onehot": 1.0}
    recipe = place.settings(
        teacher={"run": str(tmp_path / "teacher"), "network": None}, method=method, training={"epochs": 1}
    )
    result = coterie.train(recipe, output=tmp_path / "run", quiet=True)
    assert result.summary["teachers"][0]["mrr_10"] == pytest.approx(teacher.summary["deployed"]["mrr_10"])
    with pytest.raises(CoterieError, match=r"encodes queries only; name its own teacher"):
        coterie.train(
            place.settings(teacher={"run": str(result.path), "network": None}), output=tmp_path / "x", quiet=True
        )


def test_documents_of_a_file_are_searched_by_the_teachers_vectors(asymmetric, place, tmp_path):
    from coterie.tasks.retrieval.encoders import load_encoder

    lines = ["The queue takes every parser in turn.", "Nothing at all."]
    (tmp_path / "documents.txt").write_text("\n".join(lines))
    query = "how to join a parser with the queue"
    (found,) = coterie.predict(asymmetric.path, query, documents=str(tmp_path / "documents.txt"))
    vectors = load_encoder(str(place.path / "teacher")).encode_document(lines)
    scores = (coterie.load_student(asymmetric.path).encode_query([query]) @ vectors.T)[0]
    order = np.argsort(-scores)
    assert [number for number, _, _ in found.documents] == order.tolist()
    np.testing.assert_allclose([score for _, score, _ in found.documents], scores[order], atol=1e-5)
    assert found.record()["documents"][0]["document"] == lines[order[0]]
    assert list(found.row()) == ["document_1", "score_1", "document_2", "score_2"]
    with pytest.raises(CoterieError, match=r"documents='gone.txt': there is no such file"):
        coterie.predict(asymmetric.path, query, documents="gone.txt")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"teacher": None},
            "embed_distill needs a teacher: set teacher.run=FOLDER.*from labels alone: method=contrastive",
        ),
        (
            {"teacher": None, "method": {"name": "contrastive"}, "network": {"documents": "teacher"}},
            "there is no teacher",
        ),
        (
            {"method": {"name": "dml"}},
            "method=dml trains no dual encoder; task=retrieval takes contrastive, embed_distill, margin_mse",
        ),
        ({"network": {"branches": 2}}, "network.branches=2: task=retrieval trains one student"),
        ({"network": {"projection": False}}, "the student's vectors have 16 numbers, the teacher's, which"),
        ({"network": {"layers": [0]}}, "network.layers keeps some of the layers of weights, and none are loaded"),
        ({"network": {"pretrained": True, "layers": [0, 4]}}, "layers=\\[0, 4\\]: expected rising numbers from 0 to 0"),
        ({"network": {"name": "./gone"}}, "there is no folder './gone'"),
        ({"training": {"label_smoothing": 0.1}}, "are for classes, and task=retrieval ranks documents"),
        ({"data": {"validation": 0}, "training": {"patience": 1}}, "training.patience needs a validation split"),
        ({"method": {"name": "embed_distill", "metric": "euclid"}}, "method.metric='euclid'"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(changes, expected, place, tmp_path):
    with pytest.raises(CoterieError, match=expected) as error:
        coterie.train(place.settings(**changes), output=tmp_path / "run", quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_package_that_the_last_figures_need_is_asked_for_first(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(CoterieError, match="need the package bm25s: pip install"):
        coterie.train(place.settings(), output=tmp_path / "run", quiet=True)
    assert not list(tmp_path.iterdir())


def test_another_teacher_than_the_runs_is_noticed(place, asymmetric, tmp_path, tiny_encoder):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(asymmetric.path, run)
    text = (run / "recipe.yaml").read_text().replace(str(place.path / "teacher"), str(tmp_path / "teacher"))
    (run / "recipe.yaml").write_text(text)
    tiny_encoder(9).save_pretrained(str(tmp_path / "teacher"))
    with pytest.raises(CoterieError, match="the teacher 'teacher' is not what it was when the run was trained"):
        coterie.predict(run, "a query")


@pytest.mark.slow
def test_methods_are_compared_with_one_teacher(place, tmp_path):
    recipe = place.settings(training={"epochs": 1})
    compared = coterie.compare(
        [recipe], methods=["contrastive", "embed_distill"], seeds=2, output=tmp_path / "comparison", quiet=True
    )
    runs = sorted((tmp_path / "comparison").rglob("student.json"))
    assert len(runs) == 4
    found = [json.loads(path.read_text()) for path in runs]
    assert {each["method"] for each in found} == {"contrastive", "embed_distill"}
    assert {each["documents"] for each in found} == {"teacher"}  # both arms search the teacher's vectors
    assert all("kept" in each["figures"] for each in found)
    assert "primary.mrr_10" in compared.comparison["differences"]
