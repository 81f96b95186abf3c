from __future__ import annotations

import pytest

from coterie.recipe import load_recipe
from coterie.recipe.sections import AUTO
from coterie.tasks.language.fitting import fit_language


def fitted(samples=1_700, vocabulary=1_024, **sections):
    return fit_language(load_recipe(task="language_modeling", **sections), samples, vocabulary)


def test_a_small_network_starts_from_nothing_in_small_batches():
    recipe, reasons = fitted()
    assert (recipe.network.pretrained, recipe.training.batch_size, recipe.training.epochs) == (False, 8, 3)
    assert recipe.optimizer.learning_rate == pytest.approx(0.002)
    assert {"network.pretrained", "training.batch_size", "optimizer.learning_rate"} <= set(reasons)
    assert AUTO not in {recipe.optimizer.weight_decay, recipe.schedule.warmup_epochs, recipe.network.hold_statistics}


def test_batches_grow_with_the_data_and_shrink_with_the_vocabulary():
    assert fitted(samples=100_000)[0].training.batch_size == 32
    assert fitted(samples=100_000, vocabulary=49_152, data={"block_length": 1024})[0].training.batch_size == 5
    assert fitted(samples=3)[0].training.batch_size == 3
    assert fitted(vocabulary=2**28)[0].training.batch_size == 1


def test_weights_that_are_there_are_taken_and_lora_has_a_rate_of_its_own(tmp_path):
    (tmp_path / "net.gguf").touch()
    name = str(tmp_path / "net.gguf")
    whole, _ = fitted(network={"name": name}, training={"batch_size": 32})
    lora, _ = fitted(network={"name": name, "lora": {"rank": 4}}, training={"batch_size": 32})
    assert whole.network.pretrained
    assert (whole.optimizer.learning_rate, lora.optimizer.learning_rate) == (2e-5, 2e-4)
    (tmp_path / "sizes.json").write_text("{}")
    bare, reasons = fitted(network={"name": [name, str(tmp_path / "sizes.json")]})
    assert not bare.network.pretrained
    assert "sizes.json" in reasons["network.pretrained"]


def test_what_is_set_stays():
    recipe, reasons = fitted(training={"batch_size": 5, "epochs": 7}, optimizer={"learning_rate": 0.5})
    assert (recipe.training.batch_size, recipe.training.epochs, recipe.optimizer.learning_rate) == (5, 7, 0.5)
    assert not {"training.batch_size", "training.epochs", "optimizer.learning_rate"} & set(reasons)
