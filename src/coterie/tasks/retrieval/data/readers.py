"""Pairs and triples in rows, folders as BEIR has them, and unlabelled queries."""

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

Row = tuple[str, Mapping[str, Any]]  # its place, for messages, and its columns


@dataclass
class Tally:
    """What happened to rows while they were read.

    Attributes:
        skipped: rows or lines of judgements left out: nothing stands in them, or they name what is not there.
        duplicates: pairs that had been there before.
    """

    skipped: int = 0
    duplicates: int = 0


def rows_of_files(paths: Iterable[Path]) -> Iterator[Row]:
    """The rows of files, one after the other."""
    for path in paths:
        for number, record in read_records(path):
            yield f"{str(path)!r}, row {number}", record


def read_pairs(rows: Iterable[Row], settings: RetrievalData, documents: Documents, tally: Tally) -> list[Query]:
    """Rows of a query, a document and, where there are such columns, negatives, ``query_id`` and ``document_id``.

    Rows of one query (its id, else its text) are one query with several documents.

    Raises:
        CoterieError: a missing column, or values that are no texts.
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
    """A text, or a list of texts, without empty ones."""
    found = value if isinstance(value, list) else [value]
    return [text for each in found if (text := _text(each, column, where)).strip()]


def is_beir(folder: Path) -> bool:
    """Whether a folder is laid out as BEIR's data sets are."""
    return all((folder / each).exists() for each in ("corpus.jsonl", "queries.jsonl", "qrels"))


def read_beir(folder: Path, tally: Tally) -> tuple[Documents, dict[str, list[Query]]]:
    """``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``) and ``qrels/<split>.tsv`` (query, document, grade).

    A document is its title and its text. Grades of 0 and below say that a document is not relevant: it is a hard negative.
    A query without a relevant document is left out.

    Raises:
        CoterieError: a missing column, a grade that is no number, or no split that is known.
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
    """Query, document, grade and place: BEIR's three columns below a head, or TREC's four."""
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
    """Texts of a file, each once, in their order: one a line of a .txt file, or a column of rows.

    Args:
        path: the file.
        column: of rows.
        what: the setting that names the column, for messages.

    Raises:
        CoterieError: it cannot be read, has no such column, or no text.
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
