from __future__ import annotations

import pickle
import re

import pytest
import yaml

from coterie.errors import CoterieError
from coterie.recipe import Recipe, load_recipe
from coterie.recipe.recipe import differing_keys, known_keys


def test_yaml_round_trip(tmp_path):
    recipe = load_recipe(
        None, ["data=cifar100", "method.temperature=4", "network=[a, b]", "training.epochs=7", "seed=3"]
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe
    assert differing_keys(load_recipe(path), recipe) == []


def test_short_and_long_names_mean_the_same():
    assert (
        load_recipe({"data": "digits"})
        == load_recipe({"data": {"name": "digits"}})
        == load_recipe(None, ["data=digits"])
    )


def test_overrides_merge_into_sections_and_win_over_the_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: cifar10\nmethod: {name: okdmde, temperature: 2}\ntraining: {epochs: 9, batch_size: 8}\n")
    recipe = load_recipe(path, ["data.validation=0", "method.temperature=5", "training.epochs=10"], seed=4)
    assert (recipe.data.name, recipe.data.validation) == ("cifar10", 0)
    assert recipe.method.options == {"temperature": 5}
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.seed) == (10, 8, 4)
    assert load_recipe(path, ["network.options.drop_path_rate=0.1"]).network.options == {"drop_path_rate": 0.1}


@pytest.mark.parametrize("task", ["image_classification", "text_classification", "language_modeling"])
def test_a_teachers_network_is_a_name_whatever_is_set_before_it(task):
    """Only the recipe's own ``network`` is a section that its name stands for."""
    recipe = load_recipe(None, [f"task={task}", "teacher.run=runs/a", "teacher.network=resnet18"])
    assert recipe.teacher.network == "resnet18"
    assert load_recipe(recipe, ["teacher.network=vit"]).teacher.network == "vit"


def test_numbers_with_an_exponent_but_no_point_are_numbers(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("method: {name: okdmde, diversity_weight: 5e-8}\noptimizer: {learning_rate: 1e-1}\n")
    recipe = load_recipe(path, ["optimizer.weight_decay=1e-4"])
    assert recipe.method.options == {"diversity_weight": 5e-8}
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay) == (0.1, 1e-4)


def test_differing_keys_are_named():
    first = load_recipe(None, ["seed=1", "method.temperature=2"])
    assert differing_keys(first, load_recipe(None, ["seed=2"])) == ["method.temperature", "seed"]


def test_every_setting_is_described():
    schema = Recipe.model_json_schema()
    assert "training.epochs" in known_keys()
    assert set(schema["properties"]) == {
        *("task", "data", "network", "method", "optimizer", "schedule", "training"),
        *("teacher", "teachers", "teaching", "seed"),
    }
    assert {"teacher.run", "teaching.weight", "data.flip"} <= set(known_keys())
    assert {"teacher.run", "data.columns"} <= set(known_keys("text_classification"))
    assert not {"data.flip", "network.at", "teacher.mean"} & set(known_keys("text_classification"))


@pytest.mark.parametrize(
    ("task", "setting", "message"),
    [
        (
            "text_classification",
            "data.flip=true",
            "data.flip is a setting of task=image_classification and restoration, not of",
        ),
        ("text_classification", "network.weights=a.pt", "network.weights is a setting of task=image_classification"),
        ("text_classification", "teacher.mean=[1.0]", "teacher.mean is a setting of task=image_classification"),
        ("image_classification", "data.columns=[a]", "data.columns is a setting of task=text_classification"),
        ("image_classification", "data.max_lenth=3", "did you mean"),
        ("image_clasification", "seed=1", "did you mean 'image_classification'"),
        ("image_classification", "block_length=3", "did you mean data.block_length of task=language_modeling?"),
        ("[1]", "seed=1", "expected one of image_classification"),
    ],
)
def test_settings_go_by_task(task, setting, message):
    with pytest.raises(CoterieError, match=re.escape(message)):
        load_recipe(None, [f"task={task}", setting])


def test_recipes_of_a_task_are_pickled_and_copied():
    recipe = load_recipe(None, ["task=text_classification", "data.columns=[a,b]", "seed=3"])
    again = pickle.loads(pickle.dumps(recipe))
    assert again == recipe
    assert type(again) is type(recipe) is type(load_recipe(recipe))


def test_a_recipe_from_before_tasks_had_settings_of_their_own_is_read():
    everything = load_recipe().model_dump()
    older = {"columns": ["text"], "label": "label", "max_length": 128}
    assert load_recipe({**everything, "text": older}) == load_recipe()
    texts = load_recipe({**everything, "task": "text_classification", "text": {**older, "max_length": 64}})
    assert texts.data.max_length == 64
    with pytest.raises(CoterieError, match=r"data\.max_length is a setting of task=text_classification"):
        load_recipe({**everything, "text": {**older, "max_length": 64}})
    with pytest.raises(CoterieError, match=r"data\.flip is a setting of task=image_classification"):
        load_recipe(
            {**load_recipe(None, ["data.flip=true"]).model_dump(), "task": "text_classification", "text": older}
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "did you mean 'training.epochs'"),
        ("trainng.epochs=3", "did you mean 'training'"),
        ("training.epochs=-1", "greater than or equal to 1"),
        ("training.epochs=many", "valid integer"),
        ("training.batch_size=1.5", "valid integer"),
        ("training.precision=fp8", "'fp32', 'bf16' or 'fp16'"),
        ("optimizer.learning_rate=nan", "finite number"),
        ("optimizer.learning_rate=0", "greater than 0"),
        ("data.validation=1", "less than 1"),
        ("network.branches=0", "greater than or equal to 1"),
        ("seed=-1", "greater than or equal to 0"),
        ("nonsense", "expected key=value"),
        ("training=5", "training=5 is not a section: expected settings in it, such as training.epochs"),
        ("task=language_modeling network.lora=4", "network.lora=4 is not a section"),
        ("task=language_modeling network.lora.rnk=4", "did you mean 'network.lora.rank'"),
        ("training.epochs=1 training.epochs.x=2", "training.epochs='1' holds no settings: x"),
    ],
)
def test_mistakes_are_named_in_one_line(override, message):
    with pytest.raises(CoterieError) as caught:
        load_recipe(None, override.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not a YAML recipe"), ("- 1\n- 2\n", "not a recipe"), ("x: 1", "unknown setting 'x'")],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(CoterieError) as caught:
        load_recipe(path)
    assert message in str(caught.value)


def test_a_recipe_executes_no_code(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.dump({"data": "digits"}) + "seed: !!python/object/apply:os.getpid []\n")
    with pytest.raises(CoterieError, match="not a YAML recipe"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"training": {"channels_last": "maybe"}},
            "training.channels_last='maybe': input should be 'auto' or a valid boolean",
        ),
        (
            {"training": {"class_weights": "some"}},
            "training.class_weights='some': input should be 'none' or 'balanced' or a valid list",
        ),
        ({"training": {"class_weights": [1, "x"]}}, "training.class_weights.1='x': input should be a valid number"),
        ({"network": {"name": 7}}, "network.name=7: input should be a valid list or a valid string"),
        ({"network": {"name": [3]}}, "network.name.0=3: input should be a valid string"),
        ({"data": {"crop_padding": "x"}}, "data.crop_padding='x': input should be a valid integer"),
        ({"teachers": [{"run": 3}]}, "teachers.0.run=3: input should be a valid string"),
        ({"teachers": [{"run": "a"}, {"rum": "b"}]}, "teachers.1.rum"),
        ({"schedule": {"milestones": ["x"]}}, "schedule.milestones.0='x': input should be a valid number"),
        ({"training": 7, "data": {"validation": 2}}, "data.validation=2: input should be less than 1"),
    ],
)
def test_a_wrong_value_is_told_by_the_settings_own_name(tree, message):
    """Without the library's names for the kinds of value that a setting may have."""
    with pytest.raises(CoterieError) as caught:
        load_recipe(tree)
    assert message in str(caught.value)
    assert not re.search(r"function-|literal\[|list\[|constrained|\.bool", str(caught.value))


@pytest.mark.parametrize(
    "settings",
    [
        ["task=speech", "data.noise=babble"],
        ["training.ema=0.9", "training.ema=2"],
    ],
)
def test_a_check_of_several_settings_does_not_print_the_whole_section(settings):
    with pytest.raises(CoterieError) as caught:
        load_recipe(None, settings)
    assert "{" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_value_of_the_wrong_type_is_still_shown():
    with pytest.raises(CoterieError, match=r"data\.name=\{'a': 1\}: "):
        load_recipe({"data": {"name": {"a": 1}}})
