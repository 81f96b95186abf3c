"""Folders of tensors beside a checkpoint file: what they hold, and what is not read from them."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from coterie.errors import CoterieError, RunError
from coterie.training.checkpoint import load_checkpoint, restoring
from coterie.training.sharded_checkpoint import KEY, read_sharded, save_sharded, weights_of


@pytest.fixture
def one_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def saved(tmp_path, one_process):
    """A checkpoint of two tensors."""
    path = tmp_path / "last.pt"
    save_sharded(
        path, {"position": 3}, {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(4)}, Accelerator(cpu=True)
    )
    return path


def test_tensors_are_read_as_they_were_written_and_a_later_folder_takes_the_place_of_the_first(saved):
    first = load_checkpoint(saved)
    save_sharded(saved, {"position": 4}, {"a": torch.ones(2, 3)}, Accelerator(cpu=True))
    state = load_checkpoint(saved)
    assert (first["position"], state["position"]) == (3, 4)
    assert [path.name for path in saved.parent.iterdir() if path.is_dir()] == [state[KEY]["folder"]]
    found = {"a": torch.zeros(2, 3)}
    read_sharded(saved, state[KEY], found)
    assert torch.equal(found["a"], torch.ones(2, 3))


def test_other_folders_stay(saved):
    for name in ("best-0123456789abcdef", "last-kept", "last-0123456789abcdef-more"):
        (saved.parent / name).mkdir()
    save_sharded(saved, {}, {"a": torch.ones(2)}, Accelerator(cpu=True))
    names = {path.name for path in saved.parent.iterdir() if path.is_dir()}
    assert names >= {"best-0123456789abcdef", "last-kept", "last-0123456789abcdef-more"}
    assert len(names) == 4


def test_a_tensor_with_two_names_is_written_once(saved):
    network = nn.ModuleDict({"first": nn.Linear(2, 2, bias=False), "last": nn.Linear(2, 2, bias=False)})
    network["last"].weight = network["first"].weight
    assert set(weights_of(network)) == {"method.first.weight"}
    save_sharded(saved, {}, weights_of(network), Accelerator(cpu=True))
    (part,) = saved.parent.glob("last-*/*.safetensors")
    assert set(load_file(part)) == {"method.first.weight"}
    other = nn.ModuleDict({"first": nn.Linear(2, 2, bias=False), "last": nn.Linear(2, 2, bias=False)})
    other["last"].weight = other["first"].weight
    read_sharded(saved, load_checkpoint(saved)[KEY], weights_of(other))
    assert torch.equal(other["last"].weight, network["first"].weight)


@pytest.mark.parametrize("name", ["../last-0123456789abcdef", "/tmp", "last-0123456789abcdef/..", "best-0123456789abcdef", 3])  # fmt: skip
def test_a_folder_elsewhere_is_not_read(saved, name):
    state = load_checkpoint(saved)
    with pytest.raises(CoterieError, match="is damaged, or of another run: its folder is"), restoring(saved):
        read_sharded(saved, {**state[KEY], "folder": name}, {"a": torch.zeros(2, 3)})


@pytest.mark.parametrize("damage", ["gone", "shorter", "more", "another shape", "another name"])
def test_what_does_not_fit_is_said_of_the_checkpoint(saved, damage):
    state = load_checkpoint(saved)
    (part,) = saved.parent.glob("last-*/*.safetensors")
    wanted = {"a": torch.zeros(2, 3)}
    if damage == "gone":
        part.unlink()
    elif damage == "shorter":
        part.write_bytes(part.read_bytes()[:-4])
    elif damage == "more":
        part.with_name("more.safetensors").write_bytes(part.read_bytes())
    else:
        wanted = {"a": torch.zeros(3, 3)} if damage == "another shape" else {"c": torch.zeros(2)}
    with pytest.raises(CoterieError, match="is damaged, or of another run"), restoring(saved):
        read_sharded(saved, state[KEY], wanted)


def test_a_folder_that_cannot_be_written_leaves_the_checkpoint_before(saved, monkeypatch):
    from torch.distributed.checkpoint import filesystem

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filesystem, "_write_item", full)
    with pytest.raises(RunError, match=r"cannot write .*: the disk is full"):
        save_sharded(saved, {"position": 4}, {"a": torch.ones(2, 3)}, Accelerator(cpu=True))
    state = load_checkpoint(saved)
    found = {"a": torch.zeros(2, 3)}
    read_sharded(saved, state[KEY], found)
    assert torch.equal(found["a"], torch.arange(6.0).view(2, 3))
    assert len([path for path in saved.parent.iterdir() if path.is_dir()]) == 1


def test_no_index_is_unpickled(saved, monkeypatch):
    """Torch's own index of such folders is a pickle; one that somebody lays there is not looked at."""
    state = load_checkpoint(saved)
    folder = saved.with_name(state[KEY]["folder"])
    (folder / ".metadata").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CoterieError, match="does not hold what was written there"), restoring(saved):
        read_sharded(saved, state[KEY], {"a": torch.zeros(2, 3)})
    monkeypatch.setattr("pickle.load", lambda *_: pytest.fail("unpickled"))
    sizes = {**state[KEY]["sizes"], ".metadata": 1}
    with pytest.raises(CoterieError, match="is damaged"), restoring(saved):
        read_sharded(saved, {**state[KEY], "sizes": sizes}, {"a": torch.zeros(2, 3)})
