from __future__ import annotations

import numpy as np
import pytest

from coterie.data.splits import assign_held_out, carve, limit
from coterie.errors import CoterieError
from coterie.tasks.images.data.raw import Arrays
from coterie.tasks.images.settings import ImageData

NAMES = ("cat", "dog", "owl")


def samples(*counts: int) -> Arrays:
    """Images that hold their own number."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return Arrays(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1), labels)


def numbers(part: Arrays) -> list[int]:
    return part.images.ravel().tolist()


def test_a_split_takes_the_share_of_every_class_and_loses_nothing():
    whole = samples(40, 20, 10)
    rest, carved = carve(whole, 0.2, 0, "validation", NAMES)
    assert np.bincount(carved.labels).tolist() == [8, 4, 2]
    assert sorted(numbers(rest) + numbers(carved)) == numbers(whole)
    for part in (rest, carved):
        assert np.array_equal(part.labels, whole.labels[numbers(part)])


def test_a_split_depends_on_its_seed_and_name():
    whole = samples(40, 20, 10)
    first = numbers(carve(whole, 0.2, 0, "validation", NAMES)[1])
    assert first == numbers(carve(whole, 0.2, 0, "validation", NAMES)[1])
    assert first != numbers(carve(whole, 0.2, 1, "validation", NAMES)[1])
    assert first != numbers(carve(whole, 0.2, 0, "test", NAMES)[1])


def test_both_parts_of_a_small_class_hold_something():
    rest, carved = carve(samples(2, 50, 3), 0.01, 0, "test", NAMES)
    assert np.bincount(carved.labels).tolist() == [1, 1, 1]
    assert np.bincount(carve(samples(2, 50, 3), 0.99, 0, "test", NAMES)[0].labels).tolist() == [1, 1, 1]
    assert len(rest) == 52


def test_a_class_of_one_image_cannot_be_split():
    with pytest.raises(CoterieError, match=r"'dog' has one training sample.*data\.validation=0"):
        carve(samples(5, 1, 5), 0.1, 0, "validation", NAMES)


def test_held_out_splits():
    train, other, third = samples(20, 20), samples(4, 4), samples(3, 3)
    assert assign_held_out(train, other, third, recipe(), NAMES) == (train, other, third)
    # A lone held-out split gives the final figure, so nothing is chosen on it.
    assert assign_held_out(train, other, None, recipe(), NAMES) == (train, None, other)
    assert assign_held_out(train, None, third, recipe(), NAMES) == (train, None, third)
    rest, validation, test = assign_held_out(train, None, None, recipe(), NAMES)
    assert validation is None
    assert np.bincount(test.labels).tolist() == [4, 4]
    assert not set(numbers(rest)) & set(numbers(test))


def test_a_limit_takes_equally_many_of_each_class():
    limited = limit(samples(40, 20, 10), 15, 0)
    assert np.bincount(limited.labels).tolist() == [5, 5, 5]
    assert numbers(limited) == numbers(limit(samples(40, 20, 10), 15, 0))
    assert numbers(limited) != numbers(limit(samples(40, 20, 10), 15, 1))
    assert set(numbers(limited)) < set(numbers(limit(samples(40, 20, 10), 30, 0)))  # larger limits add images


def test_a_limit_above_a_class_takes_all_of_it():
    assert np.bincount(limit(samples(40, 20, 4), 24, 0).labels).tolist() == [10, 10, 4]


@pytest.mark.parametrize(("count", "message"), [(2, "below the number of classes, 3"), (71, "above the number .* 70")])
def test_impossible_limits(count, message):
    with pytest.raises(CoterieError, match=message):
        limit(samples(40, 20, 10), count, 0)


def recipe(**settings):
    return ImageData(name="digits", **settings)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_share_of_each_class_is_held_out_as_the_test_split(share):
    train, other = samples(20, 40), samples(4, 4)
    rest, validation, test = assign_held_out(train, other, None, recipe(test=share), NAMES)
    assert validation is other  # a lone validation split stays one
    assert np.bincount(test.labels).tolist() == [20 * share, 40 * share]
    assert sorted(numbers(rest) + numbers(test)) == sorted(numbers(train))
    again = assign_held_out(train, None, None, recipe(test=share), NAMES)
    assert numbers(again[2]) == numbers(test)
    another = assign_held_out(train, None, None, recipe(test=share, validation_seed=1), NAMES)
    assert numbers(another[2]) != numbers(test)


def test_no_test_split_where_none_is_wanted():
    train, other, third = samples(20, 20), samples(4, 4), samples(3, 3)
    assert assign_held_out(train, None, None, recipe(test=0), NAMES) == (train, None, None)
    assert assign_held_out(train, other, None, recipe(test=0), NAMES) == (train, other, None)
    assert assign_held_out(train, other, third, recipe(test=0), NAMES) == (train, other, third)


def test_test_shares_that_cannot_be():
    with pytest.raises(CoterieError, match=r"data\.test=0\.2: the data bring a test split of 6 samples"):
        assign_held_out(samples(20, 20), None, samples(3, 3), recipe(test=0.2), NAMES)
    with pytest.raises(
        CoterieError, match=r"data\.test=0\.9 leaves no training sample of the class 'dog', which has 4"
    ):
        assign_held_out(samples(20, 4), None, None, recipe(test=0.9), NAMES)
    with pytest.raises(CoterieError, match=r"'dog' has one training sample.*test"):
        assign_held_out(samples(20, 1), None, None, recipe(test=0.2), NAMES)
    accepted = assign_held_out(samples(20, 1), None, None, recipe(test=0.2, incomplete_classes="accept"), NAMES)
    assert np.bincount(accepted[2].labels).tolist() == [4]
