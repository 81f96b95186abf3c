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
    whole = {"name": "dist"}  # its losses need all logits in memory
    assert fitted(samples=100_000)[0].training.batch_size == 32
    assert (
        fitted(samples=100_000, vocabulary=49_152, data={"block_length": 1024}, method=whole)[0].training.batch_size
        == 5
    )
    assert fitted(samples=3)[0].training.batch_size == 3
    assert fitted(vocabulary=2**28, method=whole)[0].training.batch_size == 1


@pytest.mark.parametrize(("vocabulary", "length", "rows"), [(49_152, 1024, 8), (2**20, 1024, 8), (49_152, 4096, 2), (49_152, 16_384, 1), (49_152, 256, 32)])  # fmt: skip
def test_where_logits_are_computed_in_parts_the_vocabulary_does_not_shrink_a_batch(vocabulary, length, rows):
    sections = {"data": {"block_length": length}, "method": {"name": "kd"}}
    recipe, reasons = fitted(samples=100_000, vocabulary=vocabulary, **sections)
    assert recipe.training.batch_size == rows
    whole = rows * length * vocabulary <= 2**28
    assert reasons["training.batch_size"].endswith("in parts") is not whole


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
