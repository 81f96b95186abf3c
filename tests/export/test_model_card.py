from __future__ import annotations

import pytest
import yaml

from coterie.export.model_card import model_card, shareable_recipe
from coterie.recipe import load_recipe
from coterie.tasks.images.formats import FORMATS

FIGURES = {"top1": 0.5, "top5": 0.9, "nll": 1.25, "brier": 0.6, "ece": 0.1}
STUDENT = {
    "network": "resnet18",
    "options": {},
    "num_classes": 60,
    "class_names": [f"Straße: {number}" for number in range(60)],
    "input_size": [3, 224, 224],
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "interpolation": "bicubic",
    "crop": 0.875,
    "method": "mine.module:Method",
    "data": "/home/someone/pictures",
    "student": 0,
    "figures": FIGURES,
}


def card(recipe=None, description=STUDENT, summary=None, format="timm", which="student"):
    return model_card(
        format=next(each for each in FORMATS if each.name == format),
        which=which,
        description=description,
        parameters=11_000_000,
        recipe=load_recipe(recipe),
        summary=summary or {},
        environment={},
        check="",
    )


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize(("classes", "shown"), [(9, False), (10, True)])
def test_top5_is_shown_from_ten_classes_on(classes, shown):
    text = card(description=STUDENT | {"num_classes": classes, "class_names": list(map(str, range(classes)))})
    assert ("top-5" in text) == ("| 90.00% |" in text) == shown


def test_a_run_that_says_little_still_gets_a_card():
    text = card()
    assert front_matter(text)["model-index"][0]["name"] == "resnet18-mine.module:Method-pictures"
    assert "| **this export** | 50.00% | 90.00% | 1.2500 | 0.6000 | 0.1000 |" in text
    assert "mean of the students" not in text
    assert "11,000,000 parameters, 60 classes" in text
    assert "shorter side to 256" in text
    assert "Straße: 49" in text
    assert "Straße: 50" not in text
    assert "and 10 more, in config.json" in text
    assert "/home" not in text
    assert "Checked" not in text


def test_without_figures_it_claims_none():
    text = card(description={**STUDENT, "figures": {}})
    assert "model-index" not in front_matter(text)
    assert "holds no figures" in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [("digits", "digits"), ("/home/a/b", "b"), ("../b", "b"), ("~/c/d", "d"), ("hf://user/set", "hf://user/set")],
)
def test_the_recipe_is_shared_without_places(name, shown):
    shared = load_recipe(yaml.safe_load(shareable_recipe(load_recipe({"data": {"name": name, "root": "/home/a"}}))))
    assert (shared.data.name, shared.data.root) == (shown, None)


def test_hub_data_and_pretrained_weights_are_named():
    recipe = {"data": "hf://user/set", "network": {"name": "resnet18", "pretrained": True}}
    text = card(recipe, {**STUDENT, "data": "hf://user/set"})
    assert front_matter(text)["datasets"] == ["user/set"]
    assert "from timm's pretrained weights" in text
    assert "and of the pretrained weights they started from" in text


def test_students_of_different_architectures_are_all_named():
    several = {key: value for key, value in STUDENT.items() if key not in {"network", "options", "student"}}
    several["networks"] = [{"network": name, "options": {}} for name in ("resnet18", "tiny_cifar")]
    text = card(description=several, format="safetensors", which="ensemble")
    assert "Ensemble of 2 resnet18 and tiny_cifar" in text
    assert "register()" in text


def test_a_class_name_does_not_close_the_block_that_shows_it():
    text = card(description={**STUDENT, "class_names": ["```", "a\n````\n# Title", "\x1b[31mred"]})
    start = text.index("`````text\n")
    block = text[start:].split("\n`````\n")[0]
    assert len(block.splitlines()) == 4
    assert "\n# Title" not in text
    assert "\x1b" not in text
