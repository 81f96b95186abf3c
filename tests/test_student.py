from __future__ import annotations

import json

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import coterie
from coterie.errors import CoterieError
from coterie.networks.creation import create_network
from coterie.prediction import predict
from coterie.student import load_student


def test_loads_the_deployed_student_bit_for_bit(small_run):
    path, method = small_run
    network = load_student(path)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected = method.group(images).logits[method.deployed_student]
        assert torch.equal(network(images), expected)
    assert not network.training
    assert not any(module.training for module in network.modules())


def test_keys_are_the_plain_networks(small_run):
    path, _ = small_run
    assert load_student(path).state_dict().keys() == timm.create_model("tiny_cifar", num_classes=5).state_dict().keys()


def test_a_network_of_ones_own_is_passed(run_maker, own_network, tmp_path):
    method = run_maker(tmp_path / "run", network=None, own=own_network(), at="act")
    with pytest.raises(CoterieError, match=r"network of your own.*network="):
        load_student(tmp_path / "run")
    network = load_student(tmp_path / "run", own_network())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(network(images), method.group(images).logits[1])
    with pytest.raises(CoterieError, match="does not fit"):
        load_student(tmp_path / "run", nn.Linear(2, 2))


def test_unfinished_and_damaged_runs_are_named(run_maker, tmp_path):
    with pytest.raises(CoterieError, match="is not a run"):
        load_student(tmp_path / "nowhere")
    run = tmp_path / "run"
    run_maker(run)
    weights = run / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(CoterieError, match="is damaged"):
        load_student(run)
    (run / "student.json").write_text("[]")
    with pytest.raises(CoterieError, match=r"student\.json"):
        load_student(run)
    weights.unlink()
    (run / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    with pytest.raises(CoterieError, match=r"not finished \(status: interrupted\).*--resume"):
        load_student(run)


def test_create_network_names_the_nearest_spelling_and_wrong_arguments():
    with pytest.raises(CoterieError, match="did you mean 'resnet32_cifar'"):
        create_network("resnet32_cifra")
    with pytest.raises(CoterieError, match=r"cannot be built with.*nonsense"):
        create_network("tiny_cifar", nonsense=3)
    assert coterie.create_network("tiny_cifar", num_classes=7).num_classes == 7


@pytest.mark.parametrize(
    "changed",
    [
        {
            "options": {
                "pretrained": True,
                "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/a.py"},
                "cache_dir": "x",
            }
        },
        {"options": {"checkpoint_path": "weights.pth"}},
        {"options": {"num_classes": 3}},
        {"network": "hf-hub:someone/network"},
        {"network": "local-dir:."},
    ],
)
def test_a_students_description_makes_nothing_load_fetch_or_write(changed, run_maker, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run_maker(run)
    description = json.loads((run / "student.json").read_text())
    (run / "student.json").write_text(json.dumps({**description, **changed}))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm was asked to build it"))
    with pytest.raises(CoterieError, match=r"refused|names a place"):
        load_student(run)
    assert sorted(tmp_path.rglob("*")) == before


def test_timm_prepares_images_as_the_run_did(run_maker, tmp_path):
    path = tmp_path / "run"
    run_maker(path, input_size=(3, 96, 96))
    pictures = sorted((path / "gallery").glob("*.png"))
    student = coterie.load_student(path)
    config = timm.data.resolve_model_data_config(student)
    assert (tuple(config["input_size"]), tuple(config["mean"])) == ((3, 96, 96), (0.5, 0.4, 0.3))
    assert student.pretrained_cfg["label_names"] == [f"class {number}" for number in range(5)]
    transform = timm.data.create_transform(**config)
    images = torch.stack([transform(Image.open(picture)) for picture in pictures])
    with torch.inference_mode():
        expected = student(images).softmax(-1)
    for probabilities, found in zip(expected, predict(path, pictures), strict=True):
        names = student.pretrained_cfg["label_names"]
        assert {name: pytest.approx(value, abs=1e-5) for name, value in found.classes} == dict(
            zip(names, probabilities.tolist(), strict=True)
        )
