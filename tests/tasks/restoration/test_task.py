from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie.cli.output import print_figures
from coterie.export import export_run
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.running.reload import evaluate_run
from coterie.tasks.restoration.data.loaders import MeasuringLoader
from coterie.tasks.restoration.panels import panels
from coterie.tasks.restoration.task import Restoration
from coterie.training.loop import Trainer


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    return coterie.train(settings(), output=tmp_path_factory.mktemp("runs") / "dfosd", quiet=True)


def test_a_run_is_measured_beside_interpolation(run):
    summary = run.summary
    assert set(summary["deployed"]) == {"student", "psnr", "ssim", "dists_random", "high_frequency", "edges"}
    assert summary["bicubic"].keys() == summary["students"][0].keys()
    assert 5 < summary["deployed"]["psnr"] < 60
    assert summary["statistics"].keys() == {"margin"}
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    terms = next(row["losses"] for row in rows if row["split"] == "train")
    assert set(terms) == {"spatial", "ea_dists_random", "adversarial", "discriminator"}
    assert summary["parameters"]["trained"] < summary["parameters"]["deployed"]
    kept = torch.load(RunFolder(run.path).last, weights_only=True)["method"]
    assert any("lora_B" in name for name in kept)
    assert not any("base_layer" in name for name in kept)  # which stand beside the checkpoint, once


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_bit_by_bit(settings, run, tmp_path, monkeypatch):
    original = Trainer._optimizer_step

    def dying(trainer):
        if trainer.step == trainer.steps_per_epoch + 1:
            raise Killed
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", dying)
        with pytest.raises(Killed):
            coterie.train(settings(training={"checkpoint_steps": 1}), output=tmp_path / "killed", quiet=True)
    again = coterie.train(output=tmp_path / "killed", resume=True, quiet=True)
    assert again.summary["students"] == run.summary["students"]
    assert again.summary["statistics"] == run.summary["statistics"]
    first, second = (RunFolder(each.path).student.read_bytes() for each in (run, again))
    assert first == second


@pytest.mark.slow
def test_it_is_evaluated_again_without_the_weights_that_it_started_from(run, settings, tmp_path, images):
    split, own = evaluate_run(run.path)
    assert split == "test"
    assert own.figures["deployed"].items() <= run.summary["deployed"].items()
    _, whole = evaluate_run(run.path, ["data.evaluation=whole"])
    assert whole.figures["num_samples"] == 1
    split, other = evaluate_run(run.path, data=str(images / "train"))
    assert (split, other.figures["num_samples"]) == ("test", 12)


def test_the_final_table_has_interpolation(run, capsys):
    print_figures(run.summary, "test")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bicubic interpolation"))
    assert f"{run.summary['bicubic']['psnr']:.2f}" in line


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"dists": "vgg"}, r"no backbone of DISTS 'vgg' \(did you mean 'vgg16'\?\)"),
        ({"dists": "vgg16"}, "DISTS and LPIPS need torchvision's VGG-16 weights.*data.dists=random"),
        ({"lpips": True}, "DISTS and LPIPS need torchvision's VGG-16 weights"),
    ],
)
def test_a_distance_without_its_weights_is_refused_before_training(settings, tmp_path, monkeypatch, data, message):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("coterie.networks.dists.why_no_answer", lambda ask: "no answer")
    with pytest.raises(coterie.CoterieError, match=message):
        coterie.train(settings(data=data), output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_images_are_enlarged_and_written(run, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (9, 13, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"none")
    network = run.student()
    answers = list(
        coterie.prediction.iterate_predictions(
            run.path, [tmp_path / f"{name}.png" for name in "abc"], output=str(tmp_path / "large")
        )
    )
    assert [each.error is None for each in answers] == [True, True, False]
    assert sorted(path.name for path in (tmp_path / "large").iterdir()) == ["a.png", "b.png"]
    found = np.array(Image.open(tmp_path / "large" / "a.png"))
    assert found.shape == (36, 52, 3)
    low = torch.from_numpy(np.array(Image.open(tmp_path / "a.png"))).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        expected = (network(low)[0] * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - expected).max() <= 1
    (tiled,) = coterie.predict(run.path, tmp_path / "a.png", tile=32, overlap=8)
    assert tiled.image.size == (52, 36)
    for options, message in (
        ({"output": str(tmp_path)}, "would be overwritten"),
        ({"tile": 32, "overlap": 20}, "above half of tile"),
        ({"top": 3}, "no option of task=restoration"),
    ):
        with pytest.raises(coterie.CoterieError, match=message):
            coterie.predict(run.path, tmp_path / "a.png", **options)


@pytest.mark.slow
def test_exports_compute_what_the_run_does(run, tmp_path):
    folder = export_run(run.path, output=tmp_path / "diffusers")
    assert {path.name for path in folder.iterdir()} >= {"unet", "scheduler", "embedding.safetensors", "one_step.json"}
    card = (folder / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1).replace("FOLDER", str(folder))
    scope = {}
    exec(compile(code, "card", "exec"), scope)
    small = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = run.student()(small)
    torch.testing.assert_close(scope["enlarge"](small), expected, atol=1e-5, rtol=1e-4)
    lora = export_run(run.path, "lora", output=tmp_path / "lora")
    assert (lora / "pytorch_lora_weights.safetensors").stat().st_size < (folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size  # fmt: skip
    graph = export_run(run.path, "pt2", output=tmp_path / "pt2")
    found = torch.export.load(graph / "model.pt2").module()(small[:1])
    torch.testing.assert_close(found, expected[:1], atol=1e-5, rtol=1e-4)
    # What was exported is what another run starts from.
    recipe = load_recipe({"task": "restoration", "network": {"name": str(folder)}, "data": {"crop": 32}})
    Restoration.require(recipe)


def test_what_a_report_shows_is_kept(run):
    shown = {panel.title: panel for panel in panels(RunFolder(run.path))}
    assert list(shown) == ["Pictures", "Spectra", "What the discriminator tells apart"]
    table = shown["Pictures"].table
    assert table is not None
    assert [row[0] for row in table.rows] == ["interpolated", "restored"]
    page = (run.path / "report.html").read_text()
    assert all(title in page for title in shown)
    assert page.count('<div class="slider">') == len(shown["Pictures"].sliders) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["regression", pytest.param("vsd", marks=pytest.mark.slow), pytest.param("denoising", marks=pytest.mark.slow)],
)
def test_other_methods_train(settings, tmp_path, method):
    network = {"lora": {"rank": None}} if method == "denoising" else {}
    recipe = settings(
        method={"name": method}, network=network, training={"epochs": 1, "ema": 0.9}, data={"train_limit": 4}
    )
    found = coterie.train(recipe, output=tmp_path / "run", quiet=True)
    assert found.summary["status"] == "finished"
    assert evaluate_run(found.path)[1].figures["deployed"].items() <= found.summary["deployed"].items()


def test_every_run_is_measured_on_the_same_small_images(settings):
    from accelerate import Accelerator

    found = [Restoration(load_recipe(settings() | {"seed": seed}), Accelerator(cpu=True)).data.test for seed in (0, 1)]
    assert all(isinstance(each, MeasuringLoader) for each in found)
    first, second = (next(iter(each)) for each in found)
    assert torch.equal(first.inputs, second.inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {"name": "okdmde"}}, "method=okdmde is not for task=restoration; expected dfosd"),
        ({"method": {"name": "dfosd", "perceptual": "l1"}}, "method.perceptual='l1'"),
        ({"training": {"class_weights": "balanced"}}, "class_weights weighs classes"),
        ({"data": {"views": "per_student"}}, "trains one network"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(settings, changes, message):
    with pytest.raises(coterie.CoterieError, match=message):
        Restoration.require(load_recipe(settings(**changes)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.crop=30", "no multiple of scale=4"),
        ("data.scale=3", "2 or 4"),
        ("data.low=./small", "low goes with a folder"),
        ("network.overlap=400", "above half of tile=512"),
        ("network.freeze=1", "freeze has no effect"),
    ],
)
def test_settings_that_contradict_one_another(override, message):
    with pytest.raises(coterie.CoterieError, match=message):
        load_recipe(None, ["task=restoration", override])


@pytest.mark.slow
def test_the_recipe_that_was_not_run_trains_small_networks(images, diffusion, tmp_path):
    path = Path(__file__).parents[3] / "recipes" / "lsdir_sd21_dfosd.yaml"
    assert "NOT RUN HERE" in path.read_text(encoding="utf-8").splitlines()[0]
    small = {"data.name": images, "data.crop": 32, "data.dists": "random", "data.lpips": "false"}
    small |= {"network.name": diffusion, "network.autoencoder": "none", "method.discriminator": diffusion}
    small |= {"method.dists_backbone": "random", "training.device": "cpu", "training.epochs": 1}
    overrides = [f"{key}={value}" for key, value in small.items()]
    found = coterie.train(path, overrides=overrides, output=tmp_path / "run", quiet=True)
    assert found.summary["status"] == "finished"
    assert found.summary["statistics"].keys() == {"margin"}


@pytest.mark.slow
def test_several_methods_are_compared(settings, tmp_path):
    small = {"training": {"epochs": 1}, "data": {"train_limit": 4}}
    arms = {"regression": settings(method={"name": "regression"}, **small), "dfosd": settings(**small)}
    found = coterie.compare(arms, seeds=1, output=tmp_path / "compared", quiet=True)
    assert {(run["label"], run["status"]) for run in found.comparison["runs"]} == {
        ("regression", "finished"),
        ("dfosd", "finished"),
    }
