from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from timm.models import list_models, model_entrypoint

from coterie.networks import NETWORKS, register

register()


def test_catalogue_and_registrations_agree() -> None:
    ours = {name for name in list_models() if model_entrypoint(name).__module__.startswith("coterie.")}
    assert ours == set(NETWORKS)
    assert all(name.endswith("_cifar") for name in ours)


def test_catalogue_names_the_parameters_that_are_there() -> None:
    with torch.device("meta"):
        for name, description in NETWORKS.items():
            millions = sum(parameter.numel() for parameter in timm.create_model(name).parameters()) / 1e6
            assert f" {millions:.2f}M parameters" in description, name


def test_register_twice_is_silent(recwarn: pytest.WarningsRecorder) -> None:
    register()
    assert not recwarn.list


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_catalogue_imports_no_torch() -> None:
    code = (
        "import sys, coterie, coterie.catalogue; coterie.methods.METHODS, coterie.METHODS, coterie.CoterieError, coterie.catalogue.NETWORKS;"
        "print([name for name in ('torch', 'timm', 'numpy') if name in sys.modules])"
    )
    assert run(code) == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("touched", ["import coterie.networks", "import coterie; coterie.losses"])
def test_whatever_needs_torch_registers_the_networks(touched: str) -> None:
    assert run(f"import timm\n{touched}\nprint(timm.is_model('resnet32_cifar'))") == "True"
