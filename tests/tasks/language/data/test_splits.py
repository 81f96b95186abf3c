from __future__ import annotations

import numpy as np
import pytest

from coterie.errors import CoterieError
from coterie.tasks.language.data.documents import Document, Source
from coterie.tasks.language.data.splits import find_duplicates, split_documents, unread_shares
from coterie.tasks.language.data.tokens import tokenise
from coterie.tasks.language.settings import LanguageData


@pytest.fixture
def store(tokenizer):
    def make(contents, groups=None):
        groups = groups or [None] * len(contents)
        made = [Document("", content, group) for content, group in zip(contents, groups, strict=True)]
        return tokenise(Source(repr((contents, groups)), lambda tally: iter(made)), "text", tokenizer)

    return make


def numbers(splits):
    return {split: selection.numbers.tolist() for split, selection in splits.items()}


def test_a_fifth_is_test_and_a_tenth_of_the_rest_validation_whatever_the_documents_say(store):
    found = numbers(split_documents({"train": store([f"text {n}" for n in range(100)])}, LanguageData()))
    assert [len(found[split]) for split in ("train", "validation", "test")] == [72, 8, 20]
    assert sorted(number for each in found.values() for number in each) == list(range(100))
    assert all(each == sorted(each) for each in found.values())
    again = numbers(split_documents({"train": store([f"text {n}" for n in range(100)])}, LanguageData()))
    assert again == found
    other = numbers(
        split_documents({"train": store([f"text {n}" for n in range(100)])}, LanguageData(validation_seed=1))
    )
    assert other["test"] != found["test"]


def test_documents_of_a_group_and_copies_stay_together(store):
    groups = [f"module {n // 5}" for n in range(50)]
    parts = store([f"text {n}" for n in range(50)], groups)
    for numbers_of in numbers(split_documents({"train": parts}, LanguageData())).values():
        assert {n // 5 for n in numbers_of} == {n // 5 for n in numbers_of if n % 5 == 0}
    copies = split_documents({"train": store([f"text {n % 20}" for n in range(60)])}, LanguageData())
    assert find_duplicates(copies) == ({"validation": 0, "test": 0}, [])


def test_the_datas_own_splits_are_kept_and_a_lone_one_is_the_test_split(store):
    train, held = store(["a", "b", "c", "d"]), store(["e", "a", "b"])
    whole = split_documents({"train": train, "test": held}, LanguageData(validation=0))
    assert numbers(whole) == {"train": [0, 1, 2, 3], "test": [0, 1, 2]}
    counts, notes = find_duplicates(whole)
    assert counts == {"test": 2}
    assert notes == [
        "2 of the 3 test documents are among the training documents too, word by word: figures on test are too good by that"
    ]
    lone = split_documents({"train": train, "validation": held}, LanguageData(validation=0.25))
    assert {split: len(each) for split, each in lone.items()} == {"train": 3, "validation": 1, "test": 3}
    kept = split_documents({"train": train, "validation": held}, LanguageData(test=0))
    assert {split: len(each) for split, each in kept.items()} == {"train": 4, "validation": 3}
    with pytest.raises(CoterieError, match=r"data.test=0.5: the data bring a test split of 3 documents"):
        split_documents({"train": train, "test": held}, LanguageData(test=0.5))


def test_a_limit_takes_from_the_training_documents_only(store):
    train = store([f"text {n}" for n in range(10)])
    found = split_documents({"train": train}, LanguageData(train_limit=3))
    whole = split_documents({"train": train}, LanguageData())
    assert len(found["train"]) == 3
    assert set(found["train"].numbers) < set(whole["train"].numbers)
    assert np.array_equal(found["test"].numbers, whole["test"].numbers)
    with pytest.raises(CoterieError, match=r"data.train_limit=8 is above the number of training documents, 7"):
        split_documents({"train": train}, LanguageData(train_limit=8))
    assert numbers(split_documents({"train": store(["a"])}, LanguageData(test=0, validation=0))) == {"train": [0]}


@pytest.mark.parametrize(
    ("documents", "settings", "message"),
    [
        (["a"], {}, "is 1 document: too few to hold out test and validation and .* data.test=0 data.validation=0$"),
        (["a", "a", "a"], {}, "is 3 documents, 1 different one among them: .* data.test=0 data.validation=0$"),
        (["a", "b"], {}, "is 2 documents: too few to hold out test and validation .* or set data.validation=0$"),
        (["a", "b", "a"], {}, "is 3 documents, 2 different ones among them: .* or set data.validation=0$"),
        (["a"], {"test": 0}, "is 1 document: too few to hold out validation and .* or set data.validation=0$"),
        (["a"], {"validation": 0}, "is 1 document: too few to hold out test and .* or set data.test=0$"),
        (["a", "b"], {"test": 0}, None),
        (["a", "b"], {"validation": 0}, None),
        (["a", "b", "c"], {}, None),
    ],
)
def test_too_few_documents_are_told_as_they_are(store, documents, settings, message):
    if message is None:
        assert all(map(len, split_documents({"train": store(documents)}, LanguageData(**settings)).values()))
        return
    with pytest.raises(CoterieError, match=message):
        split_documents({"train": store(documents)}, LanguageData(**settings))


def test_documents_of_one_group_are_not_called_copies(store):
    with pytest.raises(CoterieError, match="is 2 documents of 1 group that stay together: too few"):
        split_documents({"train": store(["a", "b"], ["module", "module"])}, LanguageData())


@pytest.mark.parametrize(
    ("brought", "settings", "said"),
    [
        (("validation", "test"), {"validation": 0.3}, ["data.validation=0.3 has no effect"]),
        (("validation", "test"), {"validation": 0}, ["data.validation=0 has no effect"]),
        (("validation",), {"validation": 0.3}, []),  # the lone split is the test split
        (("validation",), {"validation": 0.3, "test": 0}, ["data.validation=0.3 has no effect"]),
        (("test",), {"validation": 0.3}, []),
        ((), {"validation": 0.3, "validation_seed": 4}, []),
        (("validation", "test"), {"validation_seed": 4}, ["data.validation_seed=4 has no effect"]),
        (("validation", "test"), {"validation_seed": 4, "train_limit": 2}, []),
        ((), {"validation": 0, "test": 0, "validation_seed": 4}, ["data.validation_seed=4 has no effect"]),
    ],
)
def test_shares_that_nothing_reads_are_said(store, brought, settings, said):
    """Said exactly where the splits come out the same without the setting."""
    stores = {split: store([f"{split} {n}" for n in range(12)]) for split in ("train", *brought)}
    found = unread_shares(stores, LanguageData(**settings))
    assert [each.partition(":")[0] for each in found] == said
    for key in ("validation", "validation_seed"):
        if key in settings:
            rest = {name: value for name, value in settings.items() if name != key}
            is_same = numbers(split_documents(stores, LanguageData(**settings))) == numbers(
                split_documents(stores, LanguageData(**rest))
            )
            assert is_same == any(each.startswith(f"data.{key}=") for each in found)
