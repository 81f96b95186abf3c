from __future__ import annotations

import json
import os
import sys
import types

import pytest

from coterie.errors import CoterieError
from coterie.tasks.language.data.corpus import open_corpus
from coterie.tasks.language.data.documents import Tally
from coterie.tasks.language.data.readers import LONGEST, divided
from coterie.tasks.language.settings import LanguageData


def read(name, split="train", **settings):
    corpus = open_corpus(LanguageData(name=str(name), **settings))
    tally = Tally()
    return corpus, [document.content for document in corpus.sources[split].read(tally)], tally


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_a_folder_of_text_files_is_read_in_order_and_the_rest_counted(tmp_path):
    for name, content in {
        "b.md": b"second",
        "a/z.txt": b"first \xe2\x82\xac\r\n",
        "c.txt": b"\xff\xfe",
        "d.txt": b"",
        "picture.png": b"x",
        "table.jsonl": b'{"text": "x"}',
        ".git/config.txt": b"x",
        "__pycache__/a.txt": b"x",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    corpus, documents, tally = read(tmp_path)
    assert documents == ["first €\r\n", "second"]
    assert (tally.unreadable, tally.empty, tally.divided) == (1, 1, 0)
    assert (corpus.name, corpus.kind, corpus.passed_over) == (tmp_path.name, "text", 2)


def test_a_long_file_is_divided_at_blank_lines_and_its_parts_are_the_whole(tmp_path):
    paragraph = "word " * 999 + "\n"
    contents = {
        "blank": (paragraph + "\n") * 50,
        "lines": paragraph * 50,
        "none": "ä" * (2 * LONGEST + 7),
        "late": "\n\n" + "x" * (LONGEST + 9) + "\n\ny",
        "exact": "x" * LONGEST,
    }
    for name, text in contents.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
        parts = list(divided(tmp_path / f"{name}.txt"))
        assert "".join(parts) == text
        assert all(0 < len(part) <= LONGEST for part in parts)
        assert len(parts) == {"blank": 4, "lines": 4, "none": 3, "late": 2, "exact": 1}[name]
        if name in {"blank", "lines"}:
            assert all(part.endswith("\n\n" if name == "blank" else "\n") for part in parts)
    _, documents, tally = read(tmp_path / "blank.txt")
    assert len(documents) == 4
    assert tally.divided == 1


@pytest.mark.parametrize("shape", ["folders", "files", "shards"])
def test_splits_that_the_data_bring_are_found(tmp_path, shape):
    place = {
        "folders": {"train": ["train/a.txt", "train/b.txt"], "validation": ["val/deep/a.txt"], "test": ["test/a.txt"]},
        "files": {"train": ["train.txt"], "validation": ["dev.txt"], "test": ["test.txt"]},
        "shards": {"train": ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], "test": ["test.jsonl"]},
    }[shape]
    for split, names in place.items():
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = f"{split} {name}"
            path.write_text(json.dumps({"text": text}) if shape == "shards" else text)
    corpus = open_corpus(LanguageData(name=str(tmp_path)))
    assert set(corpus.sources) == set(place)
    for split, names in place.items():
        assert read(tmp_path, split)[1] == [f"{split} {name}" for name in names]


def test_rows_are_texts_prompts_or_chats_by_their_columns(tmp_path):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = {
        "text": ({"text": "a", "prompt": "x"}, "a"),
        "completion": ({"prompt": "a", "completion": "b"}, ("a", "b")),
        "chat": ({"messages": chat, "prompt": "x"}, chat),
    }
    for kind, (row, content) in rows.items():
        corpus, documents, _ = read(write_jsonl(tmp_path / f"{kind}.jsonl", [row]))
        assert (corpus.kind, documents) == (kind, [content])
    path = write_jsonl(tmp_path / "own.jsonl", [{"question": "a", "answer": "b", "text": None}])
    assert read(path, prompt="question", completion="answer", text=None)[1] == [("a", "b")]
    with pytest.raises(
        CoterieError, match=r"columns text, question and answer can all be documents; set data.text=null"
    ):
        read(path, prompt="question", completion="answer")
    with pytest.raises(
        CoterieError, match=r"row 1 has the columns question, answer, text; expected body, or prompt and"
    ):
        read(path, text="body")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": 3}, "row 2: text is '3', expected a text"),
        ({"txt": "a"}, r"row 2: there is no column 'text' \(did you mean 'txt'\?\); data.text"),
    ],
)
def test_a_row_that_is_no_document_is_said(tmp_path, row, message):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, row])
    with pytest.raises(CoterieError, match=message):
        read(path)


ROWS = {
    "text": {"text": "a"},
    "completion": {"prompt": "a", "completion": "b"},
    "chat": {"messages": [{"role": "user", "content": "a"}]},
}


@pytest.mark.parametrize("kind", ["text files", *ROWS])
@pytest.mark.parametrize("key", ["text", "prompt", "completion", "messages"])
def test_a_setting_that_names_a_column_which_nothing_reads_is_found(tmp_path, kind, key):
    """Of every kind of documents: the setting is read exactly where it can name a column of theirs."""
    row = ROWS.get(kind, {})
    if kind == "text files":
        path = tmp_path / "a.txt"
        path.write_text("a")
    else:
        path = write_jsonl(tmp_path / "a.jsonl", [{("other" if name == key else name): row[name] for name in row}])
    corpus = open_corpus(LanguageData(name=str(path), **{key: "other"}))
    assert corpus.unread == (() if key in row else (f"data.{key}=other",))
    assert corpus.are_rows == (kind != "text files")


def test_messages_without_roles_are_refused(tmp_path):
    with pytest.raises(CoterieError, match=r"row 1: expected a list of messages with role and content"):
        read(write_jsonl(tmp_path / "a.jsonl", [{"messages": [{"from": "human"}]}]))


def test_what_does_not_fit_together_is_refused(tmp_path):
    with pytest.raises(CoterieError, match=r"there is no 'nowhere'; data.name of a language model is stdlib, a file"):
        read("nowhere")
    with pytest.raises(CoterieError, match=r"holds no file that is read"):
        read(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", [{"text": "a"}])
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(
        CoterieError, match=r"different kinds, test of completion, train of text|different kinds, train of text"
    ):
        read(tmp_path)
    write_jsonl(tmp_path / "train.json", [{"text": "a"}])
    with pytest.raises(CoterieError, match=r"two files for train: train.json and train.jsonl"):
        read(tmp_path)
    with pytest.raises(CoterieError, match=r"data.stream=5 applies to hf-text://user/dataset, not to data=stdlib"):
        read("stdlib", stream=5)


def test_the_key_follows_the_content_and_not_the_place(tmp_path):
    keys = []
    for place in ("one", "two"):
        path = write_jsonl(tmp_path / place / "a.jsonl", [{"text": "a", "other": "b"}])
        keys.append(open_corpus(LanguageData(name=str(path))).sources["train"].key)
    assert keys[0] == keys[1]
    assert open_corpus(LanguageData(name=str(path), text="other")).sources["train"].key != keys[0]
    path.write_text('{"text": "c", "other": "b"}')
    os.utime(path, ns=(1, 1))
    assert open_corpus(LanguageData(name=str(path))).sources["train"].key != keys[0]


class Part(list):
    """As much of datasets' splits as is used."""

    _fingerprint = "f"


def test_splits_of_the_hub_are_downloaded_or_streamed(monkeypatch):
    asked = []

    def load_dataset(place, configuration, **options):
        asked.append((place, configuration, options))
        rows = [{"text": f"row {number}"} for number in range(5)]
        return {"train_sft": Part(rows), "test_sft": Part(rows[:1]), "train_gen": Part([])}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    api = types.SimpleNamespace(
        HfApi=lambda: types.SimpleNamespace(dataset_info=lambda place: types.SimpleNamespace(sha="123"))
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", api)
    corpus, documents, _ = read("hf-text://user/name:part")
    assert set(corpus.sources) == {"train", "test"}
    assert len(documents) == 5
    streamed, documents, _ = read("hf-text://user/name:part", stream=2)
    assert documents == ["row 0", "row 1"]
    assert asked == [("user/name", "part", {}), ("user/name", "part", {"streaming": True, "revision": "123"})]
    assert len({each.sources[split].key for each in (corpus, streamed) for split in ("train", "test")}) == 4


def test_the_hub_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CoterieError, match=r"needs the package datasets: pip install 'coterie\[hub\]'"):
        read("hf-text://user/name")


def test_a_stream_that_breaks_off_says_where(monkeypatch):
    class Breaking(Part):
        def __iter__(self):
            yield {"text": "a"}
            raise ConnectionError("the line is dead")

    monkeypatch.setitem(
        sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *a, **k: {"train": Breaking()})
    )
    with pytest.raises(CoterieError, match=r"data=hf-text://user/name, train: the line is dead"):
        read("hf-text://user/name")
