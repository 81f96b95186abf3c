from __future__ import annotations

import subprocess
import sys

import pytest

from coterie.comparison.arms import build_arms
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.plan import keep_plan, make_plan, read_plan
from coterie.errors import CoterieError


def test_arms_of_one_recipe_and_several_methods():
    arms = build_arms(
        [{"method": {"name": "okdmde", "temperature": 2.0}}], ["baseline", "okdmde"], ["training.epochs=3"]
    )
    assert list(arms) == ["baseline", "okdmde"]
    assert arms["baseline"].method.options == {}  # OKDMDE's settings are not the baseline's
    assert arms["okdmde"].method.options == {"temperature": 2.0}
    assert {recipe.training.epochs for recipe in arms.values()} == {3}


def test_the_baseline_beside_a_recipe_of_branches_is_one_network():
    arms = build_arms([{"network": {"branches": 4, "at": "layer3"}}], ["baseline", "one"])
    assert (arms["baseline"].network.branches, arms["baseline"].network.at) == (None, None)
    assert (arms["one"].network.branches, arms["one"].network.at) == (4, "layer3")


def test_students_named_on_the_command_line_are_not_the_baselines_either():
    arms = build_arms([], ["baseline", "dml"], ["network.branches=2", "network.at=peers"])
    assert (arms["baseline"].network.branches, arms["baseline"].network.at) == (None, None)
    assert (arms["dml"].network.branches, arms["dml"].network.at) == (2, "peers")


def test_a_setting_of_the_method_goes_to_every_method():
    arms = build_arms([{"method": "baseline"}], ["dml", "one"], ["method.temperature=5"])
    assert {label: arm.method.options for label, arm in arms.items()} == {
        "dml": {"temperature": 5},
        "one": {"temperature": 5},
    }


def test_a_setting_of_one_method_goes_to_its_arm_alone():
    arms = build_arms(
        [], ["baseline", "dml", "okdmde"], ["okdmde.temperature=5", "dml.temperature=2", "training.epochs=1"]
    )
    assert {label: arm.method.options for label, arm in arms.items()} == {
        "baseline": {},
        "dml": {"temperature": 2},
        "okdmde": {"temperature": 5},
    }
    assert {arm.training.epochs for arm in arms.values()} == {1}


def test_a_method_on_the_command_line_names_its_arm():
    assert {label: arm.method.name for label, arm in build_arms([], None, ["method=dml"]).items()} == {"dml": "dml"}


def test_an_unknown_method_is_named_without_importing_torch():
    code = "import sys; from coterie.comparison.arms import build_arms\ntry: build_arms([], ['baseline', 'okdmd'])\nexcept Exception as e: print('torch' in sys.modules, e)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.startswith("False unknown method 'okdmd'")


def test_arms_of_several_recipes_carry_their_names(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("method: dml\n")
    arms = build_arms([tmp_path / "a.yaml", tmp_path / "b.yaml"], ["dml", "one"])
    assert list(arms) == ["a:dml", "a:one", "b:dml", "b:one"]


def test_named_recipes_keep_their_names():
    arms = build_arms({"first": {"method": "dml"}, "second": {"method": {"name": "dml", "temperature": 3.0}}})
    assert arms["second"].method.options == {"temperature": 3.0}


@pytest.mark.parametrize(
    ("recipes", "methods", "overrides", "message"),
    [
        ([], ["okdmd"], [], "did you mean 'okdmde'"),
        (
            [],
            ["baseline", "okdmde"],
            ["method.temperature=3"],
            "unknown setting 'method.temperature' of method=baseline; okdmde.temperature=3 sets it for okdmde alone",
        ),
        ([], ["baseline", "okdmde"], ["okdmde.temprature=3"], "unknown setting 'method.temprature' of method=okdmde"),
        ([], ["baseline", "okdmde"], ["dml.temperature=3"], "dml"),
        ([], ["dml", "dml"], [], "named twice"),
        ({"a b": {}, "a-b": {}}, None, [], "same folder name"),
        ({"Run": {}, "run": {}}, None, [], "same folder name"),
        ([], ["baseline", "dml"], ["method=one"], "chosen by --methods already"),
        ([], ["baseline", "dml"], ["method.name=one"], "chosen by --methods already"),
        ([], None, ["seed=3"], "chosen by --seeds"),
        ([{"network": ["resnet18", "vgg11"]}], ["baseline", "dml"], [], "at most 1 student.* names 2"),
        ([{"method": "baseline", "network": {"branches": 2}}], None, [], "at most 1 student.* names 2"),
        (["nowhere.yaml"], None, [], "cannot read the recipe"),
        ([], ["baseline", "rlkd"], [], "^rlkd needs a teacher: set teacher.run"),
        ([{"method": "ofa"}], None, [], "^ofa needs a teacher"),
        ([], ["baseline", "kd"], ["teacher.run=nowhere"], "'nowhere' is not a run"),
        ([{"method": "at", "teachers": [{"network": "a"}, {"network": "b"}]}], None, [], "^at learns from 1 teacher"),
        ([{"method": "dml", "teaching": {"weight": 2}}], None, [], "dml has no teacher here"),
        (
            [],
            ["baseline", "byot"],
            ["task=text_classification", "network=x"],
            "byot reads the stages of image networks",
        ),
        ([], ["dml", "stkd"], ["task=language_modeling", "teacher.network=x"], "stkd (reads|mixes)"),
        ([], ["dml", "amd"], ["task=language_modeling", "teacher.network=x"], "amd (reads|prunes)"),
        ([], ["dml"], ["task=language_modeling", "training.class_weights=balanced"], "predicts tokens"),
        ([], None, ["training.epoch=3"], "did you mean 'training.epochs'"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(recipes, methods, overrides, message):
    with pytest.raises(CoterieError, match=message) as caught:
        build_arms(recipes, methods, overrides)
    assert "\n" not in str(caught.value)


def test_no_recipe_at_all_in_a_mapping():
    with pytest.raises(CoterieError, match="at least one recipe"):
        make_plan(build_arms({}), 2)


def test_rounds_of_one_seed_for_every_arm():
    plan = make_plan(build_arms([], ["dml", "one"]), [3, 5])
    assert [(job.seed, job.label) for job in plan.jobs()] == [(3, "dml"), (3, "one"), (5, "dml"), (5, "one")]
    assert [job.recipe.seed for job in plan.jobs()] == [3, 3, 5, 5]


def test_the_reference_is_the_baseline_where_there_is_one(tmp_path):
    arms = build_arms([], ["dml", "baseline"])
    assert make_plan(arms, 2).reference == "baseline"
    assert make_plan(build_arms([], ["one", "dml"]), 2).reference == "one"
    with pytest.raises(CoterieError, match="did you mean 'dml'"):
        keep_plan(ComparisonFolder(tmp_path / "c"), make_plan(arms, 2), "dmll")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("seeds", [0, [], [1, 1], [-1], [2**31]])
def test_wrong_seeds(seeds):
    with pytest.raises(CoterieError, match="seeds"):
        make_plan(build_arms([], ["dml"]), seeds)


def started(folder: ComparisonFolder, label: str) -> None:
    """As far as a training that has just begun."""
    (folder.runs(label) / "seed0").mkdir(parents=True)
    (folder.runs(label) / "seed0" / "recipe.yaml").write_text("data: digits\n")


def test_a_plan_is_kept_and_can_grow_but_not_change(tmp_path):
    folder = ComparisonFolder(tmp_path / "c")
    keep_plan(folder, make_plan(build_arms([], ["dml"]), 2))
    started(folder, "dml")
    grown = keep_plan(folder, make_plan(build_arms([], ["one"]), [1, 7]))
    assert list(grown.arms) == ["dml", "one"]
    assert grown.seeds == (0, 1, 7)
    assert read_plan(folder) == grown
    with pytest.raises(CoterieError, match=r"'dml' has other settings \(training.epochs\)"):
        keep_plan(folder, make_plan(build_arms([], ["dml"], ["training.epochs=9"]), 2))
    with pytest.raises(CoterieError, match="same folder name"):
        keep_plan(folder, make_plan(build_arms({"DML": {}}), 2))
    assert read_plan(folder) == grown
    assert sorted(path.name for path in folder.path.iterdir()) == ["plan.json", "runs"]


def test_how_fast_a_run_goes_may_change(tmp_path):
    folder = ComparisonFolder(tmp_path)
    keep_plan(folder, make_plan(build_arms([], ["dml"]), 2))
    started(folder, "dml")
    plan = keep_plan(folder, make_plan(build_arms([], ["dml"], ["data.workers=1"]), 2))
    assert plan.arms["dml"].data.workers == 1


def test_a_wrong_setting_can_be_put_right_while_nothing_was_trained_by_it(tmp_path):
    folder = ComparisonFolder(tmp_path)
    keep_plan(folder, make_plan(build_arms([], ["dml"], ["network=resnet88"]), 2))
    plan = keep_plan(folder, make_plan(build_arms([], ["dml"], ["network=tiny_cifar"]), 2))
    assert read_plan(folder).arms["dml"].network.name == plan.arms["dml"].network.name == "tiny_cifar"
    (folder.runs("dml") / "seed1").mkdir(parents=True)
    (folder.runs("dml") / "seed1" / "recipe.yaml").write_text("")  # it has begun
    with pytest.raises(CoterieError, match="other settings"):
        keep_plan(folder, make_plan(build_arms([], ["dml"], ["network=resnet88"]), 2))


def test_the_reference_stays_until_another_is_named(tmp_path):
    folder = ComparisonFolder(tmp_path)
    keep_plan(folder, make_plan(build_arms([], ["dml", "one"]), 2), "one")
    assert keep_plan(folder, make_plan(build_arms([], ["kdcl"]), 2)).reference == "one"
    assert keep_plan(folder, make_plan(build_arms([], ["kdcl"]), 2), "dml").reference == "dml"


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CoterieError, match="not empty"):
        keep_plan(ComparisonFolder(tmp_path), make_plan(build_arms([], ["dml"]), 2))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(CoterieError, match="cannot write to"):
        keep_plan(ComparisonFolder(tmp_path / "thesis.txt" / "c"), make_plan(build_arms([], ["dml"]), 2))


def test_a_damaged_plan(tmp_path):
    (tmp_path / "plan.json").write_text('{"arms": 3}')
    with pytest.raises(CoterieError, match="damaged"):
        read_plan(ComparisonFolder(tmp_path))
    with pytest.raises(CoterieError, match="not a comparison"):
        read_plan(ComparisonFolder(tmp_path / "none"))


def test_teachers_go_to_the_methods_made_of_them():
    """A baseline that learns from the teacher would be no baseline; OKDMDE beside one is a recipe of its own."""
    recipe = {"method": "kd", "teacher": {"network": "resnet18"}}
    arms = build_arms([recipe], methods=["kd", "dist", "baseline", "okdmde", "byot"])
    assert {label for label, arm in arms.items() if arm.teacher is not None} == {"kd", "dist"}
    both = build_arms({"both": {"method": "okdmde", "teacher": {"network": "resnet18"}}})
    assert both["both"].teacher is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["digits"], "dml"), "methods='dml': expected a list"),
        ((["digits"], [3]), r"methods=\[3\]"),
        (([], None, "seed=1"), "overrides='seed=1'"),
        (([3], None), "a recipe is int"),
        (({"a": 4.5}, None), "a recipe is float"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments, words):
    with pytest.raises(CoterieError, match=words):
        build_arms(*arguments)
