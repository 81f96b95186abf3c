from __future__ import annotations

import argparse
import pickle
import warnings
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from coterie.errors import CoterieError
from coterie.networks.weights import load_weights


def build(classes=4):
    return nn.Sequential(
        OrderedDict(body=nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), fc=nn.Linear(4, classes))
    )


class Holder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


TRAINED = build()
STATE = {key: value + 1 for key, value in TRAINED.state_dict().items()}
TRAINED.load_state_dict(STATE)


def prefixed(*prefixes):
    return {"".join(prefixes) + key: value for key, value in STATE.items()}


def timm_checkpoint():
    arguments = argparse.Namespace(model="resnet18", lr=0.1, aa=None, mean=(0.5, 0.5))
    optimizer = torch.optim.SGD(TRAINED.parameters(), 0.1).state_dict()
    return {
        "epoch": 3,
        "arch": "x",
        "state_dict": STATE,
        "optimizer": optimizer,
        "version": 2,
        "args": arguments,
        "metric": 71.5,
    }


FILES = {
    "plain": STATE,
    "ordered": OrderedDict(STATE),
    "DataParallel": prefixed("module."),
    "compiled": torch.compile(TRAINED).state_dict(),
    "compiled in DataParallel": prefixed("module.", "_orig_mod."),
    "DataParallel, compiled": prefixed("_orig_mod.", "module."),
    "Lightning": {"state_dict": prefixed("model."), "epoch": 3, "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
    "Lightning, compiled": {"state_dict": prefixed("model.", "_orig_mod.")},
    "holder of a holder": Holder(Holder(TRAINED)).state_dict(),
    "a part in DataParallel": {key.replace("body.", "body.module."): value for key, value in STATE.items()},
    "a part compiled": {key.replace("body.", "body._orig_mod."): value for key, value in STATE.items()},
    "average of torch": AveragedModel(TRAINED).state_dict(),
    "timm": timm_checkpoint(),
    "nested": {"checkpoint": 1, "model": {"state_dict": prefixed("module.")}},
    **{
        key: {key: STATE, "epoch": 1}
        for key in ("net", "model", "model_state_dict", "state_dict", "state_dict_ema", "network", "weights", "ema")
    },
}


def load(path, network=None, **options):
    network = build() if network is None else network
    part = load_weights(network, path, "teacher.weights", "small", **options)
    return network, part


@pytest.mark.parametrize("kind", FILES)
def test_weights_are_found_under_every_wrapper(tmp_path, kind):
    path = tmp_path / "weights.pth"
    torch.save(FILES[kind], path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network, _ = load(path)
    assert all(torch.equal(value, STATE[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_safetensors(tmp_path, prefix):
    path = tmp_path / "weights.safetensors"
    save_file(prefixed(prefix), path)
    network, part = load(path)
    assert part == ""
    assert torch.equal(network.fc.weight, STATE["fc.weight"])


@pytest.mark.parametrize(
    ("averaged", "raw"),
    [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("ema", "net"), ("state_dict", "model")],
)
def test_of_several_weights_the_averaged_ones_are_taken_and_said(tmp_path, averaged, raw):
    path = tmp_path / "weights.pt"
    torch.save({raw: {key: value * 0 for key, value in STATE.items()}, averaged: STATE}, path)
    with pytest.warns(UserWarning, match=f"several weights: took {averaged}, not {raw}"):
        network, part = load(path)
    assert part == averaged
    assert torch.equal(network.fc.weight, STATE["fc.weight"])


def test_a_network_whose_own_names_look_like_prefixes_keeps_them(tmp_path):
    holder = Holder(build())
    torch.save({f"module.{key}": value for key, value in Holder(TRAINED).state_dict().items()}, tmp_path / "a.pt")
    network, _ = load(tmp_path / "a.pt", holder)
    assert torch.equal(network.model.fc.weight, STATE["fc.weight"])


class Planted:
    def __reduce__(self):
        return (pytest.fail, ("a file was executed",))


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "args": Planted()},
        TRAINED,
        {"epoch": 3, "optimizer": {"state": {}}},
        {},
        [1, 2],
        {"model": TRAINED},
        {"fc.weight": 3},
    ],
    ids=["planted", "module", "nothing", "empty", "list", "module in a dict", "number"],
)
def test_what_holds_no_weights_or_would_execute_is_refused_in_a_line(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CoterieError, match=r"^teacher.weights=.*cannot be read as weights") as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02", pickle.dumps(Planted()), b"<html>" * 50])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_something_else_are_refused_in_a_line(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CoterieError, match=r"^teacher.weights=.*cannot be read as weights"):
        load(path)


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({**{key: value for key, value in STATE.items() if key != "fc.bias"}, "head.weight": torch.ones(1)}, path)
    with pytest.raises(CoterieError, match=r"1 missing \(fc.bias\); 1 unknown \(head.weight\)"):
        load(path)
    with pytest.raises(CoterieError, match="is not a file"):
        load(tmp_path / "none.pth")


def test_a_classifier_of_other_classes_starts_anew_and_is_said(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(STATE, path)
    network = build(classes=7)
    with torch.no_grad():
        network.fc.weight.fill_(9.0)  # what a network may start its training from nothing with
    with pytest.warns(UserWarning, match="classifier of 4 classes, the data have 7: fc starts anew"):
        load(path, network, classifier="fc")
    assert network.fc.weight.abs().max() <= network.fc.in_features**-0.5
    assert torch.equal(network.body[0].weight, STATE["body.0.weight"])
    with pytest.raises(CoterieError, match="size mismatch"):
        load(path, build(classes=7))
    torch.save({**STATE, "body.0.weight": torch.ones(5, 3, 1, 1)}, path)
    with pytest.raises(CoterieError, match="size mismatch for body"):
        load(path, build(classes=7), classifier="fc")
