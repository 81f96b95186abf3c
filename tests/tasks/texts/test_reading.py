from __future__ import annotations

import csv
import json
import sys
import types

import pytest
import torch

from coterie.data.nested import tensors_of
from coterie.errors import CoterieError
from coterie.tasks.texts.reading import RawTexts, read_texts
from coterie.tasks.texts.settings import TextData
from coterie.tasks.texts.tokens import load_tokens

ROWS = [(f'film number {number}, it\'s "fine"\nand long', "good" if number % 2 else "bad") for number in range(20)]


def write_csv(path, rows, columns=("text", "label"), delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([columns, *rows])
    return path


def read(name, validation=0.0, columns=("text",), label="label", **data) -> RawTexts:
    return read_texts(TextData(name=str(name), validation=validation, columns=list(columns), label=label, **data))


def pairs(raw: RawTexts, split: str):
    texts = raw.splits()[split]
    return [(*each, raw.class_names[label]) for each, label in zip(texts.texts, texts.labels, strict=True)]


def test_a_file_of_any_format_gives_the_same_texts_and_splits(tmp_path):
    records = [{"text": text, "label": label} for text, label in ROWS]
    write_csv(tmp_path / "a.csv", ROWS)
    write_csv(tmp_path / "a.tsv", ROWS, delimiter="\t")
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in records) + "\n")
    found = [read(tmp_path / f"a.{kind}", validation=0.25) for kind in ("csv", "tsv", "json", "jsonl")]
    assert [raw.name for raw in found] == ["a"] * 4
    assert all(
        pairs(raw, split) == pairs(found[0], split) for raw in found for split in ("train", "validation", "test")
    )
    assert found[0].class_names == ("bad", "good")
    together = [pair for split in ("train", "validation", "test") for pair in pairs(found[0], split)]
    assert sorted(together) == sorted(ROWS)
    assert [len(each) for each in found[0].splits().values()] == [
        12,
        4,
        4,
    ]  # a fifth is test, a quarter of the rest validation


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_fields_of_any_length_are_read(tmp_path, suffix):
    limit = csv.field_size_limit()
    long = "word, " * 40_000  # Python's reader stops at 131,072 characters
    rows = [(long, "a"), ("short", "b")] * 5
    raw = read(write_csv(tmp_path / f"long.{suffix}", rows, delimiter={"csv": ",", "tsv": "\t"}[suffix]))
    assert set(raw.train.texts) == {(long,), ("short",)}
    assert csv.field_size_limit() == limit


def test_separators_inside_a_line_of_json_do_not_cut_it(tmp_path):
    texts = ["one\u2028two", "three\x0bfour", "five", "six"] * 2
    lines = [json.dumps({"text": text, "label": n % 2}, ensure_ascii=False) for n, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    raw = read(tmp_path / "a.jsonl")
    assert sorted({text for split in ("train", "test") for text, _ in pairs(raw, split)}) == sorted(set(texts))


def test_a_folder_keeps_its_splits_and_numbers_are_classes_in_their_order(tmp_path):
    write_csv(tmp_path / "train.csv", [("a", 10), ("b", 2), ("c", 2), ("d", 10)])
    write_csv(tmp_path / "val.csv", [("e", 10)])
    (tmp_path / "test.jsonl").write_text('{"text": "f", "label": 2}')
    raw = read(tmp_path)
    assert raw.class_names == ("2", "10")
    assert pairs(raw, "train") == [("a", "10"), ("b", "2"), ("c", "2"), ("d", "10")]
    assert pairs(raw, "validation") == [("e", "10")]
    assert pairs(raw, "test") == [("f", "2")]
    assert len(read(tmp_path, train_limit=2).train) == 2


def test_pairs_of_texts_and_other_column_names(tmp_path):
    rows = [(f"is {number} even", "it is", number % 2) for number in range(10)]
    path = write_csv(tmp_path / "a.csv", rows, columns=("question", "sentence", "entails"))
    raw = read(path, columns=("question", "sentence"), label="entails")
    assert {len(each) for each in raw.train.texts} == {2}
    assert raw.train.texts[0][1] == "it is"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("txt,label\na,1\n", r"row 1: there is no column 'text'.*data\.columns names one of txt, label"),
        ("text,lable\na,1\n", r"no column 'label' \(did you mean 'lable'\?\).*data\.label"),
        ("text,label\na,1\nb,\n", "row 2: label is '', expected the name"),
        ("text,label\na,1\nb\n", "row 2: label is None"),
        ("text,label\n", "holds no rows"),
        ("text,label\na,1\nb,1\n", "one class, '1'"),
        ("text,label\na,1\nb,2\n", "too few to carve a test split"),
    ],
)
def test_unusable_files_are_named_with_their_row(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(CoterieError, match=message):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[{", "cannot be read"),
        ("a.jsonl", '["a"]\n', "row 1: expected an object"),
        ("a.jsonl", '{"text": 3, "label": 1}', "row 1: text is 3, expected a text"),
        ("a.jsonl", '{"text": "a", "label": 0.5}', r"row 1: label is 0\.5"),
        ("a.txt", "a", r"expected a file \(\.csv"),
    ],
)
def test_unusable_json(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CoterieError, match=message):
        read(tmp_path / name)


def test_folders_that_are_not_clear(tmp_path):
    with pytest.raises(CoterieError, match=r"there is no '.*nowhere'"):
        read(tmp_path / "nowhere")
    write_csv(tmp_path / "test.csv", [("a", 1)])
    with pytest.raises(CoterieError, match="has no train split, only test"):
        read(tmp_path)
    write_csv(tmp_path / "train.csv", [("a", 1), ("b", 2)])
    write_csv(tmp_path / "val.csv", [("a", 3)])
    with pytest.raises(CoterieError, match="validation: the class '3' is none of the training split's, 1, 2"):
        read(tmp_path)
    write_csv(tmp_path / "valid.csv", [("a", 1)])
    with pytest.raises(CoterieError, match=r"two files for validation: val\.csv and valid\.csv"):
        read(tmp_path)


class Part(list):
    def __init__(self, rows, names):
        super().__init__(rows)
        self.features = {"text": None, "label": types.SimpleNamespace(names=names)}


def test_the_hubs_classes_keep_their_order_and_hidden_labels_are_no_split(monkeypatch):
    asked = []

    def load_dataset(name, configuration):
        asked.append((name, configuration))
        rows = [{"text": f"t{number}", "label": number % 2} for number in range(10)]
        hidden = [{"text": "h", "label": -1}]
        return {split: Part(each, ["neg", "POS"]) for split, each in (("train", rows), ("validation", rows[:4]), ("test", hidden))}  # fmt: skip

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    raw = read("hf-text://user/films:plain")
    assert asked == [("user/films", "plain")]
    assert raw.class_names == ("neg", "POS")
    assert pairs(raw, "test")[1] == ("t1", "POS")  # the only held-out split with labels is the test split
    assert raw.validation is None
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CoterieError, match=r"needs the package datasets: pip install 'coterie\[hub\]'"):
        read("hf-text://user/films")


class LetterTokenizer:
    """Letters as numbers, with a start; segments tell the second text."""

    name_or_path = "letters"

    def __init__(self, pad_token_id=0, shift=0):
        self.pad_token_id, self.shift = pad_token_id, shift

    def __call__(self, first, second=None, *, truncation, max_length, return_token_type_ids):
        assert truncation
        assert return_token_type_ids
        tokens, segments = [], []
        for number, text in enumerate(first):
            one = [1] + [ord(letter) - 95 + self.shift for letter in text]
            two = [ord(letter) - 95 + self.shift for letter in second[number]] if second else []
            tokens.append((one + two)[:max_length])
            segments.append(([0] * len(one) + [1] * len(two))[:max_length])
        return {"input_ids": tokens, "token_type_ids": segments}


def tables(tmp_path, rows, tokenizers, columns=("text",), max_length=5, **options):
    write_csv(tmp_path / "train.csv", rows, columns=(*columns, "label"))
    write_csv(tmp_path / "test.csv", rows[:3], columns=(*columns, "label"))
    settings = {"batch_size": 4, "seed": 0, "device": torch.device("cpu"), **options}
    return load_tokens(read(tmp_path, columns=columns), tokenizers, max_length=max_length, **settings)


def test_tables_hold_tokens_mask_and_segments_for_every_tokenizer(tmp_path):
    rows = [("a", "bc", 0), ("abc", "abc", 1), ("", "a", 0), ("b", "b", 1)] * 2
    data = tables(tmp_path, rows, [LetterTokenizer(), LetterTokenizer(9, shift=10)], columns=("x", "y"))
    assert data.info.length == 5
    (batch,) = data.test
    assert batch.indices.tolist() == [1, 0, 2]  # the longest first
    first, second = batch.inputs
    assert first.keys() == second.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(table.dtype == torch.int64 for table in first.values())
    assert first["input_ids"].tolist() == [[1, 2, 3, 4, 2], [1, 2, 3, 4, 0], [1, 2, 0, 0, 0]]  # the first is cut off
    assert second["input_ids"][1].tolist() == [1, 12, 13, 14, 9]
    assert first["attention_mask"][1].tolist() == [1, 1, 1, 1, 0]
    assert first["token_type_ids"][1].tolist() == [0, 0, 1, 1, 0]
    assert batch.targets.tolist() == [1, 0, 0]


def test_training_batches_are_a_function_of_seed_and_epoch(tmp_path):
    rows = [("abcd"[: 1 + number % 4], number % 2) for number in range(10)]
    data = tables(tmp_path, rows, [LetterTokenizer()])
    assert (data.train.num_samples, data.train.steps_per_epoch) == (10, 2)
    assert data.train.class_counts.tolist() == [5, 5]
    batches = list(data.train.epoch(3))
    late = list(data.train.epoch(3, first_step=1))
    assert all(map(torch.equal, tensors_of(batches[1].inputs), tensors_of(late[0].inputs)))
    assert not torch.equal(batches[0].indices, next(iter(data.train.epoch(4))).indices)
    data.train.views = 2
    first, second = next(iter(data.train.epoch(3))).inputs
    assert all(map(torch.equal, tensors_of(first), tensors_of(second)))


def test_batches_hold_texts_of_about_one_length_and_no_more_padding_than_that(tmp_path):
    rows = [("abcdefgh"[: 1 + number % 8], number % 2) for number in range(64)]
    data = tables(tmp_path, rows, [LetterTokenizer()], max_length=20)
    seen, lengths = [], []
    for batch in data.train.epoch(0):
        (table,) = batch.inputs
        assert table["attention_mask"].any(0).all()  # no column is padding alone
        seen += batch.indices.tolist()
        lengths.append(table["input_ids"].shape[1])
        assert int(table["attention_mask"].sum()) == sum(2 + number % 8 for number in batch.indices.tolist())
        for number, row in zip(batch.indices.tolist(), table["input_ids"], strict=True):
            assert row[: 2 + number % 8].tolist() == [1, *range(2, 3 + number % 8)]
    assert sorted(seen) == list(range(64))
    assert sum(lengths) * 4 == sum(
        2 + number % 8 for number in range(64)
    )  # 8 texts of each length, 4 a batch: nothing is padded
    assert lengths != sorted(lengths, reverse=True)  # batches come in a random order
    bounded = tables(tmp_path, rows, [LetterTokenizer()], max_length=20, few_lengths=True)
    assert {batch.inputs[0]["input_ids"].shape[1] for batch in bounded.train.epoch(0)} == {3, 5, 7, 9}


def test_processes_share_each_batch_and_its_lengths(tmp_path):
    rows = [("abcdefgh"[: 1 + number % 8], number % 2) for number in range(30)]
    whole = tables(tmp_path, rows, [LetterTokenizer()], max_length=20)
    parts = [
        tables(tmp_path, rows, [LetterTokenizer()], max_length=20, process_index=p, num_processes=2) for p in (0, 1)
    ]
    for batch, first, second in zip(whole.train.epoch(2), *(part.train.epoch(2) for part in parts), strict=True):
        assert sorted(batch.indices.tolist()) == sorted([*first.indices.tolist(), *second.indices.tolist()])
        assert len(first.indices) == len(second.indices) == 2


def test_two_processes_evaluate_every_text_once(tmp_path):
    rows = [("a", 0), ("b", 1)] * 3
    parts = [tables(tmp_path, rows, [LetterTokenizer()], process_index=p, num_processes=2) for p in range(2)]
    indices = torch.cat([batch.indices for part in parts for batch in part.test])
    assert sorted(indices.tolist()) == [-1, 0, 1, 2]


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path):
    with pytest.raises(CoterieError, match="the tokenizer of 'letters' has no padding token"):
        tables(tmp_path, [("a", 0), ("b", 1)], [LetterTokenizer(pad_token_id=None)])


def test_a_share_of_the_texts_becomes_the_test_split(tmp_path):
    write_csv(tmp_path / "a.csv", ROWS)
    raw = read(tmp_path / "a.csv", validation=0.25, test=0.4)
    assert {split: len(texts) for split, texts in raw.splits().items()} == {"train": 8, "validation": 4, "test": 8}
    assert read(tmp_path / "a.csv", test=0).test is None
