from __future__ import annotations

import json

import pytest

from coterie.errors import CoterieError
from coterie.tasks.retrieval.data import docstrings
from coterie.tasks.retrieval.data.docstrings import split_docstring
from coterie.tasks.retrieval.data.sets import load_sets
from coterie.tasks.retrieval.settings import RetrievalData


def write_rows(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def load(name, **settings):
    return load_sets(RetrievalData(name=str(name), **settings))


def found(sets, split):
    """Queries of a split with their documents' texts."""
    texts = sets.documents.texts
    return {each.text: {texts[number] for number, _ in each.relevant} for each in sets.queries[split].items}


ROWS = [
    {"query": "a", "document": "A"},
    {"query": "a", "document": "AA", "negatives": ["B", "A"]},
    {"query": "b", "document": "B", "negatives": "A"},
    {"query": "b", "document": "B"},
    {"query": " ", "document": "C"},
    {"query": "c", "document": None},
]


def test_rows_of_one_query_are_one_query_with_several_documents(tmp_path):
    sets = load(write_rows(tmp_path / "rows.jsonl", ROWS), test=0, validation=0)
    assert found(sets, "train") == {"a": {"A", "AA"}, "b": {"B"}}
    assert sets.documents.texts == ["A", "AA", "B"]
    negatives = {each.text: each.negatives for each in sets.queries["train"].items}
    assert negatives == {"a": (2,), "b": (0,)}  # none that is relevant
    assert sets.skipped == 2
    assert sets.queries["train"].pairs == [(0, 0), (0, 1), (1, 2)]
    assert any("1 pair there twice" in note for note in sets.notes)


def test_ids_tell_equal_texts_apart_and_columns_have_names(tmp_path):
    rows = [
        {"q": "same", "d": "text", "query_id": 1, "document_id": "x"},
        {"q": "same", "d": "text", "query_id": 2, "document_id": "y"},
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    sets = load(path, query="q", document="d", test=0, validation=0)
    assert len(sets.documents) == len(sets.queries["train"]) == 2
    with pytest.raises(CoterieError, match=r"row 1: there is no column 'query'.*data.query names one of q, d"):
        load(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "json"])
def test_every_format_gives_the_same(kind, tmp_path, pairs):
    expected = load(write_rows(tmp_path / "pairs.jsonl", pairs))
    path = tmp_path / f"pairs.{kind}"
    if kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(pairs), path)
    elif kind == "json":
        path.write_text(json.dumps(pairs))
    else:
        separator = "\t" if kind == "tsv" else ","
        path.write_text(
            "\n".join(separator.join(row) for row in [("query", "document"), *(tuple(each.values()) for each in pairs)])
        )
    assert load(path).fingerprint == expected.fingerprint


def test_splits_are_carved_by_query_and_do_not_change(tmp_path, pairs):
    path = write_rows(tmp_path / "pairs.jsonl", [*pairs, {"query": pairs[0]["query"], "document": "another one"}])
    sets = load(path)
    sizes = {split: len(queries) for split, queries in sets.queries.items()}
    assert sizes == {"train": 64, "validation": 8, "test": 18}
    texts = [set(queries.texts) for queries in sets.queries.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]  # noqa: PT018
    assert load(path).fingerprint == sets.fingerprint
    assert load(path, validation_seed=1).fingerprint != sets.fingerprint
    assert len(load(path, train_limit=10).queries["train"].pairs) == 10
    with pytest.raises(CoterieError, match="train_limit=1000 is above the number of training pairs"):
        load(path, train_limit=1000)


def test_files_of_a_folder_are_splits_and_repeated_queries_are_counted(tmp_path, pairs):
    write_rows(tmp_path / "train.jsonl", pairs[:20])
    write_rows(tmp_path / "test.jsonl", pairs[10:22])
    (tmp_path / "readme.txt").write_text("no rows")
    sets = load(tmp_path, validation=0.2)
    assert {split: len(queries) for split, queries in sets.queries.items()} == {
        "train": 16,
        "validation": 4,
        "test": 12,
    }
    assert sets.passed_over == 1
    assert sets.duplicates["test"] == len(set(sets.queries["train"].texts) & set(sets.queries["test"].texts)) > 0
    with pytest.raises(CoterieError, match=r"data.test=0.5: the data bring a test split of 12 queries"):
        load(tmp_path, test=0.5)


def test_a_folder_of_beir_with_grades_titles_and_judgements_of_nothing(tmp_path):
    write_rows(
        tmp_path / "corpus.jsonl", [{"_id": each, "title": each.upper(), "text": f"text {each}"} for each in "abc"]
    )
    write_rows(tmp_path / "queries.jsonl", [{"_id": str(number), "text": f"query {number}"} for number in range(4)])
    (tmp_path / "qrels").mkdir()
    head = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels" / "train.tsv").write_text(f"{head}0\ta\t2\n0\tb\t0\n1\tb\t1\n1\tgone\t1\n")
    (tmp_path / "qrels" / "test.tsv").write_text(f"{head}2\tc\t1\n3\ta\t0\n")
    sets = load(tmp_path, validation=0)
    assert sets.documents.texts[0] == "A text a"
    assert [each.relevant for each in sets.queries["train"].items] == [((0, 2.0),), ((1, 1.0),)]
    assert sets.queries["train"].items[0].negatives == (1,)
    assert sets.queries["test"].texts == ["query 2"]  # of query 3 no document is relevant
    assert sets.skipped == 2
    (tmp_path / "qrels" / "train.tsv").write_text(f"{head}0\ta\tgood\n")
    with pytest.raises(CoterieError, match=r"train.tsv', line 2: the grade is 'good', expected a number"):
        load(tmp_path)


def test_unlabelled_queries_come_from_a_file_and_from_rules(tmp_path, pairs):
    path = write_rows(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "more.txt").write_text(f"one more\n\none more\n{pairs[0]['query']}\nand another\n")
    sets = load(path, unlabelled=str(tmp_path / "more.txt"), test=0, validation=0)
    assert sets.unlabelled == ["one more", "and another"]
    made = load(path, pseudo_queries=2).unlabelled
    assert len(made) == len(set(made)) > 60
    train = load(path).queries["train"]
    assert not set(made) & set(train.texts)
    words = {word for each in pairs for text in each.values() for word in text.split()}
    assert {word for text in made for word in text.split()} <= words
    with pytest.raises(CoterieError, match=r"data.unlabelled='gone.txt': there is no such file"):
        load(path, unlabelled="gone.txt")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gone.jsonl", "there is no 'gone.jsonl'; data.name of task=retrieval is stdlib"),
        ("one.jsonl", "there is one query"),
        ("empty.jsonl", "has no pair of a query and a document"),
    ],
)
def test_what_is_no_data_is_refused_in_a_line(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "one.jsonl", ROWS[:2])
    write_rows(tmp_path / "empty.jsonl", ROWS[4:])
    with pytest.raises(CoterieError, match=expected) as error:
        load(name)
    assert "\n" not in str(error.value)


def test_docstrings_are_masked_and_repeated_ones_left_out(monkeypatch):
    rest = "This is what follows, and it has some more words than the first."
    definitions = [
        ("bisect", "insort", f"Insert an item with insort.\n\n{rest}"),
        ("heapq", "heappop", f"Pop the smallest item off.\n\n{rest}"),
        ("queue", "get", "Too short."),
        ("json", "dump", "Serialise an object as JSON text. " + rest.replace("This", "That")),
    ]
    monkeypatch.setattr(docstrings, "stdlib_definitions", lambda: definitions)
    sets = load("stdlib", test=0, validation=0.5)
    assert found(sets, "train") | found(sets, "validation") == {
        "Insert an item with [name].": {rest},
        "Serialise an object as JSON text.": {rest.replace("This", "That")},
    }
    assert {each.group for each in sets.queries["train"].items} ^ {
        each.group for each in sets.queries["validation"].items
    } == {"bisect", "json"}
    assert sets.name.startswith("stdlib of Python 3.")
    assert split_docstring("f", "No sentence ends here\n\nbut here is what follows, in a good many more words.") == (
        "No sentence ends here",
        "but here is what follows, in a good many more words.",
    )
