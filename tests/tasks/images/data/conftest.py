from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.recipe import load_recipe
from coterie.tasks.images.data.bundle import load_data


@pytest.fixture
def make_tree(tmp_path):
    """Write ``{"train/cat": 5, ...}`` images below a folder and return it; each image has a colour of its own."""

    def make(
        folders: dict[str, int], size: tuple[int, int] = (40, 30), name: str = "pictures", suffix: str = "png"
    ) -> Path:
        root = tmp_path / name
        generator = np.random.default_rng(0)
        for folder, count in folders.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{number}.{suffix}")
        return root

    return make


@pytest.fixture(scope="session")
def arrays():
    """40 colour images of 12x12 in 4 classes: (images, labels)."""
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (40, 12, 12, 3), dtype=np.uint8), np.arange(40) % 4


@pytest.fixture(scope="session")
def load():
    """``load("data=digits", ..., batch_size=16)``: load_data of a recipe on the CPU."""

    def load(*overrides, batch_size=16, seed=0, **arguments):
        recipe = load_recipe(None, overrides).data
        return load_data(recipe, batch_size=batch_size, seed=seed, device=torch.device("cpu"), **arguments)

    return load


@pytest.fixture(scope="session")
def by_sample():
    """``by_sample(batches)``: index to (inputs, target) of every sample of training batches, views stacked."""

    def collect(batches):
        found = {}
        for batch in batches:
            views = torch.stack(batch.inputs) if isinstance(batch.inputs, list) else batch.inputs[None]
            for place, index in enumerate(batch.indices.tolist()):
                if index >= 0:
                    found[index] = (views[:, place].clone(), batch.targets[place].clone())
        return found

    return collect


@pytest.fixture(scope="session")
def assert_same_samples():
    """Two results of :func:`by_sample` agree bit for bit on the samples they share, of which there are some."""

    def check(first, second):
        shared = first.keys() & second.keys()
        assert shared
        for index in shared:
            assert torch.equal(first[index][0], second[index][0]), index
            assert torch.equal(first[index][1], second[index][1]), index

    return check


@pytest.fixture
def make_tars(tmp_path):
    """Write ``{"train-000": 5, ...}`` samples of 3 classes into tar files of WebDataset's form, and return their folder.

    ``change(tar, number, members)`` may change a sample's members, endings to bytes, or add to them.
    """

    def make(tars: dict[str, int], change=lambda tar, number, members: None, form=tarfile.USTAR_FORMAT, size=(40, 30)):
        root = tmp_path / "tars"
        generator = np.random.default_rng(0)
        count = 0
        for name, samples in tars.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(root / f"{name}.tar", "w", format=form) as archive:
                for number in range(samples):
                    buffer = io.BytesIO()
                    pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(buffer, "PNG")
                    members = {"png": buffer.getvalue(), "cls": str(count % 3).encode()}
                    change(name, number, members)
                    for ending, content in members.items():
                        entry = tarfile.TarInfo(f"pictures/{name[-3:]}_{number:04d}.{ending}")
                        entry.size = len(content)
                        archive.addfile(entry, io.BytesIO(content))
                    count += 1
        return root

    return make


@pytest.fixture
def require_shares(load):
    """Check that two processes together see each of 32 training samples once, and from a step on what an undisturbed epoch gives."""

    def require(root: Path, workers: int) -> None:
        settings = [
            f"data={root}",
            "data.validation=0",
            "data.image_size=32",
            "data.in_memory=false",
            f"data.workers={workers}",
        ]
        halves = [load(*settings, batch_size=8, process_index=index, num_processes=2).train for index in range(2)]
        alone = load(*settings, "data.workers=0", batch_size=8).train  # nor does the number of workers change anything
        for epoch in range(2 if workers == 0 else 1):
            seen = [list(half.epoch(epoch)) for half in halves]
            assert all(len(batches) == 4 for batches in seen)
            together = [torch.cat([batch.indices for batch in step]) for step in zip(*seen, strict=True)]
            assert torch.cat(together).sort().values.tolist() == list(range(32))
            rest = list(halves[1].epoch(epoch, first_step=2))
            assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(rest, seen[1][2:], strict=True))
            for step, batch in enumerate(alone.epoch(epoch)):
                assert torch.equal(batch.indices, together[step])
                assert torch.equal(batch.inputs, torch.cat([seen[0][step].inputs, seen[1][step].inputs]))
            targets = torch.cat([batch.targets for batch in (seen[0][0], seen[1][0])])
            assert torch.equal(alone.labels[together[0]], targets)

    return require
