"""Language models that are shared out over processes equal whole ones, and go on from their checkpoints on any number of processes."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.errors import CoterieError
from coterie.running.reload import evaluate_run, load_method
from coterie.tasks.language import causal_lm
from coterie.tasks.language.networks import load_causal_lm
from coterie.training.interruption import Interrupted, Interruption

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained, texts):
    """A corpus; a student whose word embeddings are tied, an untied one and a teacher, with their tokenizer."""
    root = tmp_path_factory.mktemp("sharding")
    (root / "texts").mkdir()
    for number, text in enumerate(texts[:16]):
        (root / "texts" / f"{number:02}.txt").write_text(text)
    for name, layers, tied in (("tied", 2, True), ("untied", 2, False), ("teacher", 3, False)):
        sizes = {**SIZES, "vocab_size": 300, "num_hidden_layers": layers, "tie_word_embeddings": tied}
        load_causal_lm({"model_type": "llama", **sizes}, seed=layers).save_pretrained(root / name)
        trained.save_pretrained(root / name)
    return root


def recipe(place, shard=True, student="tied", **sections):
    base = {
        "task": "language_modeling",
        "data": {"name": str(place / "texts"), "block_length": 32},
        "network": {"name": str(place / student), "pretrained": True},
        "method": {"name": "rlkd", "label_weight": 1.0},
        "teacher": {"network": str(place / "teacher")},
        "optimizer": {"learning_rate": 0.01},
        "training": {"epochs": 2, "batch_size": 4, "device": "cpu", "log_every": 2, "shard": shard},
    }
    return {key: {**base.get(key, {}), **value} if isinstance(value, dict) else value for key, value in {**base, **sections}.items()}  # fmt: skip


def weights(path):
    return load_file(path / "student.safetensors")


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def sharded(place):
    """A finished run, in one process: read it, do not write into it."""
    settings = recipe(place, training={"select": "best"})
    return coterie.train(settings, output=place / "sharded", quiet=True)


@pytest.mark.slow
def test_a_network_in_one_part_is_trained_bit_by_bit_like_a_whole_one(sharded, place):
    settings = recipe(place, shard=False, training={"select": "best"})
    whole = coterie.train(settings, output=place / "whole", quiet=True)
    assert_equal(weights(whole.path), weights(sharded.path))
    for key in ("deployed", "teachers", "parameters", "validation", "best_validation"):
        assert whole.summary[key] == sharded.summary[key], key
    panels = [(run.path / "gallery" / "language.json").read_text() for run in (whole, sharded)]
    assert panels[0] == panels[1]
    assert not torch.distributed.is_initialized()


def test_its_checkpoint_is_safetensors_beside_a_file_and_a_finished_run_is_read_by_all(sharded):
    checkpoint = sharded.path / "checkpoint"
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".pt", ".safetensors"}
    assert len([path for path in checkpoint.iterdir() if path.is_dir()]) == 2  # of the last and the best epoch
    _, evaluation = evaluate_run(sharded.path)
    deployed = dict(evaluation.figures["deployed"])
    assert deployed == {key: sharded.summary["deployed"][key] for key in deployed}
    assert len(coterie.predict(sharded.path, ["the cat"], tokens=4)) == 1
    student = sharded.student()
    assert student.get_input_embeddings().weight is student.get_output_embeddings().weight


@pytest.mark.fast_for("between two files")
@pytest.mark.parametrize("position", ["within an epoch", "between two files"])
def test_it_goes_on_from_where_it_was_put_away(sharded, place, tmp_path, monkeypatch, position):
    """Also where it died once the tensors of a later checkpoint were written, and the file that names them was not."""
    settings = recipe(place, training={"select": "best"})

    class Killed(BaseException):
        pass

    calls = []
    with monkeypatch.context() as patch:
        if position == "within an epoch":
            patch.setattr(Interruption, "requested_signal", lambda self, accelerator, at_once=True: calls.append(1) or (signal.SIGINT if len(calls) == 3 else 0))  # fmt: skip
        else:
            from coterie.training import sharded_checkpoint

            write = sharded_checkpoint.save_checkpoint

            def dying(path, state):
                calls.append(1)
                if len(calls) == 3:
                    raise Killed
                write(path, state)

            patch.setattr(sharded_checkpoint, "save_checkpoint", dying)
        with pytest.raises((Interrupted, Killed)):
            coterie.train(settings, output=tmp_path / "run", quiet=True)
    resumed = coterie.train(output=tmp_path / "run", resume=True, quiet=True)
    assert_equal(weights(resumed.path), weights(sharded.path))
    assert (resumed.path / "metrics.jsonl").read_text() == (sharded.path / "metrics.jsonl").read_text()
    assert len([path for path in (resumed.path / "checkpoint").iterdir() if path.is_dir()]) == 2


@pytest.mark.slow
def test_logits_in_parts_of_a_batch_are_those_of_a_whole_network(place, tmp_path, monkeypatch):
    """They read the output layer's weight outside of the network's own forward pass."""
    monkeypatch.setattr(causal_lm, "WHOLE_LOGITS", 0)
    runs = []
    for shard in (False, True):
        settings = recipe(place, shard=shard, training={"epochs": 1})
        runs.append(coterie.train(settings, output=tmp_path / str(shard), quiet=True))
    assert_equal(*(weights(run.path) for run in runs))
    assert runs[0].summary["deployed"] == runs[1].summary["deployed"]
    assert runs[0].summary["teachers"] == runs[1].summary["teachers"]


def test_damage_to_a_folder_of_tensors_is_said(sharded, tmp_path):
    shutil.copytree(sharded.path, tmp_path / "run")
    (part,) = (tmp_path / "run" / "checkpoint").glob("best-*/*.safetensors")
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(CoterieError, match="is damaged, or of another run: its folder 'best-"):
        load_method(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"training": {"ema": 0.9}}, "training.ema"),
        ({"training": {"compile": True}}, "training.compile=true"),
        ({"training": {"checkpoint_branches": True}}, "network.gradient_checkpointing"),
        ({"training": {"precision": "fp16"}}, "use bf16"),
        ({"network": {"freeze": 1}}, "network.freeze=1"),
        ({"optimizer": {"name": "lamb"}}, "optimizer.name='lamb'; expected one of adam, adamw"),
    ],
)
def test_what_it_does_not_serve_is_refused(place, tmp_path, change, said):
    with pytest.raises(CoterieError, match=r"training\.shard=true does not go with") as refused:
        coterie.train(recipe(place, **change), output=tmp_path / "run", quiet=True)
    assert said in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_methods_with_modules_of_their_own_are_refused(place, tmp_path):
    settings = recipe(place, method={"name": "okddip"}, network={"branches": 3})
    del settings["method"]["label_weight"], settings["teacher"]
    with pytest.raises(CoterieError, match=r"training\.shard=true shares out students and teachers, and OKDDip holds"):
        coterie.train(settings, output=tmp_path / "run", quiet=True)


def test_a_whole_training_does_not_go_on_in_parts(sharded):
    with pytest.raises(CoterieError, match=r"training\.shard differs"):
        coterie.train(output=sharded.path, resume=True, quiet=True, overrides=["training.shard=false"])


# Trains, or goes on; put away after a step where one is given, as by a signal that all processes have agreed on.
SCRIPT = """
import json, signal, sys, coterie
from coterie.tasks.language import causal_lm
from coterie.training.interruption import Interrupted, Interruption

settings, output, resume, stop = json.loads(sys.argv[1])
if "untied" in settings["network"]["name"]:
    causal_lm.WHOLE_LOGITS = 0  # logits are computed in parts of a batch
asked = []

def ask(self, accelerator, at_once=True):
    asked.append(1)
    return signal.SIGTERM if len(asked) == stop else 0

Interruption.requested_signal = ask
try:
    coterie.train(None if resume else settings, output=output, resume=resume, quiet=True)
except Interrupted:
    assert stop
"""


@pytest.fixture
def run(run_processes):
    def train(processes, settings, output, resume=False, stop=0):
        run_processes(processes, SCRIPT, json.dumps([settings, str(output), resume, stop]))

    return train


@pytest.mark.slow
@pytest.mark.parametrize("student", ["tied", "untied"])
def test_two_processes_equal_one_and_each_goes_on_from_the_other(place, tmp_path, run, student):
    settings = recipe(place, student=student)
    whole = coterie.train(recipe(place, shard=False, student=student), output=tmp_path / "whole", quiet=True)
    run(2, settings, tmp_path / "two")
    for first, second in ((2, 1), (1, 2)):
        output = tmp_path / f"{first}{second}"
        run(first, settings, output, stop=3)
        assert json.loads((output / "summary.json").read_text())["status"] == "interrupted"
        assert len(list((output / "checkpoint").glob("last-*/*.safetensors"))) == first
        run(second, settings, output, resume=True)
        assert json.loads((output / "environment.json").read_text())["processes"] == second
    expected = weights(whole.path)
    rows = (whole.path / "metrics.jsonl").read_text().splitlines()
    for name in ("two", "21", "12"):
        found = weights(tmp_path / name)
        for key in expected:
            # AdamW takes a step of 0.01 for a gradient that is nearly zero too, whose rounding shows: a 500th of a step is allowed.
            torch.testing.assert_close(found[key], expected[key], atol=2e-5, rtol=1e-5)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == len(rows)
        for own, other in zip(map(json.loads, lines), map(json.loads, rows), strict=True):
            assert own["step"] == other["step"]
            if own["split"] == "train":
                assert own["losses"] == pytest.approx(other["losses"], rel=1e-4)
