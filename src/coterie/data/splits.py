"""Stratified splits and subsets, determined by a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np

from coterie.data.arrays import Labels
from coterie.errors import CoterieError
from coterie.randomness import derive_seed
from coterie.recipe.sections import ClassDataRecipe

TEST_SHARE = 0.2  # share of each class, if the data have neither a validation nor a test split


class Splittable(Protocol):
    """Samples of any kind, with their classes."""

    @property
    def labels(self) -> Labels: ...

    def __len__(self) -> int: ...

    def take(self, indices: Labels) -> Self: ...


AnySamples = TypeVar("AnySamples", bound=Splittable)


def _shuffled_of_class(labels: Labels, label: int, seed: int) -> Labels:
    members = np.flatnonzero(labels == label)
    return members[np.random.default_rng(seed).permutation(len(members))]


def carve(
    samples: AnySamples, share: float, seed: int, what: str, class_names: Sequence[str], incomplete: bool = False
) -> tuple[AnySamples, AnySamples]:
    """Splits samples into two stratified parts.

    Args:
        samples: samples to split.
        share: share of each class for the second part, rounded, but at least one sample.
        seed: the same seed gives the same parts.
        what: the second part's name; parts of different names are drawn independently.
        class_names: names for the error message.
        incomplete: whether a class with a single sample stays in the first part, so that the second lacks it.

    Returns:
        (rest, carved), each in the original order.

    Raises:
        CoterieError: a class with a single sample, unless ``incomplete``; or one in every class.
    """
    carved = [np.empty(0, dtype=np.int64)]
    for label in np.unique(samples.labels):
        members = _shuffled_of_class(samples.labels, label, derive_seed(seed, what, int(label)))
        if len(members) < 2 and incomplete:
            continue
        if len(members) < 2:
            way_out = " or set data.validation=0" if what == "validation" else f" or bring a {what} split"
            raise CoterieError(
                f"the class {class_names[label]!r} has one training sample: too few to carve a {what} split from; "
                f"add some{way_out}, or data.incomplete_classes=accept"
            )
        count = min(len(members) - 1, max(1, round(share * len(members))))
        carved.append(members[:count])
    chosen = np.sort(np.concatenate(carved))
    if not len(chosen):
        raise CoterieError(f"every class has one training sample: too few to carve a {what} split from")
    rest = np.setdiff1d(np.arange(len(samples)), chosen)
    return samples.take(rest), samples.take(chosen)


def assign_held_out(
    train: AnySamples,
    validation: AnySamples | None,
    test: AnySamples | None,
    recipe: ClassDataRecipe,
    class_names: Sequence[str],
) -> tuple[AnySamples, AnySamples | None, AnySamples | None]:
    """Ensures a test split on which nothing is selected, unless the recipe sets its share of each class.

    If there is only one held-out split, it is used as the test split, whatever its name: the final metrics come from it, so nothing may be selected on it, and
    validation is carved from the training images. If there is none, a fifth of each class becomes the test split.

    Returns:
        (train, validation or None, test or None).

    Raises:
        CoterieError: see :func:`carve` and :func:`carve_test`.
    """
    if recipe.test != "auto":
        return carve_test(train, validation, test, recipe, class_names)
    if test is None:
        validation, test = None, validation
    if test is None:
        incomplete = recipe.incomplete_classes == "accept"
        train, test = carve(train, TEST_SHARE, recipe.validation_seed, "test", class_names, incomplete)
    return train, validation, test


def carve_test(
    train: AnySamples,
    validation: AnySamples | None,
    test: AnySamples | None,
    recipe: ClassDataRecipe,
    class_names: Sequence[str],
) -> tuple[AnySamples, AnySamples | None, AnySamples | None]:
    """Holds out the share ``data.test`` of each class, if it is a number; the data's validation split is unchanged.

    Returns:
        (train, validation or None, test or None).

    Raises:
        CoterieError: the data have a test split already, or a class would have no training sample left.
    """
    share = recipe.test
    if share == "auto" or share == 0:
        return train, validation, test
    refuse_second_test(test, recipe)
    for label, count in enumerate(np.bincount(train.labels, minlength=len(class_names)).tolist()):
        if count > 1 and round(share * count) >= count:
            raise CoterieError(
                f"data.test={share:g} leaves no training sample of the class {class_names[label]!r}, which has {count}; lower it"
            )
    incomplete = recipe.incomplete_classes == "accept"
    train, test = carve(train, share, recipe.validation_seed, "test", class_names, incomplete)
    return train, validation, test


def refuse_second_test(test: Splittable | None, recipe: ClassDataRecipe) -> None:
    """Rejects a second test split for data that have one already.

    Raises:
        CoterieError: the recipe requests one.
    """
    if test is not None and recipe.test not in ("auto", 0):
        raise CoterieError(
            f"data.test={recipe.test:g}: the data bring a test split of {len(test):,} samples; leave data.test out"
        )


def lacking_notes(splits: Mapping[str, Splittable], class_names: Sequence[str]) -> list[str]:
    """Returns a sentence for each split without samples of some classes."""
    notes = []
    for split, samples in splits.items():
        present = set(samples.labels.tolist())
        absent = [name for label, name in enumerate(class_names) if label not in present]
        if absent:
            shown = ", ".join(map(repr, absent[:3])) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
            what = "nothing is learnt of" if split == "train" else "figures say nothing of"
            notes.append(f"{split} has no samples of {shown}: {what} {'it' if len(absent) == 1 else 'them'}")
    return notes


def limit(samples: AnySamples, count: int, seed: int) -> AnySamples:
    """Returns ``count`` samples, as evenly distributed over classes as possible.

    Raises:
        CoterieError: fewer samples than classes, or more than there are, are requested.
    """
    classes = np.unique(samples.labels)
    if count < len(classes):
        raise CoterieError(f"data.train_limit={count} is below the number of classes, {len(classes)}")
    if count > len(samples):
        raise CoterieError(f"data.train_limit={count} is above the number of training samples, {len(samples)}")
    queues = [_shuffled_of_class(samples.labels, label, derive_seed(seed, "limit", int(label))) for label in classes]
    chosen: list[int] = []
    depth = 0
    while len(chosen) < count:
        chosen += [int(queue[depth]) for queue in queues if depth < len(queue)][: count - len(chosen)]
        depth += 1
    return samples.take(np.sort(np.array(chosen)))
