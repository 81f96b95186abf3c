"""Carving splits and taking subsets, the same share of every class, by a seed."""

from __future__ import annotations

import numpy as np

from coterie.data.raw import Labels, Samples
from coterie.errors import CoterieError
from coterie.randomness import derive_seed


def _shuffled_of_class(labels: Labels, label: int, seed: int) -> Labels:
    members = np.flatnonzero(labels == label)
    return members[np.random.default_rng(seed).permutation(len(members))]


def carve(samples: Samples, share: float, seed: int, what: str) -> tuple[Samples, Samples]:
    """Split samples in two, stratified.

    Args:
        samples: what is split.
        share: of each class that goes into the second part, rounded, but at least one image.
        seed: the same seed gives the same parts.
        what: the second part's name, for the error message.

    Returns:
        (rest, carved), each in the original order.

    Raises:
        CoterieError: a class with a single image.
    """
    carved = []
    for label in np.unique(samples.labels):
        members = _shuffled_of_class(samples.labels, label, derive_seed(seed, what, int(label)))
        if len(members) < 2:
            raise CoterieError(
                f"class {int(label)} has {len(members)} training image: too few to carve a {what} split from; add images or set data.validation=0"
            )
        count = min(len(members) - 1, max(1, round(share * len(members))))
        carved.append(members[:count])
    chosen = np.sort(np.concatenate(carved))
    rest = np.setdiff1d(np.arange(len(samples)), chosen)
    return samples.take(rest), samples.take(chosen)


def limit(samples: Samples, count: int, seed: int) -> Samples:
    """``count`` samples, as evenly over the classes as they allow.

    Raises:
        CoterieError: fewer samples than classes are asked for, or more than there are.
    """
    classes = np.unique(samples.labels)
    if count < len(classes):
        raise CoterieError(f"data.train_limit={count} is below the number of classes, {len(classes)}")
    if count > len(samples):
        raise CoterieError(f"data.train_limit={count} is above the number of training images, {len(samples)}")
    queues = [_shuffled_of_class(samples.labels, label, derive_seed(seed, "limit", int(label))) for label in classes]
    chosen: list[int] = []
    depth = 0
    while len(chosen) < count:
        chosen += [int(queue[depth]) for queue in queues if depth < len(queue)][: count - len(chosen)]
        depth += 1
    return samples.take(np.sort(np.array(chosen)))
