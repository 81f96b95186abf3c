"""Group-wise splits: the split is drawn for whole groups (documents of a module, copies of a text), so that no group is in two splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError
from coterie.randomness import derive_seed
from coterie.recipe.sections import DataRecipe

TEST_SHARE = 0.2  # if the data have neither a validation nor a test split


class Sized(Protocol):
    """Samples of any kind."""

    def __len__(self) -> int: ...


AnySamples = TypeVar("AnySamples", bound=Sized)


def hold_out(
    found: Mapping[str, AnySamples],
    settings: DataRecipe,
    carve: Callable[[AnySamples, float, int, str], tuple[AnySamples, AnySamples]],
    samples: str,
    require: Callable[[AnySamples, Sequence[str]], None] = lambda train, carved: None,
) -> dict[str, AnySamples]:
    """Returns the data's own splits, and those carved from the training samples.

    If there is only one held-out split, it is used as the test split, whatever its name, unless ``data.test`` is a number. The final metrics come from it, so
    nothing may be selected on it.

    Args:
        found: samples by split, including ``train``.
        settings: shares and seed.
        carve: maps samples, a share, a seed and the second part's name to (rest, second part).
        samples: what samples are called in the message.
        require: called with the training samples and the names of the parts to carve; raises if there are too few samples.

    Returns:
        ``train``, and ``validation`` and ``test`` if they exist.

    Raises:
        CoterieError: a second test split is requested, or an error of ``carve`` or ``require``.
    """
    train, validation, test = found["train"], found.get("validation"), found.get("test")
    share: Any = settings.test
    if share == "auto":
        if test is None:
            validation, test = None, validation
        share = TEST_SHARE if test is None else 0
    elif test is not None and share > 0:
        raise CoterieError(
            f"data.test={share:g}: the data bring a test split of {len(test):,} {samples}; leave data.test out"
        )
    validates = validation is None and settings.validation > 0
    require(train, [what for what, wanted in (("test", share > 0), ("validation", validates)) if wanted])
    if share > 0:
        train, test = carve(train, share, settings.validation_seed, "test")
    if validates:
        train, validation = carve(train, settings.validation, settings.validation_seed, "validation")
    splits = {"train": train, "validation": validation, "test": test}
    return {split: each for split, each in splits.items() if each is not None}


def drawn_groups(groups: NDArray[Any], share: float, seed: int, what: str, *, of_samples: bool) -> NDArray[np.bool_]:
    """Draws groups, at least one and not all, and returns which samples belong to them, bool [N].

    Args:
        groups: group of each sample, [N]; at least two different ones.
        share: share of the groups, rounded, or of the samples.
        seed: the same seed gives the same groups.
        what: the part's name; parts of different names are drawn independently.
        of_samples: whether groups are drawn until they contain this share of the samples.
    """
    names, counts = np.unique(groups, return_counts=True)
    order = np.random.default_rng(derive_seed(seed, what)).permutation(len(names))
    if of_samples:
        wanted = int(np.searchsorted(np.cumsum(counts[order]), share * len(groups))) + 1
    else:
        wanted = round(share * len(names))
    return np.isin(groups, names[order[: min(len(names) - 1, max(1, wanted))]])


def copies_note(count: int, total: int, split: str, samples: str) -> str:
    """Returns a note that held-out samples are also training samples.

    Args:
        count: number of such samples, at least one.
        total: number of samples of the split.
        split: name of the split.
        samples: what samples are called in the note.
    """
    return (
        f"{count} of the {total} {split} {samples} {'are' if count > 1 else 'is'} among the training {samples} too, word by word: "
        f"figures on {split} are too good by that"
    )
