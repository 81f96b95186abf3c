from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import coterie
from coterie.errors import CoterieError
from coterie.prediction import predict
from coterie.student import load_student
from coterie.tasks.images.data.batch import DataInfo
from coterie.tasks.images.data.bundle import DataBundle, load_data
from coterie.tasks.images.data.catalogue import OWN_DATA
from coterie.tasks.images.data.streaming import evaluation_transform
from coterie.tasks.images.predict import load_images
from coterie.tasks.images.settings import ImageData


def description_of(info: DataInfo) -> dict[str, Any]:
    """What student.json says of the data."""
    fields = {"data": info.name, "class_names": list(info.class_names), "input_size": list(info.input_size)}
    return {**fields, "mean": info.mean, "std": info.std, "interpolation": info.interpolation, "crop": info.crop}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with two classes of photographs of different shapes."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, size in {"wide": (70, 48), "high": (48, 96)}.items():
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(6):
                coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return root


def evaluated_inputs(settings: dict[str, Any]) -> tuple[torch.Tensor, DataBundle]:
    bundle = load_data(ImageData(**settings), batch_size=4, seed=0, device=torch.device("cpu"), channels_last=True)
    assert bundle.test is not None
    return torch.cat([batch.inputs for batch in bundle.test]), bundle


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 32},
        {"image_size": 80, "in_memory": True},
        {"image_size": 32, "in_memory": False},
        {"in_memory": False},
    ],
    ids=["memory", "memory, enlarged", "streamed", "streamed, 224"],
)
def test_files_are_prepared_as_the_evaluation_prepares_them(pictures, settings):
    inputs, bundle = evaluated_inputs({"name": str(pictures), "workers": 0, **settings})
    paths = sorted((pictures / "test").rglob("*.png"))
    torch.testing.assert_close(load_images(paths, description_of(bundle.info)), inputs, atol=1e-5, rtol=0)


def test_the_gallery_of_an_in_memory_set_is_what_the_network_saw(tmp_path):
    inputs, bundle = evaluated_inputs({"name": "digits"})
    paths = [tmp_path / f"{index}.png" for index in (0, 5)]
    for path, pixels in zip(paths, bundle.test.raw_images([0, 5]), strict=True):
        Image.fromarray(np.asarray(pixels).squeeze()).save(path)
    torch.testing.assert_close(load_images(paths, description_of(bundle.info)), inputs[[0, 5]], atol=1e-5, rtol=0)


def test_a_file_of_the_original_size_is_shrunk_as_the_data_were(tmp_path):
    inputs, bundle = evaluated_inputs({"name": "digits", "image_size": 4})
    _, original = evaluated_inputs({"name": "digits"})
    Image.fromarray(np.asarray(original.test.raw_images([3])[0]).squeeze()).save(tmp_path / "3.png")
    step = 1 / 255 / bundle.info.std[0]  # Pillow and torch may round a pixel apart
    actual = load_images([tmp_path / "3.png"], description_of(bundle.info))
    torch.testing.assert_close(actual, inputs[[3]], atol=1.01 * step, rtol=0)


def test_predictions_on_the_gallery_are_those_of_the_evaluation(tmp_path):
    """From end to end: train, then predict the saved images of the test split."""
    settings = {"data": {"name": "digits", "train_limit": 100}, "network": {"name": "tiny_cifar", "branches": 2}}
    result = coterie.train(**settings, training={"epochs": 1, "device": "cpu"}, output=tmp_path / "run", quiet=True)
    saved = load_file(tmp_path / "run" / "predictions.safetensors")
    expected = saved["logits"][result.summary["deployed"]["student"]].float().softmax(-1)
    paths = sorted((tmp_path / "run" / "gallery").glob("*.png"))
    assert paths
    for prediction in predict(tmp_path / "run", paths, top=10):
        row = expected[saved["indices"].tolist().index(int(prediction.path.stem))]
        actual = dict(prediction.classes)
        for name, probability in zip(result.summary["class_names"], row.tolist(), strict=True):
            assert actual[name] == pytest.approx(probability, abs=2e-3)  # the saved logits are float16


def test_names_and_probabilities(small_run):
    path, _ = small_run
    images = sorted((path / "gallery").glob("*.png"))
    predictions = predict(path, images, top=5)
    assert [prediction.path for prediction in predictions] == images
    pixels = np.stack([np.array(Image.open(image)) for image in images])
    inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / (
        torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    )
    with torch.inference_mode():
        expected = load_student(path)(inputs).softmax(-1)
    for prediction, probabilities in zip(predictions, expected, strict=True):
        assert sum(value for _, value in prediction.classes) == pytest.approx(1, abs=1e-5)
        assert prediction.classes[0][0] == f"class {int(probabilities.argmax())}"
        for name, value in prediction.classes:
            assert value == pytest.approx(float(probabilities[int(name.split()[1])]), abs=1e-5)
    assert len(predict(path, images[:1], top=2)[0].classes) == 2
    assert len(predict(path, images[:1], top=99)[0].classes) == 5
    assert predict(path, []) == []


def test_many_images_are_predicted_in_batches_and_in_order(small_run):
    path, _ = small_run
    images = sorted((path / "gallery").glob("*.png"))
    many = predict(path, images * 20)
    assert [each.path for each in many] == images * 20
    assert many[64].classes[0][0] == many[0].classes[0][0]


@pytest.mark.parametrize(("mode", "size"), [("L", (50, 40)), ("RGBA", (20, 20)), ("P", (64, 32)), ("1", (9, 9))])
def test_any_size_and_mode_becomes_the_networks_input(small_run, tmp_path, mode, size):
    path, _ = small_run
    Image.new("RGB", size, (200, 30, 60)).convert(mode).save(tmp_path / "x.png")
    description = json.loads((path / "student.json").read_text())
    assert load_images([tmp_path / "x.png"], description).shape == (1, 3, 32, 32)
    assert len(predict(path, [tmp_path / "x.png"])) == 1


def test_one_channel_networks_see_grey(tmp_path):
    grey = description_of(DataInfo("digits", ("0", "1"), (1, 8, 8), (0.0,), (1.0,)))
    Image.new("RGB", (8, 8), (255, 255, 255)).save(tmp_path / "white.png")
    assert torch.equal(load_images([tmp_path / "white.png"], grey), torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_that_is_not_finished_says_how_to_go_on(status, small_run, tmp_path):
    path, _ = small_run
    run = shutil.copytree(path, tmp_path / "run")
    (run / "student.json").unlink()
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": status}))
    with pytest.raises(
        CoterieError, match=rf"is not finished \(status: {status}\); go on with `coterie train --resume"
    ):
        predict(run, [path / "gallery" / "0.png"])


def test_missing_and_undecodable_images_are_named(small_run, tmp_path):
    path, _ = small_run
    good = path / "gallery" / "0.png"
    for name, content in {"text.png": b"hello", "empty.jpg": b"", "cut.png": good.read_bytes()[:300]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CoterieError, match=f"{name}' is not an image that can be decoded") as error:
            predict(path, [good, tmp_path / name])
        assert "\n" not in str(error.value)
    with pytest.raises(CoterieError, match=r"no image '.*nowhere\.png'"):
        predict(path, [tmp_path / "nowhere.png"])
    with pytest.raises(CoterieError, match="not an image"):
        predict(path, [tmp_path])
    with pytest.raises(CoterieError, match="top=0"):
        predict(path, [good], top=0)
    with pytest.raises(CoterieError, match="is not a run"):
        predict(tmp_path, [good])


def test_paths_pictures_and_arrays_are_the_same_to_predict(small_run):
    path, _ = small_run
    files = sorted((path / "gallery").glob("*.png"))
    expected = [prediction.classes for prediction in coterie.predict(path, files)]
    pictures = [Image.open(file) for file in files]
    arrays = [np.array(Image.open(file)) for file in files]
    for given in (list(map(str, files)), pictures, arrays, np.stack(arrays), (file for file in files)):
        assert [prediction.classes for prediction in coterie.predict(path, given)] == expected
    for single in (files[0], str(files[0]), Image.open(files[0]), arrays[0]):
        (prediction,) = coterie.predict(path, single)
        for (name, value), (wanted, probability) in zip(prediction.classes, expected[0], strict=True):
            assert name == wanted
            assert value == pytest.approx(probability, abs=1e-5)  # a batch of another size may sum in another order


def test_a_loaded_transform_prepares_as_predict_does(small_run):
    path, _ = small_run
    transform, network = coterie.load_transform(path), coterie.load_student(path)
    for size in ((32, 32), (80, 50)):
        image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
        with torch.inference_mode():
            expected = network(transform(image)[None]).softmax(-1)[0]
        for name, value in coterie.predict(path, image)[0].classes:
            assert value == pytest.approx(float(expected[int(name.split()[1])]), abs=1e-5)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 3)), np.zeros((8, 8, 2), np.uint8), np.zeros((0, 8, 3), np.uint8), np.zeros(8, np.uint8), 3, None],
)
def test_what_is_no_picture_is_named(small_run, image):
    with pytest.raises(CoterieError, match="image 1 is"):
        coterie.predict(small_run[0], [Image.new("RGB", (8, 8)), image])


@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 24), (60, 60, 32), (32, 32, 16), (24, 24, 24), (40, 30, 24), (20, 30, 32)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_in_memory_are_prepared_as_predict_prepares_files(tmp_path, height, width, size, channels):
    """Up to the rounding of a level of 255: what is evaluated is what is deployed."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (16, 5, 4), dtype=np.uint8)
    images = np.stack(
        [np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC)) for each in coarse]
    )
    images = np.repeat(images[..., None], channels, -1)
    labels = np.arange(16) % 2
    recipe = ImageData(name=OWN_DATA, image_size=size, normalize="none")
    own = ((images, labels), None, (images, labels))
    data = load_data(recipe, batch_size=4, seed=0, device=torch.device("cpu"), datasets=own)
    evaluated = data.test.prepared(range(16))
    transform = evaluation_transform(data.info)
    predicted = torch.stack([transform(Image.fromarray(each.squeeze())) for each in images])
    assert evaluated.shape == predicted.shape == (16, channels, size, size)
    assert (evaluated - predicted).abs().max() <= 1.01 / 255
