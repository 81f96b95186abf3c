import pytest

from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.recipe.fitting import TABLE, Facts, fit
from coterie.recipe.sections import AUTO, OptimizerRecipe, resolved

FACTS = Facts("mobile network", pretrained=False, samples=300)


def undecided(recipe):
    """Settings that are still auto, of those that fit() decides."""
    tree = recipe.model_dump()
    keys = {("optimizer", key) for key in OptimizerRecipe.model_fields} | {
        ("schedule", "warmup_epochs"),
        ("training", "epochs"),
        ("training", "batch_size"),
    }
    return [f"{section}.{key}" for section, key in keys if tree[section][key] == AUTO]


@pytest.mark.parametrize(("family", "pretrained"), sorted(TABLE))
@pytest.mark.parametrize("samples", [1, 7, 300, 4_999, 5_000, 60_000, 1_300_000])
def test_every_kind_of_network_gets_a_complete_recipe_for_any_number_of_samples(family, pretrained, samples):
    recipe, reasons = fit(load_recipe(), Facts(family, pretrained, samples))
    assert undecided(recipe) == []
    least, most = TABLE[family, pretrained].epochs
    assert least <= recipe.training.epochs <= most
    assert recipe.training.batch_size <= samples
    assert 0 <= recipe.schedule.warmup_epochs < recipe.training.epochs
    assert reasons.keys() == {
        "network.hold_statistics",
        "optimizer.name",
        "optimizer.learning_rate",
        "optimizer.weight_decay",
        "optimizer.exclude_norm_and_bias",
        "schedule.warmup_epochs",
        "training.epochs",
        "training.batch_size",
    }
    assert all(reasons.values())


def test_few_samples_get_enough_steps():
    for samples in (300, 600, 1_000):
        recipe, _ = fit(load_recipe(), Facts("mobile network", False, samples))
        steps = recipe.training.epochs * -(-samples // recipe.training.batch_size)
        assert steps >= TABLE["mobile network", False].steps


def test_what_the_user_sets_wins_and_is_not_called_chosen():
    given = load_recipe(None, ["optimizer.learning_rate=0.3", "training.epochs=7", "optimizer.name=sgd"])
    recipe, reasons = fit(given, FACTS)
    assert (recipe.optimizer.learning_rate, recipe.training.epochs, recipe.optimizer.name) == (0.3, 7, "sgd")
    assert not {"optimizer.learning_rate", "training.epochs", "optimizer.name"} & reasons.keys()
    assert recipe.optimizer.weight_decay == 5e-4  # what belongs to SGD
    assert recipe.schedule.warmup_epochs == pytest.approx(0.35)


def test_a_rate_belongs_to_its_optimizer():
    sgd, _ = fit(load_recipe(None, ["optimizer.name=sgd"]), FACTS)
    adam, _ = fit(load_recipe(None, ["optimizer.name=nadamw"]), FACTS)
    assert sgd.optimizer.learning_rate > 5 * adam.optimizer.learning_rate
    with pytest.raises(
        CoterieError, match=r"optimizer.name='lion': no rate is known for it; set optimizer.learning_rate"
    ):
        fit(load_recipe(None, ["optimizer.name=lion"]), FACTS)
    recipe, _ = fit(load_recipe(None, ["optimizer.name=lion", "optimizer.learning_rate=1e-4"]), FACTS)
    assert recipe.optimizer.learning_rate == 1e-4


def test_a_larger_batch_has_a_larger_rate_up_to_the_tables():
    rates = {
        batch: fit(load_recipe(None, [f"training.batch_size={batch}"]), Facts("CIFAR network", False, 300))[0]
        for batch in (8, 16, 32, 128)
    }
    found = [recipe.optimizer.learning_rate for recipe in rates.values()]
    assert found == [0.025, 0.05, 0.1, 0.1]


def test_the_cifar_family_keeps_its_papers_settings_on_data_as_large_as_theirs():
    recipe, _ = fit(load_recipe(), Facts("CIFAR network", False, 50_000))
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.weight_decay) == ("sgd", 0.1, 5e-4)
    assert (optimizer.exclude_norm_and_bias, recipe.training.batch_size) == (False, 128)


@pytest.mark.parametrize(
    ("family", "pretrained", "samples", "held"),
    [
        ("mobile network", True, 300, True),
        ("mobile network", True, 5_000, False),
        ("mobile network", False, 300, False),
        ("CIFAR network", True, 300, False),
        ("text network", True, 300, False),
    ],
)
def test_statistics_are_held_where_few_images_meet_a_pretrained_mobile_network(family, pretrained, samples, held):
    recipe, _ = fit(load_recipe(), Facts(family, pretrained, samples))
    assert recipe.network.hold_statistics is held
    given = load_recipe(None, [f"network.hold_statistics={str(not held).lower()}"])
    assert fit(given, Facts(family, pretrained, samples))[0].network.hold_statistics is not held


def test_a_warm_up_that_does_not_fit_is_refused():
    with pytest.raises(CoterieError, match=r"schedule.warmup_epochs=200 must be below training.epochs=100"):
        fit(load_recipe(None, ["schedule.warmup_epochs=200"]), FACTS)


def test_a_recipe_that_is_not_fitted_is_a_programming_error():
    with pytest.raises(CoterieError, match="still auto"):
        resolved(load_recipe().training.epochs)
    assert resolved(3) == 3


@pytest.mark.parametrize("setting", ["training.epochs=many", "training.epochs=0", "optimizer.learning_rate=-1", "optimizer.learning_rate=fast", "network.pretrained=maybe"])  # fmt: skip
def test_other_words_than_auto_are_refused_in_a_line(setting):
    key = setting.partition("=")[0]
    with pytest.raises(CoterieError) as error:
        load_recipe(None, [setting])
    assert str(error.value).startswith(key)
    assert len(str(error.value).splitlines()) == 1
    assert "auto" in str(error.value) or "greater than" in str(error.value)
