from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.benchmark.measure import measure, plain_recipe
from coterie.benchmark.table import markdown
from coterie.benchmark.timing import ceiling, interleaved
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.tasks.images.data import streaming

SMALL = [
    "data=digits",
    "data.train_limit=100",
    "network=tiny_cifar",
    "network.branches=3",
    "network.at=layer3",
    "training.device=cpu",
    "training.batch_size=16",
]


@pytest.fixture(scope="module")
def found(quick_ceiling):
    return measure(load_recipe(None, SMALL), repetitions=2, least=0.01)


def test_operations_are_those_of_the_networks(found):
    """Two branches more cost twice what lies behind the split; the fusion module and the losses are small beside it."""
    from coterie.networks.operations import branch_shares
    from coterie.networks.papers.tiny import tiny_cifar

    share = branch_shares(tiny_cifar(num_classes=10, in_chans=1), torch.zeros(1, 1, 8, 8))["layer3"]
    assert found["operations_ratio"] == pytest.approx(1 + 2 * share, rel=0.1)
    assert found["cost_ratio"] == pytest.approx(found["time_ratio"] / found["operations_ratio"])
    assert found["plain"]["operations_per_image"] > 0


def test_figures_fit_together(found):
    group = found["group"]
    assert group["images"] == 16
    assert group["students"] == 3
    assert group["images_per_second"] == pytest.approx(16 / group["step"]["median"])
    assert group["step"]["low"] <= group["step"]["median"] <= group["step"]["high"]
    assert 0 < group["share_of_ceiling"] < 1
    assert all(share >= 0 for share in group["shares"].values())
    assert group["peak_bytes"] > 1e7
    text = markdown(found)
    assert f"cost ratio {found['cost_ratio']:.2f}" in text
    assert f"{torch.get_num_threads()} thread(s)" in text


@pytest.mark.parametrize(("method", "heading"), [("baseline", "plain network"), ("dml", "dml")])
def test_the_words_of_the_table_are_explained(found, method, heading):
    text = markdown({**found, "plain": {**found["plain"], "method": method}})
    assert f"| | group | {heading} |" in text
    legend = [line for line in text.splitlines() if line.startswith("- ")]
    for word in ("group", f"; {heading}:", "step", "data alone", "operations", "ceiling", "cost ratio", "bare step"):
        assert any(word in line for line in legend), word


@pytest.fixture
def folder(tmp_path):
    """Forty pictures of two classes."""
    for number in range(40):
        path = tmp_path / "pictures" / "train" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((80, 80, 3), number, dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.mark.slow
def test_a_step_that_waits_for_its_data_is_said_to_wait(folder, monkeypatch, quick_ceiling):
    settings = [f"data={folder}", "data.image_size=32", "data.in_memory=false", "data.workers=1", *SMALL[2:], "method=baseline"]  # fmt: skip
    settings.remove("network.branches=3")
    original = streaming.to_image

    def slow(samples, number):
        time.sleep(0.02)
        return original(samples, number)

    monkeypatch.setattr(streaming, "to_image", slow)  # workers are forked, so they sleep too
    found = measure(load_recipe(None, settings), repetitions=1, least=0.2)
    group = found["group"]
    assert group["images_per_second_with_data"] < 1.4 / 0.02  # one worker sleeps before each image
    assert group["data_share"] > 0.5
    assert "The step waits for the data" in markdown(found)


@pytest.mark.parametrize(
    ("share", "data", "words"),
    [(0.01, 1e5, "keep the step fed"), (0.2, 1e5, "come fast enough"), (0.2, 10, "waits for the data, 20%")],
)
def test_which_side_waits(found, share, data, words):
    group = {**found["group"], "data_share": share, "data_images_per_second": data, "images_per_second": 1000}
    assert words in markdown({**found, "group": group})


def test_what_is_compared_with():
    recipe = load_recipe(None, [*SMALL, "method.temperature=2"])
    plain = plain_recipe(recipe)
    assert (plain.method.name, plain.network.branches, plain.network.at) == ("baseline", None, None)
    with pytest.raises(CoterieError, match="set it to 1"):
        measure(load_recipe(None, [*SMALL, "training.accumulate=2"]))


def test_the_clock_sees_what_takes_longer():
    times = interleaved(
        {"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.01)}, torch.device("cpu"), 3, 0.02
    )
    assert times["long"].median > 3 * times["short"].median
    assert ceiling(torch.device("cpu"), torch.float32, 128) > 1e8
