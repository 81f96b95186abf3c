from __future__ import annotations

import errno
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

import coterie
from coterie.errors import CoterieError, RunError
from coterie.export import export_run
from coterie.losses import mean_probability
from coterie.recipe import load_recipe
from coterie.tasks.images import export as image_export

NETWORKS = {
    "resnet32_cifar": ((3, 32, 32), "layer3"),
    "resnet18": ((3, 64, 64), "layer4"),
    "mobilenetv3_small_050": ((3, 64, 64), "blocks.4"),
    "vit_tiny_patch16_224": ((3, 64, 64), "blocks.8"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run_maker):
    """Runs by network, each made when it is first asked for."""
    made = {}

    def get(name):
        if name not in made:
            path = tmp_path_factory.mktemp("runs") / name
            size, at = NETWORKS[name]
            made[name] = (path, run_maker(path, name, size, at=at), size)
        return made[name]

    return get


def onnx_logits(folder: Path, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.fast_for("mobilenetv3_small_050", "resnet32_cifar")
@pytest.mark.parametrize("name", NETWORKS)
def test_timm_loads_the_student_bit_for_bit(runs, tmp_path, name):
    run, method, size = runs(name)
    folder = export_run(run, "timm", tmp_path / "export")
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(3, *size)
    with torch.inference_mode():
        for batch in (images[:1], images):
            assert torch.equal(network(batch), method.group(batch).logits[method.deployed_student])
    plain = timm.create_model(name, num_classes=5, **json.loads((run / "student.json").read_text())["options"])
    assert load_file(folder / "model.safetensors").keys() == plain.state_dict().keys()


@pytest.mark.fast_for("resnet32_cifar")
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_agrees_with_the_student_in_its_group(runs, tmp_path, name):
    run, method, size = runs(name)
    folder = export_run(run, "onnx", tmp_path / "export")
    images = torch.randn(3, *size)
    with torch.inference_mode():
        for batch in (images[:1], images):
            expected = method.group(batch).logits[method.deployed_student]
            assert (onnx_logits(folder, batch) - expected).abs().max() <= 1e-4 * max(1, expected.abs().max())
    assert "images of pictures" in (folder / "README.md").read_text()


def test_timm_finds_preprocessing_and_names(small_run):
    path, _ = small_run
    folder = export_run(path, "timm", path.parent / "timm")
    network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    config = timm.data.resolve_model_data_config(network)
    assert tuple(config["mean"]) == (0.5, 0.4, 0.3)
    assert tuple(config["std"]) == (0.2, 0.25, 0.3)
    assert tuple(config["input_size"]) == (3, 32, 32)
    assert (config["interpolation"], config["crop_pct"]) == ("bilinear", 1.0)
    assert network.pretrained_cfg["label_names"] == [f"class {number}" for number in range(5)]


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (4, 32)])
def test_networks_of_other_channels_load_too(run_maker, tmp_path, channels, size):
    if channels == 4:
        method = run_maker(tmp_path / "run", input_size=(4, size, size), gallery=False)
    else:
        method = run_maker(tmp_path / "run", input_size=(1, size, size))
    folder = export_run(tmp_path / "run", "timm")
    images = torch.randn(2, channels, size, size)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(network(images), method.group(images).logits[method.deployed_student])


def test_default_folders_and_every_student(small_run):
    path, method = small_run
    images = torch.randn(2, 3, 32, 32)
    try:
        assert export_run(path) == path / "export" / "timm"
        for number in (0, 1):
            folder = coterie.export_run(path, "timm", which=str(number))
            assert folder == path / "export" / f"timm-{number}"
            network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            with torch.inference_mode():
                assert torch.equal(network(images), method.group(images).logits[number])
        assert "50.00%" in (path / "export" / "timm-0" / "README.md").read_text()
    finally:
        shutil.rmtree(path / "export", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["student", "ensemble", "method"])
def test_onnx_pt2_and_safetensors_hold_what_was_asked_for(small_run, tmp_path, which):
    path, method = small_run
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        logits = method.group(images).logits
        expected = {
            "student": logits[1],
            "ensemble": mean_probability(logits),
            "method": method.predict(images).ensemble,
        }
        assert not torch.allclose(expected["ensemble"].softmax(-1), expected["method"].softmax(-1), atol=1e-4)
        torch.testing.assert_close(
            onnx_logits(export_run(path, "onnx", tmp_path / "onnx", which), images),
            expected[which],
            atol=1e-4,
            rtol=1e-4,
        )
        folder = export_run(path, "pt2", tmp_path / "pt2", which)
        program = torch.export.load(folder / "model.pt2").module()
        for batch in (1, 3):
            torch.testing.assert_close(program(images[:batch]), expected[which][:batch], atol=1e-4, rtol=1e-4)
        weights = load_file(export_run(path, "safetensors", tmp_path / "weights", which) / "model.safetensors")
    plain = timm.create_model("tiny_cifar", num_classes=5).state_dict().keys()
    if which == "student":
        assert weights.keys() == plain
    elif which == "ensemble":
        assert weights.keys() == {f"{number}.{key}" for number in (0, 1) for key in plain}
    else:
        assert weights.keys() == method.state_dict().keys()
    if which != "method":  # nothing that served training only
        program = torch.export.load(folder / "model.pt2")
        assert not any("fusion" in key or "label_loss" in key for key in [*program.state_dict, *weights])
    described = json.loads((folder / "student.json").read_text())
    assert described["which"] == which
    assert described["class_names"] == [f"class {number}" for number in range(5)]


@pytest.mark.parametrize(
    ("format", "which"),
    [("timm", "student"), ("timm", "0"), pytest.param("pt2", "ensemble", marks=pytest.mark.slow)]
    + [("safetensors", which) for which in ("student", "ensemble", "method")],
)
def test_the_cards_own_snippet_gives_the_logits(small_run, tmp_path, monkeypatch, format, which):
    path, method = small_run
    folder = export_run(path, format, tmp_path / "export", which)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    images = torch.randn(2, 3, 32, 32)
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"images": images}
    exec(code.replace("FOLDER", str(folder)), names)
    with torch.inference_mode():
        logits = method.group(images).logits
        number = int(which) if which.isdecimal() else 1
        expected = {"ensemble": mean_probability(logits), "method": method.predict(images).ensemble}.get(which)
        expected = (logits[number] if expected is None else expected).softmax(-1)
        if "probabilities" in names:
            actual = names["probabilities"]
        elif "logits" in names:
            actual = torch.as_tensor(names["logits"]).softmax(-1)
        else:
            actual = names["network"](images).softmax(-1)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_the_card_says_what_it_is(small_run, tmp_path):
    path, _ = small_run
    text = (export_run(path, "timm", tmp_path / "export") / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "timm"
    assert front["license"] == "unknown"
    assert {"knowledge-distillation", "coterie", "timm", "okdmde"} <= set(front["tags"])
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    assert "| **this export** | 75.00% | 0.9000 | 0.4000 | 0.0500 |" in text
    assert "| ensemble, the method's rule | 82.00% |" in text
    assert "register()" in text  # timm must be told of coterie's architectures
    assert "torch 2.9" in text
    recipe = load_recipe(yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]))
    assert recipe.network == load_recipe(path / "recipe.yaml").network
    assert "/home/someone" not in text  # neither the data's place nor the command
    assert "\n\n\n" not in text


def test_a_timm_network_needs_no_coterie(runs, tmp_path):
    folder = export_run(runs("resnet18")[0], "timm", tmp_path / "export")
    assert "coterie.networks" not in (folder / "README.md").read_text()


@pytest.mark.fast_for("pt2")
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_nothing_of_this_machine_or_of_the_images_is_exported(small_run, tmp_path, format):
    path, _ = small_run
    folder = export_run(path, format, tmp_path / "export")
    content = (folder / f"model.{format}").read_bytes()
    assert str(Path(coterie.__file__).parent).encode() not in content
    assert str(Path(torch.__file__).parent).encode() not in content
    if format == "pt2":
        (example,), _ = torch.export.load(folder / "model.pt2").example_inputs
        assert not example.any()


@pytest.mark.slow
def test_without_a_gallery_random_images_are_named(run_maker, tmp_path):
    run_maker(tmp_path / "run", gallery=False)
    assert "random images" in (export_run(tmp_path / "run", "pt2") / "README.md").read_text()


@pytest.mark.slow
def test_a_network_of_ones_own(run_maker, own_network, tmp_path):
    method = run_maker(tmp_path / "run", network=None, own=own_network(), at="act")
    images = torch.randn(2, 3, 32, 32)
    given = own_network()
    before = given.stem.weight.clone()
    for which in ("student", "0"):
        folder = export_run(tmp_path / "run", "pt2", which=which, network=given)
        expected = method.group(images).logits[1 if which == "student" else 0]
        torch.testing.assert_close(torch.export.load(folder / "model.pt2").module()(images), expected)
    assert torch.equal(given.stem.weight, before)  # the caller's own network stays as it is
    text = (export_run(tmp_path / "run", "safetensors", network=own_network) / "README.md").read_text()
    assert "not one of timm's" in text
    with pytest.raises(CoterieError, match="timm can build"):
        export_run(tmp_path / "run", "timm", network=own_network)
    with pytest.raises(CoterieError, match="network="):
        export_run(tmp_path / "run", "onnx")
    with pytest.raises(CoterieError, match="network="):
        export_run(tmp_path / "run", "onnx", which="ensemble")


@pytest.mark.parametrize(
    ("format", "which", "message"),
    [
        ("onxx", "student", "unknown format 'onxx'.*did you mean 'onnx'.*expected one of timm, onnx, pt2, safetensors"),
        ("timm", "studnet", "cannot export 'studnet'.*did you mean 'student'"),
        ("pt2", "-1", "cannot export '-1'"),
        ("pt2", "2", r"which=2: the run has 2 student\(s\), numbered from 0 to 1"),
        ("timm", "ensemble", "format 'timm' holds one plain network"),
        ("timm", "method", "format 'timm' holds one plain network"),
    ],
)
def test_wrong_arguments_are_named(small_run, tmp_path, format, which, message):
    path, _ = small_run
    with pytest.raises(CoterieError, match=message):
        export_run(path, format, tmp_path / "export", which)
    assert not (tmp_path / "export").exists()


def test_pretrained_weights_are_not_fetched_again(run_maker, tmp_path):
    run = tmp_path / "run"
    run_maker(run)
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("pretrained: false", "pretrained: true"))
    for format, which in (("safetensors", "method"), ("timm", "0")):  # tiny_cifar has none: fetching them would fail
        folder = export_run(run, format, which=which)
        assert "pretrained weights they started from" in (folder / "README.md").read_text()


def test_runs_without_a_student(run_maker, tmp_path):
    with pytest.raises(CoterieError, match="is not a run"):
        export_run(tmp_path)
    run = tmp_path / "run"
    run_maker(run)
    for name in ("student.safetensors", "student.json"):
        (run / name).unlink()
    for which in ("student", "0", "ensemble", "method"):
        with pytest.raises(CoterieError, match="no student"):
            export_run(run, "pt2", which=which)
    assert not (run / "export").exists()


def test_the_missing_extra_is_named(small_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CoterieError, match=r"pip install 'coterie\[onnx\]'"):
        export_run(small_run[0], "onnx", tmp_path / "deep" / "export")
    assert not (tmp_path / "deep").exists()


@pytest.mark.slow
def test_only_a_former_export_is_replaced(small_run, tmp_path):
    path, _ = small_run
    target = tmp_path / "export"
    target.mkdir()
    export_run(path, "pt2", target)
    export_run(path, "safetensors", target)
    assert {each.name for each in target.iterdir()} == {"README.md", "model.safetensors", "student.json"}
    (target / "notes.txt").write_text("mine")
    with pytest.raises(CoterieError, match=r"notes\.txt"):
        export_run(path, "pt2", target)
    (target / "notes.txt").unlink()
    (target / "README.md").write_text("my project")
    with pytest.raises(CoterieError, match="is not empty and holds no export"):
        export_run(path, "pt2", target)
    assert (target / "model.safetensors").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(CoterieError, match="is a file"):
        export_run(path, "pt2", tmp_path / "file")
    with pytest.raises(CoterieError, match="cannot write to"):
        export_run(path, "pt2", tmp_path / "file" / "below")
    with pytest.raises(CoterieError, match="is not empty and holds no export"):
        export_run(path, "pt2", path)


def test_a_failure_leaves_what_was_there(small_run, tmp_path, monkeypatch):
    path, _ = small_run
    target = export_run(path, "safetensors", tmp_path / "export")
    before = {each.name: each.read_bytes() for each in target.iterdir()}

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_export, "save_file", full)
    for folder in (target, tmp_path / "new"):
        with pytest.raises(RunError, match="the disk is full"):
            export_run(path, "safetensors", folder)
    assert {each.name: each.read_bytes() for each in target.iterdir()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_export_that_computes_something_else_is_refused(small_run, tmp_path, monkeypatch):
    path, _ = small_run
    create = timm.create_model

    def spoilt(*arguments, **options):
        network = create(*arguments, **options)
        if arguments[0].startswith("local-dir:"):
            network.get_classifier().bias.data[0] += 1e-6
        return network

    monkeypatch.setattr(timm, "create_model", spoilt)
    with pytest.raises(RunError, match="other logits"):
        export_run(path, "timm", tmp_path / "export")
    monkeypatch.setattr(image_export, "difference_of", lambda *arguments: 2e-4)
    for format in ("onnx", "pt2"):
        with pytest.raises(RunError, match="something else than PyTorch"):
            export_run(path, format, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_differences_are_relative_to_large_logits_and_nan_is_no_agreement():
    images = torch.ones(3, 1)
    difference = image_export.difference_of
    assert difference(lambda x: 1000 * x, lambda x: 1000 * x + 0.05, images) == pytest.approx(5e-5, rel=1e-3)
    assert difference(lambda x: 0.01 * x, lambda x: 0.01 * x + 0.05, images) == pytest.approx(0.05, rel=1e-3)
    assert difference(lambda x: x, lambda x: x * float("nan"), images) == float("inf")
    with pytest.raises(RunError, match="for a batch of 3"):
        difference(lambda x: x, lambda x: x[:1], images)
