"""Which documents a split has: numbers of documents in a store. Nothing is tokenised again for other splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError
from coterie.randomness import derive_seed
from coterie.tasks.language.data.tokens import Integers, TokenStore
from coterie.tasks.language.settings import LanguageData

TEST_SHARE = 0.2  # of the documents, where the data bring neither a validation nor a test split


@dataclass(frozen=True)
class Selection:
    """Documents of a store: ``numbers`` int64 [M], rising."""

    store: TokenStore
    numbers: Integers

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def digests(self) -> NDArray[np.uint64]:
        """Of the documents' contents, uint64 [M]."""
        return self.store.digests[self.numbers]

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, their ends included."""
        return int((self.store.offsets[self.numbers + 1] - self.store.offsets[self.numbers]).sum())


def split_documents(stores: Mapping[str, TokenStore], settings: LanguageData) -> dict[str, Selection]:
    """The splits that the data bring, or that are carved from the training documents.

    Documents are carved by groups (a module of the standard library; else equal documents), so that none stands in two carved splits.
    Where only one held-out split exists it is the test split, whatever its name, unless ``data.test`` is a number: the final figure comes
    from it, so nothing may be chosen on it.

    Args:
        stores: by split, ``train`` among them.
        settings: shares, their seed, and how many training documents are kept.

    Returns:
        ``train``, and ``validation`` and ``test`` where there are any.

    Raises:
        CoterieError: too few documents to hold out any, a test split that the data bring already, or a limit above their number.
    """
    whole = {split: Selection(store, np.arange(len(store))) for split, store in stores.items()}
    train, validation, test = whole["train"], whole.get("validation"), whole.get("test")
    share = settings.test
    if share == "auto":
        if test is None:
            validation, test = None, validation
        share = TEST_SHARE if test is None else 0
    elif test is not None and share > 0:
        raise CoterieError(
            f"data.test={share:g}: the data bring a test split of {len(test):,} documents; leave data.test out"
        )
    if share > 0:
        train, test = carve(train, share, settings.validation_seed, "test")
    if validation is None and settings.validation > 0:
        train, validation = carve(train, settings.validation, settings.validation_seed, "validation")
    if settings.train_limit is not None:
        train = limit(train, settings.train_limit, settings.validation_seed)
    found = {"train": train, "validation": validation, "test": test}
    return {split: selection for split, selection in found.items() if selection is not None}


def carve(selection: Selection, share: float, seed: int, what: str) -> tuple[Selection, Selection]:
    """Divide documents in two.

    Args:
        selection: what is divided.
        share: of the groups, rounded, but at least one.
        seed: the same seed gives the same parts.
        what: the second part's name; parts of different names are drawn independently.

    Returns:
        (rest, carved), each in the original order.

    Raises:
        CoterieError: there is one group only.
    """
    groups = selection.store.groups[selection.numbers]
    names = np.unique(groups)
    if len(names) < 2:
        raise CoterieError(
            f"there is one document (or copies of one): too few to carve a {what} split from; bring more, or set data.test=0 data.validation=0"
        )
    shuffled = names[np.random.default_rng(derive_seed(seed, what)).permutation(len(names))]
    chosen = np.isin(groups, shuffled[: min(len(names) - 1, max(1, round(share * len(names))))])
    return Selection(selection.store, selection.numbers[~chosen]), Selection(selection.store, selection.numbers[chosen])


def limit(selection: Selection, count: int, seed: int) -> Selection:
    """``count`` documents, drawn by a seed, in the original order.

    Raises:
        CoterieError: there are fewer.
    """
    if count > len(selection):
        raise CoterieError(f"data.train_limit={count} is above the number of training documents, {len(selection)}")
    chosen = np.random.default_rng(derive_seed(seed, "limit")).permutation(len(selection))[:count]
    return Selection(selection.store, selection.numbers[np.sort(chosen)])


def find_duplicates(splits: Mapping[str, Selection]) -> tuple[dict[str, int], list[str]]:
    """Held-out documents that are training documents too, word by word.

    Returns:
        By held-out split, how many; and a sentence for each split that has some.
    """
    train = splits["train"].digests
    counts, notes = {}, []
    for split, selection in splits.items():
        if split == "train":
            continue
        count = counts[split] = int(np.isin(selection.digests, train).sum())
        if count:
            notes.append(
                f"{count} of the {len(selection)} {split} documents {'are' if count > 1 else 'is'} among the training documents too, word by word: "
                f"figures on {split} are too good by that"
            )
    return counts, notes
