from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.errors import CoterieError
from coterie.prediction import load_images, predict_images
from coterie.student import load_student


def test_names_and_probabilities(small_run):
    path, _ = small_run
    images = sorted((path / "gallery").glob("*.png"))
    predictions = predict_images(path, images, top=5)
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
    assert len(predict_images(path, images[:1], top=2)[0].classes) == 2
    assert len(predict_images(path, images[:1], top=99)[0].classes) == 5
    assert predict_images(path, []) == []


def test_many_images_are_predicted_in_batches_and_in_order(small_run):
    path, _ = small_run
    images = sorted((path / "gallery").glob("*.png"))
    many = predict_images(path, images * 20)
    assert [each.path for each in many] == images * 20
    assert many[64].classes[0][0] == many[0].classes[0][0]


@pytest.mark.parametrize(("mode", "size"), [("L", (50, 40)), ("RGBA", (20, 20)), ("P", (64, 32)), ("1", (9, 9))])
def test_any_size_and_mode_becomes_the_networks_input(small_run, tmp_path, mode, size):
    path, _ = small_run
    Image.new("RGB", size, (200, 30, 60)).convert(mode).save(tmp_path / "x.png")
    description = json.loads((path / "student.json").read_text())
    assert load_images([tmp_path / "x.png"], description).shape == (1, 3, 32, 32)
    assert len(predict_images(path, [tmp_path / "x.png"])) == 1


def test_one_channel_networks_see_grey(tmp_path):
    grey = {"input_size": [1, 8, 8], "mean": [0.0], "std": [1.0], "interpolation": "bilinear", "crop": 1.0}
    Image.new("RGB", (8, 8), (255, 255, 255)).save(tmp_path / "white.png")
    assert torch.equal(load_images([tmp_path / "white.png"], grey), torch.ones(1, 1, 8, 8))


def test_missing_and_undecodable_images_are_named(small_run, tmp_path):
    path, _ = small_run
    good = path / "gallery" / "0.png"
    for name, content in {"text.png": b"hello", "empty.jpg": b"", "cut.png": good.read_bytes()[:300]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CoterieError, match=f"{name}' is not an image that can be decoded") as error:
            predict_images(path, [good, tmp_path / name])
        assert "\n" not in str(error.value)
    with pytest.raises(CoterieError, match=r"no image '.*nowhere\.png'"):
        predict_images(path, [tmp_path / "nowhere.png"])
    with pytest.raises(CoterieError, match="not an image"):
        predict_images(path, [tmp_path])
    with pytest.raises(CoterieError, match="top=0"):
        predict_images(path, [good], top=0)
    with pytest.raises(CoterieError, match="is not a run"):
        predict_images(tmp_path, [good])
