"""Batches of too few samples are refused before training, in a line; of every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import coterie
from coterie.methods import TABLE, find_method
from coterie.networks.papers.tiny import tiny_cifar
from coterie.networks.teacher import Teacher, Teachers

NEEDS = {"one": 2, "diffkd": 2, "dist": 2, "rkd": 3, "mcl": 3}
OF_VECTORS = dict.fromkeys(("contrastive", "embed_distill", "margin_mse"), 2)  # tests/methods/retrieval has them


def test_which_methods_compare_samples():
    assert {
        name: find_method(name).min_batch for name in TABLE if find_method(name).min_batch > 1
    } == NEEDS | OF_VECTORS


def images(count):
    torch.manual_seed(0)
    return TensorDataset(torch.rand(count, 3, 16, 16), torch.arange(count) % 2)


def train(tmp_path, method="baseline", samples=4, batch_size=1, network=None, **options):
    return coterie.train(
        data=(images(samples), None, images(4)),
        network=network,
        method=method,
        training={"batch_size": batch_size, "epochs": 1, "device": "cpu"},
        output=tmp_path / "run",
        quiet=True,
        overrides=["data.validation=0"],
        **options,
    )


@pytest.mark.parametrize(
    ("method", "samples", "batch_size", "missing"),
    [
        *((name, 4, least - 1, "training.batch_size") for name, least in NEEDS.items()),
        ("rkd", 2, 64, "training sample"),  # a set that is smaller than a batch
        ("mcl", 2, 64, "training sample"),
    ],
)
def test_methods_that_compare_samples_say_how_many_they_need(tmp_path, method, samples, batch_size, missing):
    few = NEEDS[method] - 1
    teacher = {"teacher": tiny_cifar(num_classes=2)} if method in {"diffkd", "dist", "rkd"} else {}
    with pytest.raises(
        coterie.CoterieError, match=rf"needs at least {NEEDS[method]} of them; .*{missing}.* gives {few}"
    ):
        train(tmp_path, method, samples, batch_size, **teacher)
    assert not (tmp_path / "run").exists()


class Flat(nn.Module):
    """BatchNorm1d, which one sample does not do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.body(x))


def test_batchnorm_over_one_value_is_refused(tmp_path):
    with pytest.raises(
        coterie.CoterieError, match=r"BatchNorm sees one value.*needs at least 2; training.batch_size=1"
    ):
        train(tmp_path, network=Flat)
    assert not (tmp_path / "run").exists()


def test_a_last_batch_of_one_is_left_out(tmp_path):
    found = train(tmp_path, samples=5, batch_size=2, network=Flat)
    assert found.summary["status"] == "finished"


@pytest.mark.slow
def test_one_sample_is_enough_where_nothing_compares(tmp_path):
    found = train(tmp_path, samples=3)
    assert found.summary["status"] == "finished"
    assert all(np.isfinite(value.numpy()).all() for value in found.student().state_dict().values())


@pytest.mark.parametrize(
    ("name", "count"), [(name, count) for name, least in NEEDS.items() for count in range(1, least)]
)
def test_in_a_loop_of_ones_own_too(name, count):
    """Never a silent zero, a NaN or torch's own words."""
    torch.manual_seed(0)
    taught = (
        {"teachers": Teachers([Teacher(tiny_cifar(num_classes=4), torch.zeros(2, 3, 16, 16))])}
        if TABLE[name].kind == "teacher"
        else {}
    )
    group = coterie.branch(
        lambda: tiny_cifar(num_classes=4),
        1 if taught else 2,
        "layer3" if name == "one" else None,
        example=torch.zeros(2, 3, 16, 16),
        taps="stages" if taught else (),
    )
    method = coterie.create_method(name, group, **taught)
    with pytest.raises(coterie.CoterieError, match=rf"needs at least {NEEDS[name]}, got {count}"):
        method(torch.randn(count, 3, 16, 16), torch.arange(count))
    losses = method(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]))
    assert all(torch.isfinite(value) for value in losses.values())
