"""Readers for pairs and triples in rows, folders in BEIR's layout, and unlabelled queries."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.data.records import SUFFIXES, read_records, value_of
from coterie.data.split_names import split_of
from coterie.errors import CoterieError
from coterie.tasks.retrieval.data.relevance import Documents, Query
from coterie.tasks.retrieval.settings import RetrievalData

Row = tuple[str, Mapping[str, Any]]  # its location, for messages, and its columns


@dataclass
class Tally:
    """Counts rows while they are read.

    Attributes:
        skipped: rows or judgements left out because they are empty or name a query or document that does not exist.
        duplicates: repeated pairs.
    """

    skipped: int = 0
    duplicates: int = 0


def rows_of_files(paths: Iterable[Path]) -> Iterator[Row]:
    """Yield the rows of files, one after the other."""
    for path in paths:
        for number, record in read_records(path):
            yield f"{str(path)!r}, row {number}", record


def read_pairs(rows: Iterable[Row], settings: RetrievalData, documents: Documents, tally: Tally) -> list[Query]:
    """Read rows of a query, a document and, if these columns exist, negatives, ``query_id`` and ``document_id``.

    Rows with the same query (by its id, else its text) become one query with several documents.

    Raises:
        CoterieError: a column is missing, or a value is not a text.
    """
    texts: dict[str, str] = {}
    relevant: dict[str, dict[int, float]] = {}
    negatives: dict[str, dict[int, None]] = {}
    for where, record in rows:
        query = _text(value_of(record, settings.query, "data.query", where), settings.query, where)
        document = _text(value_of(record, settings.document, "data.document", where), settings.document, where)
        if not query.strip() or not document.strip():
            tally.skipped += 1
            continue
        name = record.get("query_id")
        key = query if name is None else f"id {name}"
        texts.setdefault(key, query)
        identity = record.get("document_id")
        number = documents.add(document, None if identity is None else str(identity))
        found = relevant.setdefault(key, {})
        tally.duplicates += number in found
        found[number] = 1.0
        for each in _several(record.get(settings.negatives), settings.negatives, where):
            negatives.setdefault(key, {})[documents.add(each)] = None
    return [
        Query(texts[key], tuple(found.items()), tuple(each for each in negatives.get(key, ()) if each not in found))
        for key, found in relevant.items()
    ]


def _text(value: Any, column: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CoterieError(f"{where}: {column} is {str(value)[:40]!r}, expected a text")
    return value


def _several(value: Any, column: str, where: str) -> list[str]:
    """Return a text or a list of texts as a list, without empty ones."""
    found = value if isinstance(value, list) else [value]
    return [text for each in found if (text := _text(each, column, where)).strip()]


def is_beir(folder: Path) -> bool:
    """Return whether a folder has the layout of BEIR's data sets."""
    return all((folder / each).exists() for each in ("corpus.jsonl", "queries.jsonl", "qrels"))


def read_beir(folder: Path, tally: Tally) -> tuple[Documents, dict[str, list[Query]]]:
    """Read ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``) and ``qrels/<split>.tsv`` (query, document, grade).

    A document is its title and its text. Grades of 0 and below mean that a document is not relevant: it is a hard negative.
    Queries without a relevant document are left out.

    Raises:
        CoterieError: a column is missing, a grade is not a number, or there is no known split.
    """
    documents = Documents()
    for where, record in rows_of_files([folder / "corpus.jsonl"]):
        name = str(value_of(record, "_id", "BEIR's corpus", where))
        title = _text(record.get("title"), "title", where).strip()
        text = _text(value_of(record, "text", "BEIR's corpus", where), "text", where).strip()
        documents.add(f"{title} {text}".strip(), name)
    texts = {
        str(value_of(record, "_id", "BEIR's queries", where)): _text(
            value_of(record, "text", "BEIR's queries", where), "text", where
        )
        for where, record in rows_of_files([folder / "queries.jsonl"])
    }
    splits = {}
    for path in sorted((folder / "qrels").glob("*.tsv")):
        split = split_of(path.stem)
        if split is None:
            continue
        if split in splits:
            raise CoterieError(f"{str(folder / 'qrels')!r} holds two files for {split}; rename or move one of them")
        splits[split] = _judged(path, documents, texts, tally)
    if not splits:
        raise CoterieError(f"{str(folder / 'qrels')!r} holds no train.tsv, dev.tsv or test.tsv")
    return documents, splits


def _judged(path: Path, documents: Documents, texts: Mapping[str, str], tally: Tally) -> list[Query]:
    grades: dict[str, dict[int, float]] = {}
    for query, document, grade, where in _judgements(path):
        number = documents.find(document)
        if number is None or query not in texts:
            tally.skipped += 1
            continue
        try:
            value = float(grade)
        except ValueError:
            raise CoterieError(f"{where}: the grade is {grade!r}, expected a number") from None
        found = grades.setdefault(query, {})
        tally.duplicates += number in found
        found[number] = value
    result = []
    for name, found in grades.items():
        relevant = tuple((number, grade) for number, grade in found.items() if grade > 0)
        if relevant and texts[name].strip():
            result.append(Query(texts[name], relevant, tuple(number for number, grade in found.items() if grade <= 0)))
        else:
            tally.skipped += 1
    return result


def _judgements(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield query, document, grade and location, from BEIR's three columns with a header or TREC's four columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            where = f"{str(path)!r}, line {number}"
            if not row or (number == 1 and not _is_number(row[-1])):
                continue
            if len(row) not in {3, 4}:
                raise CoterieError(f"{where}: {len(row)} columns, expected query, document and grade")
            yield row[0], row[-2], row[-1], where


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_texts(path: Path, column: str, what: str) -> list[str]:
    """Read the distinct texts of a file in their order: the lines of a .txt file, or a column of rows.

    Args:
        path: the file.
        column: the column to read from rows.
        what: the setting that names the column, for messages.

    Raises:
        CoterieError: the file cannot be read, or has no such column or no text.
    """
    if path.suffix.lower() in SUFFIXES:
        values = [
            _text(value_of(record, column, what, where), column, where) for where, record in rows_of_files([path])
        ]
    else:
        try:
            values = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CoterieError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())[:160]}") from None
    found = list(dict.fromkeys(text for value in values if (text := value.strip())))
    if not found:
        raise CoterieError(f"{str(path)!r} holds no text")
    return found
