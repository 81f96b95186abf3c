from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.data.fingerprint import differences
from coterie.errors import CoterieError
from coterie.tasks.restoration.data.loaders import MeasuringLoader, make_loaders, turned
from coterie.tasks.restoration.data.sets import describe, load_sets
from coterie.tasks.restoration.settings import RestorationData

CPU = torch.device("cpu")


def loaders(recipe, **changes):
    return make_loaders(load_sets(recipe), recipe, **{"batch_size": 4, "seed": 0, "device": CPU, **changes})


def test_two_photographs_suffice():
    sets = load_sets(RestorationData())
    names = {split: [each.name for each in pictures] for split, pictures in sets.pictures.items()}
    assert names == {"train": ["china"], "validation": ["china"], "test": ["flower"]}
    train, validation = sets.pictures["train"][0], sets.pictures["validation"][0]
    assert train.width + validation.width == 640
    assert validation.left == train.width  # no pixel is in both
    assert [len(sets.squares[split]) for split in names] == [54, 6, 60]


def test_more_photographs_come_with_the_extra():
    pytest.importorskip("skimage")
    sets = load_sets(RestorationData(name="more_photos"))
    assert {each.name for each in sets.pictures["test"]} == {"flower", "chelsea"}
    assert len(sets.pictures["train"]) + len(sets.pictures["validation"]) == 4


def test_folders_bring_splits_or_are_split(images, tmp_path):
    sets = load_sets(RestorationData(name=str(images), crop=32))
    assert {split: len(each) for split, each in sets.squares.items()} == {"train": 12, "validation": 6, "test": 6}
    for number in range(6):
        Image.fromarray(np.full((40, 40, 3), number * 40, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "7.png").write_bytes(b"none")
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "8.png")
    carved = load_sets(RestorationData(name=str(tmp_path), crop=32))
    found = {split: [each.name for each in pictures] for split, pictures in carved.pictures.items()}
    assert {split: len(each) for split, each in found.items()} == {"train": 4, "validation": 1, "test": 1}
    assert len({name for each in found.values() for name in each}) == 6
    assert carved.skipped == 2
    whole = load_sets(RestorationData(name=str(tmp_path), crop=32), whole=True)
    assert len(whole.pictures["test"]) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "photoss"}, "did you mean 'photos'"),
        ({"crop": 1024}, "holds no image of at least 1024x1024"),
        ({"test": 0.3}, "the data bring a test split of 1 images"),
        ({"train_limit": 1000}, "above the number of training squares, 54"),
        ({"crop": 400}, "too narrow for a validation strip"),
    ],
)
def test_data_that_cannot_be_had(changes, message):
    with pytest.raises(CoterieError, match=message):
        load_sets(RestorationData(**changes))


def test_pairs_are_cut_at_the_same_place(images, tmp_path):
    for path in images.rglob("*.png"):
        place = tmp_path / path.relative_to(images)
        place.parent.mkdir(exist_ok=True)
        with Image.open(path) as image:
            pixels = np.array(image)[::4, ::4]  # every fourth pixel, so that the places can be told
        Image.fromarray(pixels).save(place)
    recipe = RestorationData(name=str(images), low=str(tmp_path), crop=32, flip=False)
    data = loaders(recipe)
    for batch in [*data.train.epoch(0), *data.train.epoch(1), *data.test]:
        assert torch.equal(batch.inputs, batch.targets[..., ::4, ::4])
    (tmp_path / "test" / "0.png").unlink()
    with pytest.raises(CoterieError, match=r"no small image of '0.png'"):
        load_sets(recipe)


def test_squares_are_a_function_of_seed_epoch_and_number(images):
    recipe = RestorationData(name=str(images), crop=32)
    first, again, other = loaders(recipe), loaders(recipe, batch_size=2), loaders(recipe, seed=1)

    def by_number(data, epoch, start=0):
        batches = data.train.epoch(epoch, start)
        return {n: (a, b) for batch in batches for n, a, b in zip(batch.indices.tolist(), *batch[:2], strict=True)}

    found = by_number(first, 0)
    assert len(found) == 12
    for number, pair in by_number(again, 0).items():
        assert all(torch.equal(a, b) for a, b in zip(pair, found[number], strict=True))
    assert not any(torch.equal(found[number][0], pair[0]) for number, pair in by_number(first, 1).items())
    assert not all(torch.equal(found[number][0], pair[0]) for number, pair in by_number(other, 0).items())
    late = list(first.train.epoch(0, 2))
    assert len(late) == 1
    assert torch.equal(late[0].targets, list(first.train.epoch(0))[2].targets)
    iterator = first.train.epoch(0)
    next(iterator)
    iterator.close()  # threads end


def test_measuring_repeats_and_whole_images_come_one_by_one(images):
    recipe = RestorationData(name=str(images), crop=32)
    test = loaders(recipe).test
    first, second = next(iter(test)), next(iter(test))
    assert torch.equal(first.inputs, second.inputs)
    assert first.targets.shape == (6, 3, 32, 32)
    whole = loaders(recipe.model_copy(update={"evaluation": "whole"})).test
    assert isinstance(whole, MeasuringLoader)
    (batch,) = whole
    assert batch.targets.shape == (1, 3, 64, 96)
    assert batch.inputs.shape == (1, 3, 16, 24)
    shares = [loaders(recipe, process_index=p, num_processes=2).test for p in (0, 1)]
    numbers = [n for share in shares for each in share for n in each.indices.tolist()]
    assert sorted(numbers) == [0, 1, 2, 3, 4, 5]


def test_all_ways_to_turn_a_square_differ():
    square = torch.arange(9.0).reshape(1, 3, 3)
    assert len({tuple(turned(square, way).flatten().tolist()) for way in range(8)}) == 8


def test_other_images_are_told(images, tmp_path):
    recipe = RestorationData(name=str(images), crop=32)
    own = describe(load_sets(recipe))
    assert not differences(own, describe(load_sets(recipe)))
    assert differences(own, describe(load_sets(RestorationData(crop=32))))
