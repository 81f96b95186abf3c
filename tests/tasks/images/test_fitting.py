import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import coterie
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.tasks.images import fitting as image_fitting
from coterie.tasks.images.fitting import fit_images


class OneProcess:
    is_main_process, num_processes = True, 1


def pictures(folder, side, count=4, classes=2, width=None):
    random = np.random.default_rng(0)
    for name in range(classes):
        (folder / f"class{name}").mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 255, (side, width or side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{name}" / f"{number}.png")
    return folder


def fitted(recipe, network=None, datasets=None):
    from coterie.tasks.images.data.reading import read_data

    return fit_images(recipe, read_data(recipe.data, datasets), OneProcess(), network)


@pytest.fixture
def weights(monkeypatch):
    """Decides whether timm's weights are to be had; without this fixture the Hub is switched off."""

    def say(reason):
        monkeypatch.setattr(image_fitting, "why_not_at_hand", lambda name: reason)

    return say


@pytest.mark.parametrize(
    ("side", "network", "size"),
    [
        (8, "resnet20_cifar", None),
        (32, "resnet20_cifar", None),
        (48, "resnet20_cifar", None),
        (64, "mobilenetv4_conv_small", None),
        (80, "mobilenetv4_conv_small", 64),
        (100, "mobilenetv4_conv_small", 96),
        (300, "mobilenetv4_conv_small", 224),
    ],
)
def test_a_folder_gets_a_network_and_a_size_that_suit_its_images(tmp_path, side, network, size):
    recipe, reasons = fitted(load_recipe(None, [f"data={pictures(tmp_path / 'pics', side)}"]))
    assert (recipe.network.name, recipe.data.image_size) == (network, size)
    assert recipe.network.pretrained is False
    assert str(side) in reasons["network.name"]
    assert timm.is_model(network)


def test_the_shorter_side_counts(tmp_path):
    recipe, _ = fitted(load_recipe(None, [f"data={pictures(tmp_path / 'pics', 100, width=400)}"]))
    assert recipe.data.image_size == 96


@pytest.mark.fast_for(
    "vit_tiny_patch16_224-100-False-96",
    "vit_tiny_patch16_224-100-True-None",
    "resnet20_cifar-300-False-32",
    "resnet18-200-True-192",
    "resnet18-32-True-128",
    "resnet18-32-False-64",
)
@pytest.mark.parametrize(
    ("network", "side", "pretrained", "size"),
    [
        ("resnet20_cifar", 300, False, 32),
        ("resnet18", 32, False, 64),  # five times halved, 32 pixels are one
        ("resnet18", 32, True, 128),
        ("resnet18", 200, True, 192),
        ("resnet18", 1000, True, 224),
        ("vit_tiny_patch16_224", 100, False, 96),
        ("vit_tiny_patch16_224", 100, True, None),  # its own, 224
        ("efficientnet_b3", 1000, True, 288),
    ],
)
def test_the_size_suits_the_network_too(tmp_path, weights, network, side, pretrained, size):
    weights(None if pretrained else "there is no network")
    recipe, _ = fitted(load_recipe(None, [f"data={pictures(tmp_path / 'pics', side)}", f"network={network}"]))
    assert recipe.network.pretrained is pretrained
    assert recipe.data.image_size == size


def test_known_data_sets_start_from_nothing_and_own_folders_say_why(tmp_path, weights):
    weights(None)
    recipe, reasons = fitted(load_recipe())
    assert (recipe.data.name, recipe.network.name, recipe.network.pretrained) == ("digits", "tiny_cifar", False)
    weights("ConnectError: no answer")
    recipe, reasons = fitted(load_recipe(None, [f"data={pictures(tmp_path / 'pics', 64)}", "network=resnet18"]))
    assert recipe.network.pretrained is False
    assert reasons["network.pretrained"] == "ConnectError: no answer"


def test_what_the_recipe_says_stays(tmp_path, weights):
    weights(None)
    given = {"data": {"name": str(pictures(tmp_path / "pics", 100)), "image_size": 80}, "network": {"name": "resnet18", "pretrained": False}}  # fmt: skip
    recipe, reasons = fitted(load_recipe(given))
    assert (recipe.data.image_size, recipe.network.name, recipe.network.pretrained) == (80, "resnet18", False)
    assert not {"data.image_size", "network.name", "network.pretrained"} & reasons.keys()


def test_a_network_of_ones_own_takes_the_images_as_they_are():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, stride=2), torch.nn.Flatten(), torch.nn.LazyLinear(3))
    images = np.zeros((30, 40, 40, 1), dtype=np.uint8)
    own = ((images, np.arange(30) % 3), None, None)
    recipe, reasons = fitted(load_recipe(None, ["data.name='own data'"]), network, own)
    assert recipe.data.image_size is None
    assert recipe.network.pretrained is False
    assert recipe.optimizer.name == "adamw"
    assert "convolutional network" in reasons["optimizer.name"]


def test_a_run_states_everything_and_goes_on_with_it(tmp_path):
    folder = pictures(tmp_path / "pics", 16, count=10)
    settings = {"data": str(folder), "method": "baseline", "training": {"epochs": 2}}
    coterie.train(settings, output=tmp_path / "run", quiet=True)
    stored = load_recipe(tmp_path / "run" / "recipe.yaml")
    left = [key for key, value in _flat(stored.model_dump()).items() if value == "auto"]
    assert sorted(left) == [
        "data.normalize",
        "data.test",
        "data.views",
    ]  # whose value does not depend on anything that could change
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    coterie.train(settings, output=tmp_path / "run", resume=True, quiet=True)
    with pytest.raises(CoterieError, match=r"optimizer.learning_rate differs"):
        coterie.train(
            settings, output=tmp_path / "run", resume=True, quiet=True, overrides=["optimizer.learning_rate=0.5"]
        )


def test_weights_that_are_asked_for_and_not_there_are_refused_in_a_line(tmp_path):
    folder = pictures(tmp_path / "pics", 64)
    with pytest.raises(CoterieError) as error:
        coterie.train(data=str(folder), output=tmp_path / "run", network={"name": "resnet18", "pretrained": True})
    assert str(error.value).startswith(
        "network.pretrained=true: the pretrained weights of 'resnet18' are not to be had"
    )
    assert not (tmp_path / "run").exists()


def _flat(tree, prefix=""):
    found = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.parametrize(("side", "settings", "scale"), [(32, [], None), (100, [], 0.35), (100, ["data.crop_scale=0.8"], 0.8), (100, ["data.crop_scale=null"], None), (100, ["data.in_memory=true"], None)])  # fmt: skip
def test_crops_of_few_streamed_images_show_more_of_them(tmp_path, side, settings, scale):
    recipe, reasons = fitted(load_recipe(None, [f"data={pictures(tmp_path / 'pics', side)}", *settings]))
    assert recipe.data.crop_scale == scale
    assert ("data.crop_scale" in reasons) is not any("crop_scale" in each for each in settings)


def test_the_share_that_a_crop_shows_is_what_timm_cuts_out(tmp_path):
    """A picture whose red rises from left to right: the narrower the crops, the more they differ."""
    from coterie.tasks.images.data.bundle import load_data

    (tmp_path / "pics" / "train" / "one").mkdir(parents=True)
    (tmp_path / "pics" / "train" / "two").mkdir(parents=True)
    ramp = np.zeros((100, 100, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 100)
    for number in range(8):
        Image.fromarray(ramp).save(tmp_path / "pics" / "train" / ("one", "two")[number % 2] / f"{number}.png")
    spread = {}
    for scale in (0.05, 0.9):
        recipe = load_recipe(None, [f"data={tmp_path / 'pics'}", f"data.crop_scale={scale}", "data.flip=false", "data.normalize=none", "data.image_size=96", "data.workers=0", "data.validation=0", "data.test=0"])  # fmt: skip
        data = load_data(recipe.data, batch_size=8, seed=0, device=torch.device("cpu"))
        batch = next(data.train.epoch(0))
        spread[scale] = float(batch.inputs[:, 0].mean((1, 2)).std())
    assert spread[0.05] > 2 * spread[0.9]


def test_a_crop_scale_of_images_in_memory_is_refused(tmp_path):
    folder = pictures(tmp_path / "pics", 32)
    with pytest.raises(CoterieError, match=r"data.crop_scale is for images that are streamed"):
        coterie.train(data={"name": str(folder), "crop_scale": 0.5}, output=tmp_path / "run")
