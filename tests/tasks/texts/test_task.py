from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, GPT2Config

import coterie
from coterie import cli
from coterie.benchmark.measure import measure
from coterie.benchmark.table import markdown
from coterie.methods import TABLE, find_method
from coterie.methods.group_method import GroupMethod
from coterie.methods.teacher.taught import TaughtMethod
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.running.reload import evaluate_run, load_method
from coterie.tasks.task import find_task
from coterie.tasks.texts.task import TextClassification
from coterie.training.checkpoint import load_checkpoint
from coterie.training.interruption import Interrupted
from coterie.training.loop import Trainer


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """RL-KD from two teachers, one of which has a tokenizer of its own."""
    path = tmp_path_factory.mktemp("rl_kd") / "run"
    coterie.train(place.settings(method="rl_kd", training={"epochs": 2}, **place.taught()), output=path, quiet=True)
    return path


def task_of(place, **changes):
    recipe = load_recipe(place.settings(**changes))
    return find_task(recipe)(recipe, Accelerator(cpu=True))


@pytest.fixture(scope="module")
def teachers(place, tmp_path_factory):
    """Two finished runs that know the task."""
    paths = [tmp_path_factory.mktemp("teachers") / f"seed{seed}" for seed in range(2)]
    for seed, path in enumerate(paths):
        coterie.train(place.settings(training={"epochs": 12}, seed=seed), output=path, quiet=True)
    return [str(path) for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "students"), [("independent", 2), ("dml", 2), ("kd", 1), ("rl_kd", 1)])
def test_every_method_learns(place, teachers, tmp_path, method, students):
    """The baseline is the teachers'."""
    taught = {"teachers": teachers} if students == 1 else {}
    settings = place.settings(method=method, network={"branches": students}, training={"epochs": 12}, **taught)
    summary = coterie.train(settings, output=tmp_path / "run", quiet=True).summary
    assert summary["mean_student"]["top1"] > 0.9
    assert len(summary["students"]) == students
    assert [each["top1"] > 0.9 for each in summary["teachers"]] == [True] * len(taught.get("teachers", []))


def test_the_run_folder_is_whole_and_reported(run):
    folder = RunFolder(run)
    summary = folder.read_summary()
    assert (summary["network"], summary["data"], summary["class_names"]) == ("student", "films", ["bad", "good"])
    assert (summary["num_train"], summary["num_validation"], summary["num_test"]) == (76, 20, 24)
    page = folder.report.read_text()
    assert "rl_kd on films" in page
    assert "on 24 test texts" in page
    assert re.search("<q>the (film|book) is [a-z]+</q>", page)
    words = re.sub(r"<style>.*?</style>|<pre>.*?</pre>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert not re.search(r"\bimages?\b", words, re.IGNORECASE)
    shown = json.loads((folder.gallery / "texts.json").read_text())
    assert shown["split"] == "test"
    assert {len(each["texts"]) for each in shown["examples"]} <= {1}
    assert str(run.parent) not in folder.student_description.read_text()


def test_the_student_loads_again_and_transformers_loads_the_export(run, place, tmp_path):
    student = coterie.load_student(run)
    predictions = load_file(RunFolder(run).predictions)
    with (place.path / "films.csv").open() as file:
        rows = list(csv.DictReader(file))
    exported = coterie.export_run(run, "transformers", tmp_path / "export")
    network = AutoModelForSequenceClassification.from_pretrained(exported).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = student(**batch).logits
        assert torch.equal(network(**batch).logits, logits)
    assert network.config.id2label == {0: "bad", 1: "good"}
    # The test split is 24 of the texts; the stored predictions are in float16.
    distance = (predictions["logits"][0].float()[:, None] - logits[None]).abs().amax(-1).amin(1)
    assert distance.max() < 1e-3
    assert type(student) is type(network)
    card = (exported / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "76 training texts" in card
    assert str(place.path) not in card
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].replace("FOLDER", str(exported))
    names = {"texts": [row["text"] for row in rows]}
    exec(snippet, names)
    assert torch.equal(names["logits"], logits)


def test_a_run_is_evaluated_again_and_on_other_texts(run, place, tmp_path):
    split, again = evaluate_run(run)
    assert split == "test"
    assert again.figures["students"] == RunFolder(run).read_summary()["students"]
    longer = tmp_path / "longer"
    longer.mkdir()
    for name in ("train", "test"):
        (longer / f"{name}.csv").write_text(
            "text,label\nthe film the film the film is good,good\nthe book is bad,bad\n"
        )
    _, other = evaluate_run(run, [f"data={longer}", "data.validation=0"])
    assert (other.figures["num_samples"], len(other.figures["students"])) == (2, 1)
    (longer / "train.csv").write_text("text,label\na,1\nb,2\n")
    (longer / "test.csv").write_text("text,label\na,1\n")
    with pytest.raises(coterie.CoterieError, match="has the classes 1, the run was trained on bad, good"):
        evaluate_run(run, [f"data={longer}", "data.validation=0"])


def test_the_whole_method_is_rebuilt(run, place):
    method = load_method(run)
    task = task_of(place, method="rl_kd", **place.taught())
    assert task.evaluate(method, task.data.test).figures["students"] == RunFolder(run).read_summary()["students"]


@pytest.mark.fast_for("3")
@pytest.mark.parametrize("stop_at", [3, 4, 5])  # of 4 steps an epoch
def test_resume_is_bit_equal(run, place, tmp_path, monkeypatch, stop_at):
    original = Trainer._optimizer_step

    def stopping(self):
        original(self)
        if self.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_optimizer_step", stopping)
    settings = place.settings(method="rl_kd", training={"epochs": 2}, **place.taught())
    with pytest.raises(Interrupted):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    monkeypatch.setattr(Trainer, "_optimizer_step", original)
    coterie.train(output=tmp_path / "run", resume=True, quiet=True)
    for name in ("student.safetensors", "predictions.safetensors"):
        whole, resumed = load_file(run / name), load_file(tmp_path / "run" / name)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name


def test_a_teacher_with_a_tokenizer_of_its_own_reads_its_own_tokens(place):
    task = task_of(place, method="rl_kd", **place.taught())
    method = task.build_method()
    batch = next(iter(task.data.test))
    assert len(batch.inputs) == 2  # the student's and the first teacher's tokenizer are one
    texts = [task.raw.test.texts[number][0] for number in batch.indices.tolist()]
    for output, name in zip(method.teachers(batch.inputs), ("teacher", "other"), strict=True):
        network = AutoModelForSequenceClassification.from_pretrained(place.path / name).eval()
        tokens = AutoTokenizer.from_pretrained(place.path / name)(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            torch.testing.assert_close(output.logits, network(**tokens).logits)


def test_student_0_of_every_method_starts_from_the_baselines_weights(place):
    starts = [
        task_of(place, method=method, network={"branches": branches}, **taught).build_method().group.student(0)
        for method, branches, taught in [("baseline", 1, {}), ("dml", 2, {}), ("kd", 1, place.taught("teacher"))]
    ]
    first, *others = (each.state_dict() for each in starts)
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


def test_pretrained_students_start_from_the_folders_weights(place):
    network = {"name": str(place.path / "teacher"), "pretrained": True, "branches": 2}
    group = task_of(place, method="dml", network=network).build_method().group
    stored = load_file(place.path / "teacher" / "model.safetensors")
    first, second = (group.student(number).state_dict() for number in range(2))
    assert all(torch.equal(first[key], stored[key]) for key in stored)
    key = "bert.embeddings.word_embeddings.weight"
    assert 0.005 < (second[key] - first[key]).std() / first[key].std() < 0.02  # perturbed
    assert not torch.allclose(second["classifier.weight"], first["classifier.weight"], atol=1e-3)


@pytest.mark.slow
def test_students_of_different_architectures(place, tmp_path):
    names = [str(place.path / "student"), str(place.path / "teacher")]
    result = coterie.train(place.settings(method="dml", network={"name": names}), output=tmp_path / "run", quiet=True)
    assert result.summary["network"] == "student+teacher"
    layers = [load_method(result.path).group.student(number).config.num_hidden_layers for number in range(2)]
    assert layers == [1, 2]
    with pytest.raises(coterie.CoterieError, match="have different tokenizers"):
        task_of(place, method="dml", network={"name": [names[0], str(place.path / "other")]})


@pytest.mark.slow
def test_a_comparison_of_texts(place, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(load_recipe(place.settings()).to_yaml())
    arguments = ["compare", str(recipe), "--methods", "baseline,dml", "--seeds", "2", "-o", str(tmp_path / "c")]
    monkeypatch.setattr(sys, "argv", ["coterie", *arguments])
    cli.main()
    assert "dml" in capsys.readouterr().out
    assert (tmp_path / "c" / "report.html").is_file()


def test_unfit_teachers_are_refused_in_one_line(place, tmp_path, save_network, small_run, run):
    def refused(message, **teacher):
        with pytest.raises(coterie.CoterieError, match=message) as error:
            task_of(place, method="kd", teacher=teacher)
        assert "\n" not in str(error.value)

    three = save_network(tmp_path / "three", weights=True, class_names=("a", "b", "c"))
    refused(r"the teacher '.*three' has 3 classes, the data have 2", network=str(three))
    turned = save_network(tmp_path / "turned", weights=True, class_names=("good", "bad"))
    direct = save_network(tmp_path / "direct", weights=True, class_names=("bad", "good"))
    logits = []
    for folder in (turned, direct):  # the same classes in another order: the same weights with exchanged logits
        task = task_of(place, method="kd", teacher={"network": str(folder)})
        method = task.build_method()
        logits.append(method.teachers(next(iter(task.data.train_evaluation)).inputs)[0].logits)
    torch.testing.assert_close(logits[0], logits[1].flip(1))
    mail = save_network(tmp_path / "mail", weights=True, class_names=("ham", "spam"))
    refused("knows 2 classes .ham, spam, .*they must be the same", network=str(mail))
    nameless = save_network(tmp_path / "nameless", weights=True, class_names=("LABEL_0", "LABEL_1"))
    task_of(place, method="kd", teacher={"network": str(nameless)})  # classes without names are taken as they come
    refused("no file named|cannot be loaded", network=str(place.path / "student"))  # a configuration without weights
    refused(r"there is no folder '\./nowhere'", network="./nowhere")
    refused("was trained on images, the data are texts", run=str(small_run[0]))
    headless = save_network(tmp_path / "headless", weights=True)
    state = load_file(headless / "model.safetensors")
    save_file(
        {key: value for key, value in state.items() if "classifier" not in key},
        headless / "model.safetensors",
        metadata={"format": "pt"},
    )
    refused(r"no trained sequence classifier of these classes: classifier\.bias", network=str(headless))
    settings = {"method": "kd", "data": "digits", "teacher": str(run)}
    with pytest.raises(
        coterie.CoterieError, match="is a run of task=text_classification, and this is task=image_classification"
    ):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"mixup": 0.2}}, "data.mixup is a setting of task=image_classification"),
        ({"network": {"at": "auto"}}, "network.at is a setting of task=image_classification"),
        ({"network": {"options": {"a": 1}}}, "network.options is a setting of task=image_classification"),
        ({"network": {"name": None}}, "needs network.name: a folder with config.json"),
        ({"network": {"name": "./nowhere"}}, r"there is no folder '\./nowhere'"),
        ({"method": "byot"}, "method=byot reads the stages of image networks"),
        ({"method": "stkd", "teacher": "TEACHER"}, "method=stkd mixes images"),
        ({"method": "amd", "teacher": "TEACHER"}, "amd prunes image networks"),
        ({"method": "bert"}, "unknown method 'bert'"),
    ],
)
def test_settings_that_do_not_go_together(place, tmp_path, changes, message):
    if "teacher" in changes:
        changes = {**changes, "teacher": {"network": str(place.path / "teacher")}}
    with pytest.raises(coterie.CoterieError, match=message):
        coterie.train(place.settings(**changes), output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_texts_longer_than_the_network_takes_are_refused(place, tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("text,label\n" + "".join(f"{'film ' * 30},{number % 2}\n" for number in range(20)))
    with pytest.raises(coterie.CoterieError, match=r"does not take 32 tokens: .*lower data\.max_length"):
        task_of(place, data={"name": str(path)}).build_method()
    assert task_of(place, data={"name": str(path), "max_length": 16}).build_method() is not None


def test_a_tokenizer_of_more_tokens_than_the_embedding_has_rows_is_refused(place, tmp_path, save_network):
    for kind, changes in (("student", "network"), ("teacher", "teacher")):
        folder = save_network(tmp_path / kind)
        described = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**described, "vocab_size": described["vocab_size"] - 1}))
        config = AutoConfig.from_pretrained(folder)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        settings = {"network": {"name": str(folder)}} if changes == "network" else {"teacher": {"network": str(folder)}}
        with pytest.raises(
            coterie.CoterieError, match=rf"tokens up to {described['vocab_size'] - 1}, .*resize_token_embeddings"
        ) as error:
            task_of(place, method="baseline" if changes == "network" else "kd", **settings).build_method()
        assert "\n" not in str(error.value)


def test_a_network_whose_configuration_lacks_a_padding_token_gets_the_tokenizers(place, tmp_path, save_network):
    folder = save_network(tmp_path / "gpt2")
    tokens = len(AutoTokenizer.from_pretrained(folder))
    GPT2Config(vocab_size=tokens, n_positions=16, n_embd=16, n_layer=1, n_head=2).save_pretrained(folder)
    result = coterie.train(
        place.settings(network={"name": str(folder)}, training={"epochs": 1}), output=tmp_path / "run", quiet=True
    )
    assert result.summary["status"] == "finished"
    student = result.student()
    assert student.config.pad_token_id == AutoTokenizer.from_pretrained(folder).pad_token_id == 0
    words, padded = torch.tensor([[4, 5]]), torch.tensor([[4, 5, 0, 0]])  # padding is not what the text is told by
    torch.testing.assert_close(student(words).logits, student(padded, attention_mask=(padded > 0).long()).logits)


def test_texts_are_predicted_as_the_exported_network_tells_them(run, tmp_path, monkeypatch, capsys):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = coterie.export_run(run, output=tmp_path / "export")
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["good film", "bad", "a very much longer one, with a\ttab and words nobody knows"]
    found = coterie.predict(run, texts, top=9)
    for text, prediction in zip(texts, found, strict=True):
        with torch.inference_mode():
            expected = network(**tokenizer(text, truncation=True, return_tensors="pt")).logits.softmax(-1)[0]
        assert (prediction.text, prediction.path, prediction.error) == (text, None, None)
        assert len(prediction.classes) == len(expected)
        for name, value in prediction.classes:
            assert value == pytest.approx(float(expected[network.config.label2id[name]]), abs=1e-5)
    assert coterie.predict(run, texts[0])[0].text == texts[0]
    with pytest.raises(coterie.CoterieError, match="sample 1: expected a text"):
        coterie.predict(run, ["one", ("a", "pair")])
    monkeypatch.setattr(sys, "argv", ["coterie", "predict", str(run), texts[1], "-", "--format", "json", "--top", "1"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{texts[0]}\n\n{texts[2]}\n"))
    cli.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["input"] for line in lines] == [texts[1], texts[0], texts[2]]
    assert lines[1]["classes"][0]["class"] == found[0].classes[0][0]


def test_a_run_of_texts_has_no_transform_of_images_and_no_timm_format(run, tmp_path):
    with pytest.raises(coterie.CoterieError, match="was trained on task=text_classification"):
        coterie.load_transform(run)
    for format, which in (("timm", "student"), ("onnx", "ensemble"), ("transformers", "ensemble")):
        with pytest.raises(coterie.CoterieError, match=r"transformers or onnx|holds one plain network"):
            coterie.export_run(run, format, tmp_path / "export", which=which)


@pytest.mark.slow
def test_the_onnx_cards_snippet_tells_texts_without_torch(run, tmp_path):
    folder = coterie.export_run(run, "onnx", tmp_path / "export")
    assert {"model.onnx", "tokenizer.json", "student.json", "README.md"} <= {path.name for path in folder.iterdir()}
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    texts = ["good film", "the book is awful", "bad", "a much longer one " * 3]
    code = code.replace('["first text", "second text"]', repr(texts))
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in ("torch", "transformers", "coterie"))
    program = f"import sys\n{block}{code}\nprint(json.dumps(probabilities.tolist()))\nprint(json.dumps(about))"
    said = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    *lines, probabilities, about = said.stdout.splitlines()
    assert json.loads(about)["class_names"] == ["bad", "good"]
    assert json.loads(about)["max_length"] == load_recipe(RunFolder(run).recipe).data.max_length
    assert json.loads(about)["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    predictions = coterie.predict(run, texts, top=2)
    for row, line, prediction in zip(json.loads(probabilities), lines, predictions, strict=True):
        expected = dict(prediction.classes)
        assert row == pytest.approx([expected["bad"], expected["good"]], abs=1e-5)
        assert line.split()[-2] == prediction.classes[0][0]


def test_the_original_folder_is_not_needed_any_more(place, tmp_path, save_network):
    folder = save_network(tmp_path / "gone")
    result = coterie.train(place.settings(network={"name": str(folder)}), output=tmp_path / "run", quiet=True)
    shutil.rmtree(folder)
    assert result.student() is not None
    assert load_method(result.path).group.num_students == 1
    assert evaluate_run(result.path)[1].figures["students"] == result.summary["students"]


REFUSED = {"fitnet", "at", "ofa", "byot", "dks", "frskd", "multilevel", "stkd", "amd", "one"}


@pytest.mark.parametrize("method", [name for name in TABLE if issubclass(find_method(name), GroupMethod)])
def test_every_other_method_takes_texts_or_says_why_not(place, method):
    kind = find_method(method)
    taught = place.taught(*(["teacher", "other"] if kind.max_teachers is None else ["teacher"])) if issubclass(kind, TaughtMethod) else {}  # fmt: skip
    if method in REFUSED:
        with pytest.raises(coterie.CoterieError, match=r"text_classification|share none") as error:
            prepare(place, method, taught)
        assert "\n" not in str(error.value)
        return
    built, batch = prepare(place, method, taught)
    losses = built(batch.inputs, batch.targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    without = [name for name, each in built.group.named_parameters() if each.grad is None]
    assert not without


def prepare(place, method, taught):
    TextClassification.first_stage(load_recipe(place.settings(method=method, **taught)))
    task = task_of(place, method=method, **taught)
    built = task.build_method().train()
    return built, next(iter(task.data.train.epoch(0)))


@pytest.mark.slow
def test_a_benchmark_of_texts_and_of_teachers_that_are_asked_once(quick_ceiling, place):
    """What a cached teacher costs is nothing, and its operations are not counted."""
    recipe = load_recipe(place.settings(method="kd", teacher={"network": str(place.path / "teacher")}))
    recipe = load_recipe(recipe, ["training.epochs=2"])
    cached = measure(recipe, repetitions=1, least=0.05)
    asked = measure(load_recipe(recipe, ["training.cache_teachers=false"]), repetitions=1, least=0.05)
    assert cached["operations_ratio"] == pytest.approx(1.0, rel=0.01)
    assert asked["operations_ratio"] > 1.2
    assert cached["group"]["shares"]["teachers forward"] < asked["group"]["shares"]["teachers forward"]
    text = markdown(cached)
    assert "texts a second" in text
    assert "image" not in text


@pytest.mark.slow
def test_a_frozen_text_network_trains_its_classifiers_only(place, tmp_path):
    changes = {"method": "dml", "network": {"branches": 2, "freeze": "backbone"}, "training": {"epochs": 1}}
    before = task_of(place, **changes).build_method().state_dict()
    coterie.train(place.settings(**changes), output=tmp_path / "run", quiet=True)
    after = load_checkpoint(RunFolder(tmp_path / "run").last)["method"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".classifier." in name for name in changed)
