from __future__ import annotations

import csv
import json

import pytest

from coterie.data.records import read_records, value_of
from coterie.errors import CoterieError

ROWS = [{"text": f'row {number}, "quoted"\nand more', "label": str(number)} for number in range(5)]


def test_every_format_gives_the_same_rows(tmp_path):
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"a.{suffix}").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    (tmp_path / "a.json").write_text("\n " + json.dumps(ROWS, indent=1))
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    for suffix in ("csv", "tsv", "json", "jsonl"):
        assert list(read_records(tmp_path / f"a.{suffix}")) == list(enumerate(ROWS, 1))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=2)
    assert list(read_records(tmp_path / "a.parquet")) == list(enumerate(ROWS, 1))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(CoterieError, match=r"b\.parquet' cannot be read"):
        list(read_records(tmp_path / "b.parquet"))


def test_parquet_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(CoterieError, match=r"pip install 'coterie\[hub\]'"):
        list(read_records(tmp_path / "a.parquet"))


def test_rows_are_read_as_they_are_asked_for_and_long_fields_are_no_trouble(tmp_path):
    limit = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("text\n" + "x" * 200_000 + "\nb\n")
    rows = read_records(tmp_path / "a.csv")
    assert len(next(rows)[1]["text"]) == 200_000
    assert csv.field_size_limit() == limit  # between two rows too
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": ')
    rows = read_records(tmp_path / "a.jsonl")
    assert next(rows) == (1, {"text": "a"})
    with pytest.raises(CoterieError, match=r"a\.jsonl' cannot be read after row 1"):
        next(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", b"<a/>", r"expected a file of \.csv, \.tsv"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.csv", b"text\n", "holds no rows"),
        ("a.json", b"[1]", "row 1: expected an object, got '1'"),
        ("a.csv", b"text\nan unquoted, comma\n", "more fields than the first one has columns"),
        ("a.jsonl", b'{"text": "\xff"}', "cannot be read after row 0: 'utf-8' codec"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CoterieError, match=message):
        list(read_records(tmp_path / name))


def test_bytes_that_are_not_utf8_can_be_left_to_the_reader(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}\n{"text": "b"}')
    rows = [row["text"] for _, row in read_records(tmp_path / "a.jsonl", errors="surrogateescape")]
    assert rows == ["\udcff", "b"]


def test_a_missing_column_is_guessed():
    assert value_of({"text": "a"}, "text", "data.text", "row 1") == "a"
    with pytest.raises(
        CoterieError, match=r"row 1: there is no column 'txt' \(did you mean 'text'\?\); data.text names"
    ):
        value_of({"text": "a"}, "txt", "data.text", "row 1")
