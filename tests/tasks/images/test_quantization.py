"""An int8 file: it says of itself what the float file says, predicts nearly the same, and what it loses is measured."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import coterie
from coterie.errors import CoterieError, RunError
from coterie.export import export_run
from coterie.run_folder import RunFolder, read_json
from coterie.running.reload import load_run_data
from coterie.tasks.images import quantization
from coterie.tasks.images.data.bundle import load_data
from coterie.tasks.images.settings import ImageData


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("quantization") / "run"
    settings = ["data=digits", "network=tiny_cifar", "training.epochs=2", "training.device=cpu", "network.branches=1"]
    coterie.train(overrides=[*settings, "method=independent"], output=path)
    return path


@pytest.fixture(scope="module")
def exported(digits):
    return export_run(digits, "onnx"), export_run(digits, "onnx", int8=True)


def stored(folder):
    return {each.key: json.loads(each.value) for each in onnx.load(folder / "model.onnx").metadata_props}


def predictions(folder, loader):
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": batch.inputs.numpy()})[0].argmax(1) for batch in loader])


@pytest.mark.slow
def test_the_figures_are_those_of_the_two_files(digits, exported):
    plain, int8 = exported
    assert int8 == digits / "export" / "onnx-int8"
    assert {path.name for path in int8.iterdir()} == {"README.md", "int8.json", "model.onnx", "student.json"}
    folder = RunFolder(digits)
    loader = load_run_data(folder, coterie.load_recipe(folder.recipe)).test
    labels = np.concatenate([batch.targets.numpy() for batch in loader])
    before, after = (predictions(each, loader) for each in exported)
    measures = json.loads((int8 / "int8.json").read_text())
    del measures["line"]  # which is the card's
    errors = (after == labels).astype(float) - (before == labels)
    assert measures == {
        "float_top1": pytest.approx((before == labels).mean()),
        "int8_top1": pytest.approx((after == labels).mean()),
        "split": "test",
        "images": len(labels),
        "changed_predictions": int((before != after).sum()),
        "standard_error": pytest.approx(errors.std() / math.sqrt(len(labels))),
        "calibration_images": 200,
        "float_bytes": (plain / "model.onnx").stat().st_size,
        "int8_bytes": (int8 / "model.onnx").stat().st_size,
    }
    assert measures["float_top1"] == pytest.approx(folder.read_summary()["deployed"]["top1"])
    assert measures["changed_predictions"] < 0.05 * len(labels)
    assert measures["int8_bytes"] < 0.6 * measures["float_bytes"]


def test_the_weights_are_int8_and_the_metadata_those_of_the_float_file(exported):
    plain, int8 = exported
    about = stored(int8)
    measures = json.loads((int8 / "int8.json").read_text())
    assert about.pop("int8") == {
        key: value for key, value in measures.items() if not key.endswith("_bytes") and key != "line"
    }
    assert about == stored(plain)
    graph = onnx.load(int8 / "model.onnx").graph
    types = {each.name: each.data_type for each in graph.initializer}
    scales = {node.input[1]: node for node in graph.node if types.get(node.input[0]) == onnx.TensorProto.INT8}
    assert len(scales) >= 10  # nine convolutions and the classifier
    assert any(len(each.dims) == 1 and each.dims[0] > 1 for each in graph.initializer if each.name in scales)


def test_the_cards_snippet_runs(digits, exported):
    _, int8 = exported
    picture = sorted((digits / "gallery").glob("*.png"))[0]
    Image.open(picture).save(int8 / "image.jpg", quality=100)
    card = (int8 / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    found = subprocess.run([sys.executable, "-c", code], cwd=int8, capture_output=True, text=True, check=True).stdout
    (int8 / "image.jpg").unlink()
    name, probability = found.split()
    (expected,) = coterie.predict(digits, [picture])
    assert name == expected.classes[0][0]
    assert float(probability) == pytest.approx(expected.classes[0][1], abs=0.1)
    assert read_json(int8 / "int8.json")["line"] in card
    assert "before quantisation" in card
    assert "**this export**" not in card
    assert "before it was quantised" in card


def test_calibration_takes_images_of_every_class(digits):
    folder = RunFolder(digits)
    data = load_run_data(folder, coterie.load_recipe(folder.recipe))
    batches = quantization._calibration_batches(data)
    assert sum(map(len, batches)) == 200
    everything = np.concatenate([batch.inputs.numpy() for batch in data.train_evaluation])
    np.testing.assert_array_equal(batches[0][0], everything[0])
    np.testing.assert_array_equal(batches[-1][-1], everything[-1])


def test_it_is_refused_without_the_runs_data_and_in_other_formats(small_run, digits, tmp_path):
    path, _ = small_run
    with pytest.raises(CoterieError, match=r"--int8 needs the data of the run.*/home/someone/pictures"):
        export_run(path, "onnx", tmp_path / "export", int8=True)
    with pytest.raises(CoterieError, match=r"--int8 is for format 'onnx'.*'timm'"):
        export_run(digits, "timm", tmp_path / "export", int8=True)
    assert not (tmp_path / "export").exists()


@pytest.mark.slow
def test_a_failure_of_the_tool_is_one_line_and_leaves_nothing(digits, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise ValueError("no such\noperator")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fail)
    with pytest.raises(RunError, match="cannot be quantised to int8: ValueError: no such operator"):
        export_run(digits, "onnx", tmp_path / "export", int8=True)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_chosen_images_are_those_of_the_batches(tmp_path, in_memory):
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{number}.png")
    recipe = ImageData(name=str(tmp_path / "pictures"), in_memory=in_memory == "true", image_size=48, workers=0)
    loader = load_data(recipe, batch_size=2, seed=0, device=torch.device("cpu")).train_evaluation
    everything = torch.cat([batch.inputs for batch in loader])
    assert torch.equal(loader.prepared([3, 0]), everything[[3, 0]])
