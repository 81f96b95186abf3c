from __future__ import annotations

import pytest

import coterie
from coterie.recipe import load_recipe
from coterie.tasks.restoration.fitting import fit_restoration


@pytest.mark.parametrize(
    ("network", "method", "timestep"),
    [
        ({}, "dfosd", 49),
        ({}, "regression", 49),
        ({}, "denoising", 399),
        ({"name": "stabilityai/stable-diffusion-2-1-base"}, "dfosd", 399),
        ({"name": "stabilityai/stable-diffusion-2-1-base", "pretrained": False}, "regression", 49),
        ({"timestep": 250}, "dfosd", 250),
    ],
)
def test_the_time_of_the_step_fits_the_weights(network, method, timestep):
    recipe = load_recipe({"task": "restoration", "network": network, "method": method})
    fitted, reasons = fit_restoration(recipe, 100)
    assert fitted.network.timestep == timestep
    assert ("network.timestep" in reasons) == ("timestep" not in network)


def test_lora_needs_weights():
    recipe = load_recipe({"task": "restoration", "network": {"lora": {"rank": 4}}})
    with pytest.raises(coterie.CoterieError, match=r"network.lora.rank=4: .* starts from nothing"):
        fit_restoration(recipe, 100)


@pytest.mark.slow
def test_a_network_from_nothing_is_soon_above_interpolation(tmp_path):
    settings = {"task": "restoration", "data": "photos", "method": "regression", "training": {"epochs": 30}}
    summary = coterie.train(settings, output=tmp_path / "run", quiet=True).summary
    assert summary["deployed"]["psnr"] > summary["bicubic"]["psnr"]
    assert summary["deployed"]["edges"] < summary["bicubic"]["edges"]
