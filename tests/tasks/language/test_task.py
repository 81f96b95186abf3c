"""Runs of tiny language models on a corpus of a few sentences, in this process."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

import coterie
from coterie import cli
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.running.reload import evaluate_run
from coterie.tasks.figures import figures_of
from coterie.tasks.language import causal_lm, task
from coterie.tasks.language.networks import load_causal_lm
from coterie.tasks.language.panels import panels

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
QUICK = {"epochs": 6, "batch_size": 4, "device": "cpu", "log_every": 5}


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained, texts):
    """A corpus, and two untrained networks in folders with their tokenizer: a student's and a teacher's."""
    root = tmp_path_factory.mktemp("language")
    (root / "texts").mkdir()
    for number, text in enumerate(texts):
        (root / "texts" / f"{number:02}.txt").write_text(text)
    for name, layers, rows in (("student", 1, 300), ("teacher", 3, 304)):
        sizes = {**TINY, "num_hidden_layers": layers, "vocab_size": rows, "max_position_embeddings": 64}
        network = load_causal_lm({"model_type": "llama", **sizes}, seed=layers)
        network.save_pretrained(root / name)
        trained.save_pretrained(root / name)
    return root


def settings(place, **sections):
    base = {
        "task": "language_modeling",
        "data": {"name": str(place / "texts"), "block_length": 32},
        "network": {"name": str(place / "student"), "pretrained": False},
        "optimizer": {"learning_rate": 0.01},
        "training": QUICK,
    }
    return {
        key: {**base.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in {**base, **sections}.items()
    }


@pytest.fixture(scope="module")
def taught(place):
    recipe = settings(place, method={"name": "rlkd"}, teacher={"network": str(place / "teacher")})
    return coterie.train(recipe, output=place / "taught", quiet=True)


def test_a_taught_run_has_all_figures_and_files(taught, place):
    summary = taught.summary
    keys = [figure.key for figure in figures_of("language_modeling")]
    assert set(summary["deployed"]) == {"student", *keys}
    assert summary["deployed"]["perplexity"] == pytest.approx(math.exp(summary["deployed"]["nll"]))
    (teacher,) = summary["teachers"]
    assert {"nll", "perplexity", "top1", "sha256", "network"} <= set(teacher)
    assert "cr_1" not in teacher
    assert any("cut to the tokenizer's 300 tokens" in note for note in summary["data_notes"])
    folder = RunFolder(taught.path)
    assert folder.tokenizer.is_dir()
    assert folder.read_description()["vocabulary"] == 300


@pytest.mark.slow
def test_training_moves_the_student_to_its_teacher(taught, place):
    """The teacher's order of tokens, which the student had no part of before, is learnt."""
    recipe = settings(
        place,
        method={"name": "rlkd"},
        teacher={"network": str(place / "teacher")},
        training={**QUICK, "epochs": 1},
        optimizer={"learning_rate": 1e-9},
    )
    before = coterie.train(recipe, output=place / "untaught", quiet=True).summary
    after = taught.summary
    assert after["deployed"]["mor_5"] > before["deployed"]["mor_5"] + 0.2


@pytest.mark.slow
def test_a_group_learns_far_below_a_uniform_guess(place):
    result = coterie.train(
        settings(place, method={"name": "dml"}, training={**QUICK, "epochs": 12}), output=place / "dml", quiet=True
    )
    summary = result.summary
    assert len(summary["students"]) == 2
    assert all(each["nll"] < 0.5 * math.log(300) for each in summary["students"])
    assert summary["ensemble"]["method"]["nll"] < summary["mean_student"]["nll"] + 0.05
    assert "cr_1" not in summary["deployed"]
    assert summary["deployed_reason"].startswith("its validation NLL is the lowest")


@pytest.mark.slow
def test_a_run_whose_logits_are_computed_in_parts_is_the_same(place, monkeypatch, capsys):
    found, said = [], []
    for number, most in enumerate((2**26, 0)):
        for module in (causal_lm, task):
            monkeypatch.setattr(module, "WHOLE_LOGITS", most)
        recipe = settings(
            place,
            method={"name": "rlkd", "label_weight": 1.0},
            teacher={"network": str(place / "teacher")},
            optimizer={"name": "sgd", "learning_rate": 0.05},
            training={"epochs": 1},
        )
        found.append(coterie.train(recipe, output=place / f"parts{number}"))
        said.append(" ".join(capsys.readouterr().err.split()))
    assert "a model's logits of a batch take 0.1 MiB" in said[0]
    assert "a model's logits of a batch would take 0.1 MiB, and are computed in parts" in said[1]
    whole, parts = (each.student().state_dict() for each in found)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    for key in ("nll", "mor_5"):
        assert found[1].summary["deployed"][key] == pytest.approx(found[0].summary["deployed"][key], rel=1e-3)


def test_a_network_whose_logits_cannot_be_computed_in_parts_is_named(place, monkeypatch, capsys):
    for module in (causal_lm, task):
        monkeypatch.setattr(module, "WHOLE_LOGITS", 0)
    monkeypatch.setattr(causal_lm, "find_finish", lambda *_: None)
    recipe = settings(place, method="baseline", training={"epochs": 1})
    coterie.train(recipe, output=place / "unknown")
    assert "the logits of student 0 cannot be computed in parts" in " ".join(capsys.readouterr().err.split())


def test_an_interrupted_run_goes_on_bit_by_bit(place, taught, monkeypatch):
    from coterie.training.loop import Trainer

    class Killed(Exception):
        pass

    step = Trainer._optimizer_step

    def dying(self):
        if self.step == 9:
            raise Killed
        step(self)

    recipe = settings(
        place,
        method={"name": "rlkd"},
        teacher={"network": str(place / "teacher")},
    )
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", dying)
        with pytest.raises(Killed):
            coterie.train(recipe, output=place / "killed", quiet=True)
    again = coterie.train(output=place / "killed", resume=True, quiet=True)
    assert again.summary["students"] == taught.summary["students"]
    first, second = (RunFolder(each.path).student.read_bytes() for each in (taught, again))
    assert first == second


def test_what_a_report_shows_is_kept(taught):
    shown = {panel.title: panel for panel in panels(RunFolder(taught.path))}
    assert set(shown) == {"Agreement with the teacher by rank", "Loss by position in the row", "Continuations"}
    table = shown["Continuations"].table
    assert table is not None
    assert table.head == ("beginning", "document", "student", "teacher")
    assert all(len(row) == 4 and all(row[:2]) for row in table.rows)
    page = (taught.path / "report.html").read_text()
    assert all(title in page for title in shown)
    curves = shown["Loss by position in the row"].pictures[0].axes[0].lines
    assert [line.get_label() for line in curves] == ["student", "teacher"]


def test_a_run_is_evaluated_again_on_its_own_and_on_other_texts(taught, place, tmp_path):
    split, own = evaluate_run(taught.path)
    assert split == "test"
    assert own.figures["deployed"].items() <= taught.summary["deployed"].items()
    assert "cr_1" not in own.figures["deployed"]
    (tmp_path / "other.txt").write_text("the cat sat in the park, number 3.\n" * 9)
    split, other = evaluate_run(taught.path, data=str(tmp_path / "other.txt"))
    assert (split, other.figures["num_samples"]) == ("test", 4)
    assert other.figures["deployed"]["nll"] != own.figures["deployed"]["nll"]


def test_prompts_are_gone_on_with(taught):
    (one,) = coterie.predict(taught.path, "the cat", tokens=5)
    assert one.prompt == "the cat"
    many = coterie.predict(taught.path, ["the cat", "a dog"], tokens=5)
    assert many[0] == one
    drawn = coterie.predict(taught.path, "the cat", tokens=5, temperature=5.0, seed=1)
    assert drawn[0].text != one.text
    # As many as there are positions for, where that is less than 64.
    prompt = "the cat sat on the mat and the dog ran"
    assert coterie.predict(taught.path, prompt)[0].text.startswith(
        coterie.predict(taught.path, prompt, tokens=5)[0].text
    )
    assert coterie.predict(taught.path, prompt, tokens=None) == coterie.predict(taught.path, prompt)


def test_a_text_that_utf8_does_not_hold_is_refused(taught):
    with pytest.raises(CoterieError, match=r"sample 1: character 4 of 'cat \\udcff' is none of UTF-8"):
        coterie.predict(taught.path, ["a dog", "cat \udcff"], tokens=3)


def test_rows_longer_than_a_networks_positions_are_not_measured(taught):
    with pytest.raises(CoterieError, match=r"data\.block_length=128 is above the 64 positions"):
        evaluate_run(taught.path, ["data.block_length=128"])


def test_there_are_no_figures_of_classes(taught, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coterie", "evaluate", str(taught.path), "--per-class"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "--per-class is for runs of classes, not for task=language_modeling" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 3}, "top=3 is no option of task=language_modeling"),
        ({"tokens": "many"}, "tokens='many': expected a whole number"),
        ({"tokens": True}, "tokens=True: expected a whole number"),
        ({"tokens": 0}, "tokens=0"),
        ({"tokens": 64}, "64 new ones exceed the network's 64 positions"),
        ({"temperature": "nan"}, "temperature='nan': expected a number"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_p": 0.5}, "top_p=0.5 needs a temperature"),
    ],
)
def test_options_that_mean_nothing_are_refused(taught, options, message):
    with pytest.raises(CoterieError, match=message):
        coterie.predict(taught.path, "the cat", **options)


def test_the_export_is_a_folder_that_a_pipeline_loads_and_that_goes_on_alike(taught, tmp_path):
    from transformers import pipeline

    folder = coterie.export_run(taught.path, output=tmp_path / "exported")
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "README.md"} <= {
        path.name for path in folder.iterdir()
    }
    continued = pipeline("text-generation", model=str(folder))("the cat", max_new_tokens=5, return_full_text=False)
    assert continued[0]["generated_text"] == coterie.predict(taught.path, "the cat", tokens=5)[0].text
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card
    assert "NLL" in card
    assert "max_new_tokens=16)" in card  # the network has no room for more after a prompt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {"name": "fitnet"}}, "reads the stages of image networks"),
        ({"method": {"name": "stkd"}}, "mixes images"),
        ({"method": {"name": "kdcl", "target": "general"}}, "too many"),
        ({"data": {"block_length": 65}}, "data.block_length=65 is above the 64 positions"),
        ({"training": {"class_weights": "balanced"}}, "weighs classes"),
        ({"data": {"views": "per_student"}}, "not augmented"),
        ({"network": {"lora": {"rank": 4}}}, "none are loaded"),
        ({"network": {"lora": {"alpha": 4}}}, "alpha has no effect without network.lora.rank"),
        ({"network": {"lora": {"rank": 4, "targets": []}}}, "targets is empty"),
        ({"network": {"name": "nowhere"}}, "no folder 'nowhere'"),
        ({"data": {"validation": 0}, "training": {**QUICK, "select": "best"}}, "select=best needs a validation split"),
        (
            {"method": {"name": "rlkd", "divergence": "kl"}, "teacher": {"network": "."}},
            r"method\.divergence='kl': input should be 'forward_kl'",
        ),
        ({"method": {"name": "kd"}}, r"set teacher.run=FOLDER, a finished run, or teacher.network \("),
        ({"network": {"layers": [0]}}, "none are loaded"),
        ({"network": {"name": None, "pretrained": True}}, "needs network.name"),
        ({"teacher": {"network": "nowhere/at/all"}}, "nowhere"),
        ({"teacher": {}}, "a teacher is"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(place, tmp_path, changes, message):
    with pytest.raises(CoterieError, match=message) as found:
        coterie.train(settings(place, **changes), output=tmp_path / "run", quiet=True)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_a_foreign_key_is_refused(place):
    with pytest.raises(CoterieError, match="image_size"):
        load_recipe(settings(place, data={"image_size": 32}))
    with pytest.raises(CoterieError, match=r"network\.lora\.rnk.*did you mean 'network\.lora\.rank'"):
        load_recipe(settings(place, network={"lora": {"rnk": 3}}))


@pytest.mark.fast_for("None")
@pytest.mark.parametrize("ema", [None, 0.5])
def test_checkpoints_of_lora_hold_what_is_trained_and_a_run_goes_on_bit_by_bit(place, tmp_path, monkeypatch, ema):
    from coterie.training.checkpoint import load_checkpoint
    from coterie.training.loop import Trainer

    recipe = settings(
        place,
        network={"name": str(place / "teacher"), "pretrained": True, "lora": {"rank": 2, "dropout": 0.1}},
        method={"name": "baseline"},
        training={**QUICK, "epochs": 2, "ema": ema, "select": "best"},
    )
    whole = coterie.train(recipe, output=tmp_path / "whole", quiet=True)
    step = Trainer._optimizer_step

    def dying(self):
        if self.epoch == 1 and self.batch == 2:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", dying)
        with pytest.raises(KeyboardInterrupt):
            coterie.train(recipe, output=tmp_path / "killed", quiet=True)
    killed = RunFolder(tmp_path / "killed")
    stored = torch.load(killed.last, weights_only=True)["method"]
    assert stored
    assert all("lora_" in name for name in stored)
    assert load_checkpoint(killed.last)["method"].keys() > stored.keys()
    resumed = coterie.train(recipe, output=killed.path, resume=True, quiet=True)
    first, second = (each.student().state_dict() for each in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.summary["deployed"] == whole.summary["deployed"]
    assert evaluate_run(killed.path)[1].figures["deployed"]["nll"] == whole.summary["deployed"]["nll"]
    (killed.last.parent / "untrained.pt").unlink()
    for use in (lambda: load_checkpoint(killed.last), lambda: evaluate_run(killed.path)):
        with pytest.raises(CoterieError, match=r"no checkpoint .*untrained.pt"):
            use()


def test_students_of_one_set_of_weights_are_unlike_and_lora_ones_are_merged(place):
    recipe = settings(
        place,
        method={"name": "dml"},
        network={"name": str(place / "teacher"), "pretrained": True, "lora": {"rank": 2}, "every": 2},
        training={**QUICK, "epochs": 1},
    )
    result = coterie.train(recipe, output=place / "lora", quiet=True)
    first, second = result.summary["students"]
    assert first["nll"] != second["nll"]
    student = result.student()
    assert student.config.num_hidden_layers == 2
    assert not any("lora" in name for name in student.state_dict())
    assert result.summary["parameters"]["trained"] < 0.2 * result.summary["parameters"]["deployed"]


def test_another_tokenizer_is_refused(place, tmp_path, texts):
    from coterie.tasks.language.tokenizer import train_tokenizer

    load_causal_lm({"model_type": "llama", "vocab_size": 300, **TINY}).save_pretrained(tmp_path / "other")
    train_tokenizer([text[::-1] for text in texts], 300).save_pretrained(tmp_path / "other")
    recipe = settings(place, method={"name": "kd"}, teacher={"network": str(tmp_path / "other")})
    with pytest.raises(CoterieError, match="different tokenizers"):
        coterie.train(recipe, output=tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_sizes_alone_take_the_teachers_tokenizer(place, tmp_path):
    (tmp_path / "small.json").write_text(json.dumps({"model_type": "llama", **TINY}))
    recipe = settings(
        place,
        network={"name": str(tmp_path / "small.json")},
        method={"name": "kd", "divergence": "reverse_kl"},
        teacher={"network": str(place / "teacher")},
        training={**QUICK, "epochs": 1},
    )
    result = coterie.train(recipe, output=tmp_path / "run", quiet=True)
    assert result.student().config.vocab_size == 300
    assert torch.isfinite(torch.tensor(result.summary["deployed"]["nll"]))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"vocab_size": "x"}, "vocab_size='x', expected a whole number"), ({}, "holds sizes but no weights")],
)
def test_a_file_of_sizes_that_does_not_serve_is_named(place, tmp_path, values, message):
    (tmp_path / "sizes.json").write_text(json.dumps({"model_type": "llama", **TINY, **values}))
    network = {"name": str(tmp_path / "sizes.json"), "pretrained": bool(not values)}
    with pytest.raises(CoterieError, match=rf"sizes\.json'.*{message}"):
        coterie.train(settings(place, network=network), output=tmp_path / "run", quiet=True)


def test_a_tokenizer_is_trained_for_networks_from_nothing_only(place, tmp_path):
    """Weights say nothing of tokens that they were not trained with."""
    load_causal_lm({"model_type": "llama", "vocab_size": 290, **TINY}).save_pretrained(tmp_path / "alone")
    found = {}
    for pretrained in (True, False):
        network = {"name": str(tmp_path / "alone"), "pretrained": pretrained}
        recipe = settings(place, network=network, method={"name": "baseline"}, training={**QUICK, "epochs": 1})
        try:
            found[pretrained] = coterie.train(recipe, output=tmp_path / "run", quiet=True).student().config.vocab_size
        except CoterieError as error:
            found[pretrained] = str(error)
    assert "holds weights and no tokenizer" in found[True]
    assert found[False] == 290
    recipe = settings(place, teacher={"network": str(tmp_path / "alone")}, method={"name": "kd"})
    with pytest.raises(CoterieError, match="has no tokenizer that can be read: none of its files is there"):
        coterie.train(recipe, output=tmp_path / "taught", quiet=True)
