from __future__ import annotations

import os
import pickle

import pytest
import torch

from coterie.errors import CoterieError
from coterie.training.checkpoint import load_checkpoint, save_checkpoint


def test_round_trip(tmp_path):
    path = tmp_path / "last.pt"
    state = {"weights": {"a": torch.arange(3.0)}, "position": {"epoch": 2}, "names": ["label"], "none": None}
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert loaded["position"] == {"epoch": 2}
    assert torch.equal(loaded["weights"]["a"], torch.arange(3.0))


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "last.pt"
    with pytest.raises(CoterieError, match="no checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(CoterieError, match="damaged"):
        load_checkpoint(path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(CoterieError, match="not a checkpoint"):
        load_checkpoint(path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_loading_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.pt"
    torch.save({"format": 1, "x": Evil()}, path)
    with pytest.raises(CoterieError, match="damaged"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CoterieError, match="damaged"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()
