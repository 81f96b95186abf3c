"""Splits as indices of documents in a store, so that other splits need no new tokenisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.data.group_splits import copies_note, drawn_groups, hold_out
from coterie.errors import CoterieError
from coterie.randomness import derive_seed
from coterie.tasks.language.data.tokens import Integers, TokenStore
from coterie.tasks.language.settings import LanguageData


@dataclass(frozen=True)
class Selection:
    """Documents of a store: ``numbers`` int64 [M], ascending."""

    store: TokenStore
    numbers: Integers

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def digests(self) -> NDArray[np.uint64]:
        """Return digests of the documents' contents, uint64 [M]."""
        return self.store.digests[self.numbers]

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of all documents, end-of-text tokens included."""
        return int((self.store.offsets[self.numbers + 1] - self.store.offsets[self.numbers]).sum())


def split_documents(stores: Mapping[str, TokenStore], settings: LanguageData) -> dict[str, Selection]:
    """Return the splits of the data, holding out missing ones from the training documents.

    Documents are held out by groups (a module of the standard library; else equal documents), so that no group is in two such splits.
    If only one held-out split exists, it is the test split, whatever its name, unless ``data.test`` is a number: the final figure comes
    from it, so nothing may be chosen on it.

    Args:
        stores: stores by split, including ``train``.
        settings: shares, their seed, and how many training documents to keep.

    Returns:
        ``train``, and ``validation`` and ``test`` if there are any.

    Raises:
        CoterieError: there are too few documents to hold out any, the data already have a test split, or the limit is above the number of documents.
    """
    whole = {split: Selection(store, np.arange(len(store))) for split, store in stores.items()}
    splits = hold_out(whole, settings, carve, "documents", _require_enough)
    if settings.train_limit is not None:
        splits["train"] = limit(splits["train"], settings.train_limit, settings.validation_seed)
    return splits


def unread_shares(stores: Mapping[str, TokenStore], settings: LanguageData) -> list[str]:
    """Return, in sentences, which settings of the splits have no effect on these data, and why."""
    default = type(settings).model_fields
    brought = "validation" in stores and ("test" in stores or settings.test != "auto")
    found = []
    if brought and settings.validation != default["validation"].default:
        found.append(f"data.validation={settings.validation:g} has no effect: the data bring a validation split")
    draws = settings.train_limit is not None or not (brought or settings.validation == 0)
    draws = draws or (settings.test not in ("auto", 0)) or (settings.test == "auto" and len(stores) == 1)
    if settings.validation_seed != default["validation_seed"].default and not draws:
        found.append(f"data.validation_seed={settings.validation_seed} has no effect: no document is drawn")
    return found


def carve(selection: Selection, share: float, seed: int, what: str) -> tuple[Selection, Selection]:
    """Divide documents in two.

    Args:
        selection: the documents to divide.
        share: share of the groups, rounded, but at least one group.
        seed: the same seed gives the same parts.
        what: name of the second part; parts with different names are drawn independently.

    Returns:
        (rest, carved), each in the original order.

    Raises:
        CoterieError: there is one group only.
    """
    _require_enough(selection, [what])
    groups = selection.store.groups[selection.numbers]
    chosen = drawn_groups(groups, share, seed, what, of_samples=False)
    return Selection(selection.store, selection.numbers[~chosen]), Selection(selection.store, selection.numbers[chosen])


def _require_enough(selection: Selection, carved: Sequence[str]) -> None:
    """Check that there is a group of documents for each split to hold out, and one to train on.

    Raises:
        CoterieError: there are fewer.
    """
    groups = len(np.unique(selection.store.groups[selection.numbers]))
    if groups > len(carved):
        return
    count, different = len(selection), len(np.unique(selection.digests))
    there = f"{count} document{'s' if count > 1 else ''}"
    if different < count:
        there += f", {different} different one{'s' if different > 1 else ''} among them"
    elif groups < count:
        there += f" of {groups} group{'s' if groups > 1 else ''} that stay together"
    raise CoterieError(
        f"the training split is {there}: too few to hold out {' and '.join(carved)} and train on the rest; "
        f"bring more, or set {' '.join(f'data.{each}=0' for each in carved[max(0, groups - 1) :])}"
    )


def limit(selection: Selection, count: int, seed: int) -> Selection:
    """Draw ``count`` documents by a seed, and return them in the original order.

    Raises:
        CoterieError: there are fewer.
    """
    if count > len(selection):
        raise CoterieError(f"data.train_limit={count} is above the number of training documents, {len(selection)}")
    chosen = np.random.default_rng(derive_seed(seed, "limit")).permutation(len(selection))[:count]
    return Selection(selection.store, selection.numbers[np.sort(chosen)])


def find_duplicates(splits: Mapping[str, Selection]) -> tuple[dict[str, int], list[str]]:
    """Find held-out documents that are identical to training documents.

    Returns:
        The number for each held-out split, and a sentence for each split that has some.
    """
    train = splits["train"].digests
    counts, notes = {}, []
    for split, selection in splits.items():
        if split == "train":
            continue
        count = counts[split] = int(np.isin(selection.digests, train).sum())
        if count:
            notes.append(copies_note(count, len(selection), split, "documents"))
    return counts, notes
