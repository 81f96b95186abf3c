"""What resume and evaluate accept: the same data wherever they lie; anything else in a line that names it."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import coterie
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.running.output import free_name

SMALL = {
    "training": {"epochs": 1, "batch_size": 8, "device": "cpu"},
    "network": "tiny_cifar",
    "method": "baseline",
    "quiet": True,
}


def images(channels=3, count=40):
    return np.random.default_rng(channels).integers(0, 256, (count, 12, 12, channels), dtype=np.uint8), np.arange(
        count
    ) % 2


def unfinished(path):
    """A run as a kill before its summary leaves it."""
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**summary, "status": "running"}))


def test_own_data_are_recorded_and_asked_for_again(tmp_path):
    data = (images(), None, images(count=20))
    run = coterie.train(data=data, output=tmp_path / "run", **SMALL)
    assert run.summary["data"] == "own data"
    assert coterie.load_recipe(run.path / "recipe.yaml").data.name == "own data"
    with pytest.raises(CoterieError, match="trained on data of your own"):
        coterie.evaluate_run(run.path)
    split, evaluation = coterie.evaluate_run(run.path, data=data)
    assert (split, evaluation.figures["deployed"]["top1"]) == ("test", run.summary["deployed"]["top1"])
    assert len(coterie.evaluate_run(run.path, data=images(count=30))[1].labels) == 30
    # the run's own data, given again as they were, keep the splits that the run made of them
    alone = coterie.train(data=images(), output=tmp_path / "alone", **SMALL)
    assert len(coterie.evaluate_run(alone.path, data=images())[1].labels) == alone.summary["num_test"] == 8
    unfinished(run.path)
    with pytest.raises(CoterieError, match="trained on data of your own"):
        coterie.train(output=run.path, resume=True, quiet=True)
    other = images()[0].copy()
    other[0, 0, 0] ^= 255
    with pytest.raises(CoterieError, match=r"with other data: (train|validation) samples of '0' are others"):
        coterie.train(output=run.path, resume=True, quiet=True, data=((other, images()[1]), None, data[2]))
    again = coterie.train(output=run.path, resume=True, quiet=True, data=data)
    assert again.summary["deployed"] == run.summary["deployed"]


@pytest.mark.slow
def test_a_folder_may_move_and_its_data_may_not_change(tmp_path, monkeypatch):
    pixels, labels = images()
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / "pics" / ("ant", "bee")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02}.png")
    monkeypatch.chdir(tmp_path)
    run = coterie.train(data="pics", output="run", **SMALL)
    monkeypatch.chdir("/")
    path = tmp_path / "run"
    assert coterie.evaluate_run(path)[1].figures["deployed"]["top1"] == run.summary["deployed"]["top1"]
    shutil.move(tmp_path / "pics", tmp_path / "moved")
    moved = coterie.evaluate_run(path, data=tmp_path / "moved")[1]
    assert len(moved.labels) == run.summary["num_test"] == 8  # not the images that were trained on
    unfinished(path)
    with pytest.raises(CoterieError, match=r"another recipe: training\.batch_size differs$"):
        coterie.train(output=path, resume=True, quiet=True, overrides=["training.batch_size=3"])
    resumed = coterie.train(output=path, resume=True, quiet=True, data=tmp_path / "moved")
    assert resumed.summary["deployed"] == run.summary["deployed"]
    assert coterie.evaluate_run(path)[0] == "test"
    unfinished(path)
    (tmp_path / "moved" / "bee").rename(tmp_path / "moved" / "wasp")
    with pytest.raises(CoterieError, match="the class 'bee' is called 'wasp' now"):
        coterie.train(output=path, resume=True, quiet=True)
    (tmp_path / "moved" / "wasp").rename(tmp_path / "moved" / "bee")
    for number in range(5):
        shutil.copy(tmp_path / "moved" / "bee" / "01.png", tmp_path / "moved" / "bee" / f"new{number}.png")
    with pytest.raises(CoterieError, match=r"train has \d+ samples, not 28"):
        coterie.train(output=path, resume=True, quiet=True)
    (path / "data.json").unlink()
    coterie.train(output=path, resume=True, quiet=True)  # of an older version: it cannot be checked


@pytest.mark.parametrize("channels", [2, 6])
def test_images_of_any_channels_train_to_the_end(tmp_path, channels):
    run = coterie.train(data=(images(channels), None, images(channels)), output=tmp_path / "run", **SMALL)
    assert run.summary["status"] == "finished"
    assert list(RunFolder(run.path).gallery.iterdir())


def test_a_gallery_that_fails_costs_nothing_else(tmp_path, monkeypatch):
    def broken(*_):
        raise TypeError("Cannot handle this data type")

    monkeypatch.setattr("coterie.tasks.images.task.ImageClassification.save_examples", broken)
    monkeypatch.setattr("coterie.running.outcome.write_report", broken)
    run = coterie.train(data=(images(), None, None), output=tmp_path / "run", **SMALL)
    assert run.summary["status"] == "finished"
    coterie.load_student(run.path)


def own_network():
    return timm.create_model("resnet10t", num_classes=10, in_chans=1)


@pytest.mark.slow
def test_a_run_on_networks_of_ones_own_goes_on_with_them_only(tmp_path):
    settings = {
        "training": {"epochs": 1, "device": "cpu"},
        "data": {"train_limit": 100},
        "network": {"branches": 2, "at": "peers"},
    }
    for name, given in (("own", {"network": own_network}), ("named", {}), ("taught", {"teacher": own_network()})):
        coterie.train(settings, output=tmp_path / name, quiet=True, **given)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        (tmp_path / name / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    with pytest.raises(CoterieError, match="on a network of your own: pass it"):
        coterie.train(output=tmp_path / "own", resume=True, quiet=True)
    with pytest.raises(CoterieError, match="on tiny_cifar: leave it out"):
        coterie.train(output=tmp_path / "named", resume=True, network=own_network, quiet=True)
    with pytest.raises(CoterieError, match="taught by 1 module"):
        coterie.train(output=tmp_path / "taught", resume=True, quiet=True)
    for name, given in (("own", {"network": own_network}), ("named", {}), ("taught", {"teacher": own_network()})):
        assert coterie.train(output=tmp_path / name, resume=True, quiet=True, **given).summary["status"] == "finished"


def test_a_folder_without_a_name_says_what_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for settings, name in (
        ([], "digits_okdmde_seed0"),  # the data choose the network, and are not read yet
        (["network=tiny_cifar", "seed=3"], "digits_tiny_cifar_okdmde_seed3"),
        (["network.name=null"], "digits_tiny_cifar_okdmde_seed0"),
        (["network=[tiny_cifar, resnet8_cifar]", "method=dml"], "digits_tiny_cifar-resnet8_cifar_dml_seed0"),
    ):
        assert free_name(load_recipe(None, settings), None, None).name == name
    assert free_name(load_recipe(), torch.nn.Identity(), None).name == "digits_own-network_okdmde_seed0"


def test_a_run_with_a_setting_that_is_refused_now_is_measured_and_resumed(tmp_path):
    """As one of an earlier version: the setting has no effect."""
    data, method = (images(), None, images(count=20)), {"name": "dml", "distillation_weight": 0}
    run = coterie.train(data=data, output=tmp_path / "run", **{**SMALL, "method": method})
    stored = run.path / "recipe.yaml"
    stored.write_text(stored.read_text().replace("distillation_weight: 0", "distillation_weight: 0\n  temperature: 2"))
    _, evaluation = coterie.evaluate_run(run.path, data=data)
    assert evaluation.figures["deployed"]["top1"] == run.summary["deployed"]["top1"]
    unfinished(run.path)
    again = coterie.train(output=run.path, resume=True, quiet=True, data=data)
    assert again.summary["deployed"] == run.summary["deployed"]
    with pytest.raises(CoterieError, match=r"method.temperature=2 has no effect with method.distillation_weight=0$"):
        coterie.train(stored, data=data, output=tmp_path / "new", quiet=True)
