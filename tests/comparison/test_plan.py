from __future__ import annotations

import pytest

from coterie.comparison.plan import ComparisonFolder, build_arms, keep_plan, make_plan, read_plan
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
        ([], ["baseline", "okdmde"], ["method.temperature=3"], "unknown setting 'method.temperature' of Baseline"),
        ([], ["dml", "dml"], [], "two arms are called 'dml'"),
        ({"a b": {}, "a-b": {}}, None, [], "same folder names"),
        (["nowhere.yaml"], None, [], "cannot read the recipe"),
        ([], None, ["training.epoch=3"], "did you mean 'training.epochs'"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(recipes, methods, overrides, message):
    with pytest.raises(CoterieError, match=message) as caught:
        build_arms(recipes, methods, overrides)
    assert "\n" not in str(caught.value)


def test_rounds_of_one_seed_for_every_arm():
    plan = make_plan(build_arms([], ["dml", "one"]), [3, 5], None)
    assert [(job.seed, job.label) for job in plan.jobs()] == [(3, "dml"), (3, "one"), (5, "dml"), (5, "one")]
    assert [job.recipe.seed for job in plan.jobs()] == [3, 3, 5, 5]


def test_the_reference_is_the_baseline_where_there_is_one():
    arms = build_arms([], ["dml", "baseline"])
    assert make_plan(arms, 2, None).reference == "baseline"
    assert make_plan(build_arms([], ["one", "dml"]), 2, None).reference == "one"
    with pytest.raises(CoterieError, match="did you mean 'dml'"):
        make_plan(arms, 2, "dmll")


@pytest.mark.parametrize("seeds", [0, [], [1, 1], [-1]])
def test_wrong_seeds(seeds):
    with pytest.raises(CoterieError, match="seeds"):
        make_plan(build_arms([], ["dml"]), seeds, None)


def test_a_plan_is_kept_and_can_grow_but_not_change(tmp_path):
    folder = ComparisonFolder(tmp_path / "c")
    keep_plan(folder, make_plan(build_arms([], ["dml"]), 2, None))
    grown = keep_plan(folder, make_plan(build_arms([], ["one"]), [1, 7], None))
    assert list(grown.arms) == ["dml", "one"]
    assert grown.seeds == (0, 1, 7)
    assert read_plan(folder) == grown
    with pytest.raises(CoterieError, match=r"'dml' has other settings \(training.epochs\)"):
        keep_plan(folder, make_plan(build_arms([], ["dml"], ["training.epochs=9"]), 2, None))
    assert read_plan(folder) == grown


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CoterieError, match="not empty"):
        keep_plan(ComparisonFolder(tmp_path), make_plan(build_arms([], ["dml"]), 2, None))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_plan(tmp_path):
    (tmp_path / "plan.json").write_text('{"arms": 3}')
    with pytest.raises(CoterieError, match="damaged"):
        read_plan(ComparisonFolder(tmp_path))
    with pytest.raises(CoterieError, match="not a comparison"):
        read_plan(ComparisonFolder(tmp_path / "none"))
