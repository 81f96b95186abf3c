"""An ONNX file tells a program without torch how to use it: the card's own snippet is run with nothing but its three packages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from coterie.export import export_run
from coterie.run_folder import RunFolder
from coterie.tasks.images.predict import data_info, load_images

BLOCKED = ("torch", "torchvision", "timm", "transformers", "coterie")
SIZES = ((640, 427), (427, 640), (301, 300), (96, 97), (33, 500), (20, 9), (32, 32))  # width, height


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Photographs of many sizes and shapes, grey and palette ones, one with an orientation in its EXIF data."""
    folder = tmp_path_factory.mktemp("pictures")
    flower, temple = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    paths = []
    for number, size in enumerate(SIZES):
        paths.append(folder / f"{number}.png")
        (flower, temple)[number % 2].resize(size).save(paths[-1])
    flower.convert("L").save(folder / "grey.png")
    temple.quantize(16).save(folder / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    temple.save(folder / "turned.jpg", exif=exif)
    return [*paths, folder / "grey.png", folder / "palette.png", folder / "turned.jpg"]


def snippet(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code


def run_snippet(folder: Path, code: str) -> str:
    """Run code in a process of its own, in the export's folder, where torch and its like cannot be imported."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in BLOCKED)
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\n{block}{code}"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def of_each_picture(code: str, paths: list[Path]) -> str:
    """The snippet, over many pictures, its probabilities printed as JSON."""
    assert '"image.jpg"' in code
    body = "".join(f"    {line}\n" for line in code.replace('"image.jpg"', "path").splitlines())
    return (
        f"import json\nfound = []\nfor path in {[str(path) for path in paths]}:\n{body}"
        "    found.append(probabilities[0].tolist())\nprint(json.dumps(found))"
    )


def described(run: Path, **changes: object) -> dict[str, object]:
    """Change how a run's student is prepared for."""
    path = RunFolder(run).student_description
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return json.loads(path.read_text())


@pytest.mark.fast_for("input_size1-box-1.0")
@pytest.mark.parametrize(
    ("input_size", "interpolation", "crop"),
    [
        pytest.param((3, 32, 32), "bicubic", 0.875, marks=pytest.mark.slow),
        ((1, 24, 24), "box", 1.0),
        ((3, 24, 40), "bilinear", 0.9),
    ],
)
def test_the_cards_snippet_predicts_without_torch_what_pytorch_predicts(
    run_maker, pictures, tmp_path, input_size, interpolation, crop
):
    method = run_maker(tmp_path / "run", input_size=input_size)
    description = described(tmp_path / "run", interpolation=interpolation, crop=crop, mean=[0.45] * input_size[0])
    folder = export_run(tmp_path / "run", "onnx")
    code = snippet(folder)
    found = torch.tensor(json.loads(run_snippet(folder, of_each_picture(code, pictures)).splitlines()[-1]))
    with torch.inference_mode():
        expected = method.group(load_images(pictures, description)).logits[method.deployed_student].softmax(-1)
    assert expected.std(0).max() > 1e-3  # the pictures are told apart
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_snippet_itself_names_the_class(small_run, pictures, tmp_path):
    path, method = small_run
    folder = export_run(path, "onnx", tmp_path / "export", "ensemble")
    Image.open(pictures[0]).save(folder / "image.jpg")
    description = RunFolder(path).read_description()
    images = load_images([folder / "image.jpg"], description)
    with torch.inference_mode():
        best, label = method.group(images).logits.softmax(-1).mean(0)[0].max(0)
    name, _, probability = run_snippet(folder, snippet(folder)).strip().rpartition(" ")
    assert name == description["class_names"][label]
    assert float(probability) == pytest.approx(float(best), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["0", "ensemble"])
def test_the_file_says_how_it_is_used(small_run, tmp_path, which):
    path, _ = small_run
    folder = export_run(path, "onnx", tmp_path / "export", which)
    stored = {each.key: json.loads(each.value) for each in onnx.load(folder / "model.onnx").metadata_props}
    info = data_info(RunFolder(path).read_description())
    assert (tuple(stored["input_size"]), tuple(stored["mean"]), tuple(stored["std"])) == (
        info.input_size,
        info.mean,
        info.std,
    )
    assert (stored["interpolation"], stored["crop_pct"], stored["crop_mode"]) == ("bilinear", 1.0, "center")
    assert (stored["colour"], stored["resize"]) == ("RGB", [32, 32])
    assert stored["class_names"] == list(info.class_names)
    assert stored["output"] == ("log_probabilities" if which == "ensemble" else "logits")
    assert stored["which"] == which


@pytest.mark.slow
def test_a_network_of_four_channels_claims_no_picture(run_maker, tmp_path):
    method = run_maker(tmp_path / "run", input_size=(4, 16, 16), gallery=False)
    folder = export_run(tmp_path / "run", "onnx")
    code = snippet(folder)
    assert "PIL" not in code
    np.save(folder / "images.npy", images := np.random.default_rng(0).normal(size=(2, 4, 16, 16)).astype(np.float32))
    found = run_snippet(folder, f"import numpy\nimages = numpy.load('images.npy')\n{code}\nprint(logits.tolist())")
    with torch.inference_mode():
        expected = method.group(torch.from_numpy(images)).logits[method.deployed_student]
    torch.testing.assert_close(torch.tensor(json.loads(found)), expected, atol=1e-4, rtol=1e-4)
