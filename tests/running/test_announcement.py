from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
import torch

import coterie
from coterie.recipe.fitting import Facts, fit
from coterie.running.accelerator import build_accelerator
from coterie.running.announcement import data_lines, laid_out, method_line, network_lines, plan_lines, settings_lines
from coterie.tasks.images.task import ImageClassification


@pytest.fixture
def prepared(small):
    """A task and its method: ``prepared(**sections)``."""

    def make(**sections):
        recipe = coterie.load_recipe(small(**sections))
        task = ImageClassification(recipe, build_accelerator(recipe))
        return task.recipe, task, task.build_method()

    return make


def test_every_line_says_what_is_there(prepared):
    recipe, task, method = prepared(training={"epochs": 3, "accumulate": 2})
    data = task.data
    assert data_lines(task) == [
        ("data", "digits: 10 classes (0, 1, 2, 3, 4, ...), 8x8 pixels, 1 channel"),
        ("", f"200 training, {data.validation.num_samples} validation, {data.test.num_samples} test images"),
    ]
    trained = sum(each.numel() for each in method.parameters())
    deployed = sum(each.numel() for each in method.student().parameters())
    lines = dict([*network_lines(recipe, task, method), *plan_lines(recipe, torch.device("cpu"), 1, {})])
    assert lines == {
        "network": f"tiny_cifar, not pretrained; {deployed:,} parameters deployed, {trained:,} trained",
        "method": f"okdmde; 2 students on a shared trunk, split at {method.group.split_point}",
        "settings": "sgd, rate 0.1 (cosine), weight decay 0.0005, batch 32, 2 batches a step, 3 epochs, 0.15 of them warm-up",
        "device": f"cpu, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}, fp32",
    }


def test_what_was_left_out_is_counted(prepared):
    _, task, _ = prepared(data={"validation": 0})
    found = replace(task.data.info, skipped=1, passed_over=2_000, duplicates={"test": 3, "validation": 0})
    task.data = replace(task.data, info=found)
    assert data_lines(task)[1][1].startswith("200 training, no validation, ")
    assert data_lines(task)[1][1].endswith("test images, 1 left out, 2,000 passed over, 3 of test also in training")


def test_names_of_somebody_elses_data_stay_in_their_line(prepared):
    _, task, _ = prepared()
    names = ("x" * 100, "two\nlines\x1b[31m", "[bold]")
    task.data = replace(task.data, info=replace(task.data.info, class_names=names))
    lines = laid_out(data_lines(task))
    assert all(len(line) <= 80 for line in lines)
    assert r"two\nlines\x1b[31m" in " ".join(lines)
    assert "x" * 24 not in lines[0]


def test_peers_and_settings_of_the_method(prepared):
    recipe, _, method = prepared(method={"name": "dml", "temperature": 2.0})
    assert method_line(recipe, method) == ("method", "dml (temperature=2.0); 2 students with nothing shared")
    recipe, _, method = prepared(method="baseline", network={"branches": 1})
    assert method_line(recipe, method) == ("method", "baseline; one student")


def test_what_was_chosen_automatically_is_marked_with_its_reason():
    given = coterie.load_recipe(None, ["schedule.warmup_epochs=2", "training.epochs=30"])
    recipe, _ = fit(given, Facts("CIFAR network", pretrained=False, samples=50_000))
    chosen = {"optimizer.name": "CNN", "training.epochs": "few images", "optimizer.learning_rate": "CNN"}
    assert settings_lines(recipe, chosen) == [
        ("settings", "sgd*, rate 0.1* (cosine), weight decay 0.0005, batch 128, 30 epochs*, 2 of them warm-up"),
        ("* chosen", "optimizer.name, optimizer.learning_rate (CNN); training.epochs (few images)"),
    ]


def test_a_training_says_it_first_and_a_quiet_one_does_not(small, tmp_path, capsys):
    coterie.train(small(training={"epochs": 1}), output=tmp_path / "run")
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert [line[:10].strip() for line in lines if not line.startswith(" ")][:7] == [
        *("data", "network", "method", "settings", "* chosen", "device", "run")
    ]
    assert re.match("epoch 1/1  label loss", lines[-2])
    assert lines[-1].startswith("the deployed student has learnt nothing yet")  # of 200 images in 6 steps
    coterie.train(small(training={"epochs": 1}), output=tmp_path / "quiet", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_it_is_said_within_two_seconds_of_the_data(small, tmp_path, monkeypatch):
    moments = []
    prepare_data = coterie.tasks.images.task.prepare_data

    def note_time(*arguments, **settings):
        data = prepare_data(*arguments, **settings)
        moments.append(time.process_time())
        return data

    monkeypatch.setattr("coterie.tasks.images.task.prepare_data", note_time)
    monkeypatch.setattr(
        "coterie.training.display.Display.lines", lambda self, lines: moments.append(time.process_time())
    )
    coterie.train(small(training={"epochs": 1}), output=tmp_path / "run")
    assert len(moments) == 2  # the data read, all told
    assert moments[1] - moments[0] < 2
