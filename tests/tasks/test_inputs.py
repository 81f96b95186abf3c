"""Words on a command line that may be texts or files: nothing that is neither, and nothing without a word."""

from __future__ import annotations

import json

import pytest

from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks import find_part
from coterie.tasks.inputs import READ, filled_lines, texts_or_files

TEXTS = ["the cat sat", "naïve café", "a.txt is a name", "3.5"]


def find(*words, columns=("text",), lines=("one", "two")):
    return texts_or_files(words, lambda: list(lines), lambda there: columns, "data.columns")


def written(path, suffix, rows):
    path = path.with_suffix(suffix)
    columns = list(rows[0])
    if suffix == ".txt":
        text = "\n\n".join("\t".join(row.values()) for row in rows)
    elif suffix in {".csv", ".tsv"}:
        mark = "," if suffix == ".csv" else "\t"
        text = "\n".join([mark.join(columns), *(mark.join(row.values()) for row in rows)])
    else:
        text = json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("suffix", [each for each in READ if each != ".parquet"])
@pytest.mark.parametrize("columns", [("text",), ("question", "sentence")])
def test_a_file_is_its_texts_whatever_its_format(tmp_path, capsys, suffix, columns):
    rows = [dict(zip(columns, (text, "of a pair"), strict=False)) for text in TEXTS]
    path = written(tmp_path / "some", suffix, rows)
    expected = [tuple(row.values()) for row in rows]
    for word in (str(path), path.name, f"./{path.name}"):
        assert find("first", word, "-", columns=columns) == [("first",), *expected, ("one",), ("two",)]
    assert (
        capsys.readouterr().err.count(f"coterie: {len(TEXTS)} texts, one a {'line' if suffix == '.txt' else 'row'}, of")
        == 3
    )


@pytest.mark.parametrize("suffix", READ)
def test_a_file_that_is_not_there_is_no_text(tmp_path, suffix):
    (tmp_path / f"prompts{suffix}").touch()
    with pytest.raises(CoterieError, match=rf"no file 'promts\{suffix}' \(did you mean 'prompts\{suffix}'"):
        find(f"promts{suffix}")
    assert find(f"what is in promts{suffix}") == [(f"what is in promts{suffix}",)]


def test_other_files_are_refused_and_names_without_a_suffix_said(tmp_path, capsys):
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(CoterieError, match=r"'notes.md' is a file of no format that is read: expected .txt"):
        find("notes.md")
    (tmp_path / "README").write_text("text")
    (tmp_path / "the").mkdir()
    assert find("README", "the", "cat") == [("README",), ("the",), ("cat",)]
    said = capsys.readouterr().err
    assert "README is taken as a text; there is a file of that name" in said
    assert "the is taken as a text; there is a folder of that name" in said
    assert "cat" not in said


@pytest.mark.parametrize("text", ["", " ", "x" * 5000, "a\0b", "line\nline", "~", "def "])
def test_what_no_file_is_called_is_a_text(text):
    assert find(text) == [(text,)]


def test_files_that_hold_nothing_or_something_else(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "numbers.jsonl").write_text('{"text": 3}')
    (tmp_path / "other.csv").write_text("txt\na\n")
    for name, message in (
        ("empty.txt", "holds no text"),
        ("bytes.txt", "cannot be read"),
        ("numbers.jsonl", "row 1: '3', expected a text"),
        ("other.csv", r"no column 'text' \(did you mean 'txt'\?\); data.columns"),
    ):
        with pytest.raises(CoterieError, match=message):
            find(name)


@pytest.mark.parametrize(
    ("task", "data", "rows", "expected"),
    [
        ("language_modeling", {}, [{"prompt": "a", "text": "b"}], ["a"]),
        ("language_modeling", {}, [{"text": "b"}], ["b"]),
        ("language_modeling", {"prompt": "question"}, [{"question": "a", "prompt": "b"}], ["a"]),
        ("text_classification", {"columns": ["body"]}, [{"body": "a"}], ["a"]),
        ("text_classification", {"columns": ["one", "two"]}, [{"two": "b", "one": "a"}], [("a", "b")]),
        ("retrieval", {}, [{"query": "a", "document": "b"}], ["a"]),
    ],
)
def test_each_task_of_texts_reads_the_columns_of_its_run(tmp_path, task, data, rows, expected):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.recipe.write_text(load_recipe({"task": task, "data": data, "network": "x"}).to_yaml())
    path = written(tmp_path / "some", ".jsonl", rows)
    assert find_part(task, "inputs")([str(path)], folder, list) == expected
    text = "some words"
    assert find_part(task, "inputs")([text], folder, list) in ([text], [(text,)])


@pytest.mark.parametrize(
    ("lines", "expected", "blank"),
    [
        (["one\n", "two"], ["one", "two"], ""),
        (["one\n", "\n", " \t\r\n", "two  \r\n"], ["one", "two  "], "2 blank lines"),
        (["\n"], [], ""),
        (["\n", "a"], ["a"], "1 blank line "),
        (["a\u2028b\n", "c\x0cd\n"], ["a\u2028b", "c\x0cd"], ""),
    ],
)
def test_blank_lines_are_left_out_and_counted(tmp_path, capsys, lines, expected, blank):
    assert filled_lines(lines, "standard input") == expected
    assert capsys.readouterr().err == (f"coterie: {blank.strip()} of standard input left out\n" if blank else "")
    (tmp_path / "texts.txt").write_text("".join(lines), encoding="utf-8", newline="")
    if expected:
        found = texts_or_files([str(tmp_path / "texts.txt")], list, list, "data.text")
        assert found == [(each,) for each in expected]
        assert (blank.strip() in capsys.readouterr().err) is True
