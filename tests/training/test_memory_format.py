"""The memory format: what auto chooses, and convolutions that would write beyond their memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn

import coterie
from coterie.recipe import load_recipe
from coterie.training.display import Display
from coterie.training.memory_format import (
    avoid_overflow,
    compiler_options,
    move_to_device,
    overflows,
    suits_channels_last,
)

CPU = torch.device("cpu")
SMALL = ["training.epochs=1", "training.batch_size=8", "training.device=cpu", "network.branches=2"]


@pytest.mark.parametrize("channels", [2, 3, 8, 12, 15])
@pytest.mark.parametrize("stride", [2, 3, (1, 2), (2, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_strided_pointwise_convolutions_of_few_channels_are_found(channels, stride, bias):
    assert overflows(nn.Conv2d(channels, 16, 1, stride=stride, bias=bias))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(16, 16, 1, stride=2),
        nn.Conv2d(24, 16, 1, stride=2),
        nn.Conv2d(1, 16, 1, stride=2),
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.Conv2d(8, 16, 2, stride=2),
        nn.Conv2d(8, 8, 1, stride=2, groups=8),
        nn.Conv2d(8, 16, 1, stride=2, groups=2),
        nn.ConvTranspose2d(8, 16, 1, stride=2),
        nn.Conv1d(8, 16, 1, stride=2),
        nn.Linear(8, 8),
    ],
    ids=str,
)
def test_others_are_left_as_they_are(module):
    assert not overflows(module)


# In a process of its own, which may die: sizes, batches and threads of which each was seen to kill it.
GRADIENTS = """
import sys, torch
from torch import nn
from coterie.training.memory_format import move_to_device
threads, channels, size, batch, stride, channels_last = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(channels, 16, 1, stride=stride), nn.BatchNorm2d(16))
exact = nn.Sequential(nn.Conv2d(channels, 16, 1, stride=stride), nn.BatchNorm2d(16)).double()
exact.load_state_dict(network.state_dict())
move_to_device(network, torch.device("cpu"), bool(channels_last))
for _ in range(3):
    images = torch.randn(batch, channels, size, size)
    # Channels-last activations come to a contiguous network too, from one that permutes.
    inputs = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    network.zero_grad(), exact.zero_grad()
    weights = torch.randn(network(inputs).shape)
    (network(inputs) * weights).sum().backward()
    (exact(images.double()) * weights.double()).sum().backward()
    torch.testing.assert_close(network[0].weight.grad.double(), exact[0].weight.grad, atol=2e-3, rtol=2e-3)
print("sound")
"""


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("threads", "channels", "size", "batch", "stride"),
    [(1, 8, 64, 4, 2), (1, 3, 96, 4, 2), (1, 15, 48, 32, 2), (2, 3, 32, 3, 2), (2, 8, 16, 3, 2), (1, 12, 224, 2, 2)],
)
def test_gradients_are_right_where_the_process_died(threads, channels, size, batch, stride, channels_last):
    arguments = [threads, channels, size, batch, stride, int(channels_last)]
    done = subprocess.run([sys.executable, "-c", GRADIENTS, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "sound"), done.stderr[-2000:]


def test_what_would_overflow_sees_contiguous_tensors_only_and_copies_do_too():
    import copy

    seen = []
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(16, 4, 3))
    move_to_device(network, CPU, channels_last=True)
    avoid_overflow(network)  # twice is once
    assert len(network[1]._forward_pre_hooks) == 1
    assert network[1].weight.stride() == (8, 1, 1, 1)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    copied = copy.deepcopy(network)
    copied[1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].is_contiguous()))
    copied(torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    assert seen == [True]
    assert copied[1].weight.stride() == (8, 1, 1, 1)


def test_the_compiler_leaves_guarded_networks_in_their_layout():
    guarded, free = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2)), nn.Sequential(nn.Conv2d(16, 16, 1, stride=2))
    assert compiler_options(move_to_device(guarded, CPU, channels_last=False)) == {"layout_optimization": False}
    assert compiler_options(move_to_device(free, CPU, channels_last=True)) is None


COMPILED = """
import torch
from torch import nn
from coterie.training.memory_format import move_to_device
from coterie.training.memory_format import compiler_options
torch.set_num_threads(1)
network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1, stride=2), nn.BatchNorm2d(16))
move_to_device(network, torch.device("cpu"), False)
compiled = torch.compile(network, options=compiler_options(network))
for _ in range(3):
    compiled(torch.randn(8, 3, 64, 64)).sum().backward()
"""


@pytest.mark.slow
def test_a_compiled_step_survives():
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_on_cuda_channels_last():
    assert suits_channels_last(nn.Linear(2, 2), None, torch.device("cuda"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", True),
        ("mobilenetv2_050", True),
        ("convmixer_768_32", True),
        ("vit_tiny_patch16_224", False),
        ("mixer_s32_224", False),
    ],
)
def test_on_a_cpu_the_networks_decide(name, expected):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=4)
    assert suits_channels_last(network, (3, 64, 64), CPU) == expected


def test_samples_that_are_no_images_stay_contiguous():
    assert not suits_channels_last(nn.Linear(2, 2), None, CPU)


def pictures(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8), np.arange(count) % 2


def train(path, *overrides, **settings):
    data = (pictures(), None, pictures(4))
    return coterie.train(
        data=data, output=path, overrides=[*SMALL, "data.validation=0", *overrides], quiet=True, **settings
    )


@pytest.mark.parametrize(("asked", "stored"), [("auto", True), ("true", True), ("false", False)])
def test_what_was_chosen_stands_in_the_run_and_its_batches_have_it(tmp_path, monkeypatch, asked, stored):
    from coterie.training.loop import Trainer

    formats = []
    step = Trainer._compute

    def note(self, inputs, *rest):
        first = inputs if isinstance(inputs, torch.Tensor) else inputs[0]
        formats.append(first.is_contiguous(memory_format=torch.channels_last))
        return step(self, inputs, *rest)

    monkeypatch.setattr(Trainer, "_compute", note)
    train(tmp_path / "run", f"training.channels_last={asked}")
    assert load_recipe(tmp_path / "run" / "recipe.yaml").training.channels_last is stored
    assert set(formats) == {stored}


@pytest.mark.slow
def test_a_run_goes_on_in_the_format_it_began_with(tmp_path, monkeypatch):
    from coterie.training import memory_format
    from coterie.training.loop import Trainer

    train(tmp_path / "whole", "training.epochs=2")
    save = Trainer.save

    def stop(self, path):
        save(self, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", "training.epochs=2")
    monkeypatch.setattr(Trainer, "save", save)
    # Another version may choose otherwise; the run has chosen.
    monkeypatch.setattr(memory_format, "suits_channels_last", lambda *_: False)
    shown = []
    monkeypatch.setattr(Display, "epoch", lambda self, *_: shown.append(self.loss))
    train(tmp_path / "run", "training.epochs=2", resume=True)
    assert len(shown) == 2
    assert all("label loss" in text for text in shown)  # the first epoch's loss too, which the interrupted process saw
    assert load_recipe(tmp_path / "run" / "recipe.yaml").training.channels_last is True
    whole, again = ((tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "run"))
    assert whole == again


@pytest.mark.parametrize("value", ["yes please", "fastest", "2"])
def test_another_value_is_refused(value):
    with pytest.raises(coterie.CoterieError, match=r"training\.channels_last"):
        load_recipe(None, [f"training.channels_last={value}"])


@pytest.mark.slow
def test_no_process_dies_of_a_folder_of_64_pixel_pictures(tmp_path):
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "pics" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    for options in ([], ["training.channels_last=true"]):  # the second asks for the format in which the process died
        command = ["train", f"data={tmp_path / 'pics'}", "training.epochs=1", *options]
        output = tmp_path / f"run{len(options)}"
        done = subprocess.run(
            [sys.executable, "-m", "coterie", *command, "--output", str(output)], capture_output=True, text=True
        )
        # One step is too few for running statistics, and the run says so. In an unsuitable memory format the process died of a signal instead.
        assert done.returncode == 1, done.stderr[-2000:]
        assert "1 steps are too few for the network's running statistics" in done.stderr
        assert (output / "checkpoint" / "last.pt").is_file()
