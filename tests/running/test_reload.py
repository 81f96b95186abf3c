from __future__ import annotations

import pytest

import coterie
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.running.reload import MEASURED_WITH

RECIPE = load_recipe(None)
TRAINED = [f"training.{key}" for key in type(RECIPE.training).model_fields if key not in MEASURED_WITH]
TRAINED += [f"data.{key}" for key in RECIPE.data.training_only]


@pytest.mark.parametrize("key", TRAINED)
def test_a_setting_that_an_evaluation_does_not_read_is_refused(small_run, key):
    """Each of them, whatever value it is given, the run's own included."""
    section, _, name = key.partition(".")
    for given in (getattr(getattr(RECIPE, section), name), "7"):
        with pytest.raises(CoterieError, match=f"'{key}=.* changes how a network is trained and nothing of an eval"):
            coterie.evaluate_run(small_run[0], [f"{key}={given}"])


@pytest.mark.parametrize("override", ["network.branches=2", "seed=1", "method=dml"])
def test_another_section_is_refused(small_run, override):
    with pytest.raises(CoterieError, match="only data"):
        coterie.evaluate_run(small_run[0], [override])
