"""Reads rows of CSV, TSV, JSON, JSON-lines and parquet files, and data sets of the Hub. Callers interpret the rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from coterie.errors import CoterieError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
PARQUET_ROWS = 1_000  # rows in memory at once

Rows = Iterator[tuple[int, Mapping[str, Any]]]


def read_records(path: Path, *, errors: Literal["strict", "surrogateescape"] = "strict") -> Rows:
    """Yields the rows of a file with their numbers, from 1. Only a few are in memory at once, except for a .json list, which is read as a whole.

    Args:
        path: the file; its suffix determines the format.
        errors: handling of bytes that are not UTF-8; ``surrogateescape`` yields texts that cannot be encoded, so that single rows can be skipped.

    Raises:
        CoterieError: an unsupported format, a file that cannot be read, a row that is not an object, or no rows.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CoterieError(f"{str(path)!r}: expected a file of {', '.join(SUFFIXES)}")
    number = 0
    try:
        if suffix == ".parquet":
            rows: Iterator[Any] = _parquet(path)
        elif suffix in {".csv", ".tsv"}:
            rows = _separated(path, "\t" if suffix == ".tsv" else ",", errors)
        else:
            rows = _json(path, errors)
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping):
                raise CoterieError(f"{str(path)!r}, row {number}: expected an object, got {str(row)[:40]!r}")
            yield number, row
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CoterieError(f"{str(path)!r} cannot be read after row {number}: {reason}") from None
    if not number:
        raise CoterieError(f"{str(path)!r} holds no rows")


def value_of(record: Mapping[str, Any], column: str, key: str, where: str) -> Any:
    """Returns a row's value in a column.

    Args:
        record: the row.
        column: name of the column.
        key: the setting that names the column.
        where: location of the row, for the error message.

    Raises:
        CoterieError: there is no such column.
    """
    if column not in record:
        columns = [str(each) for each in record]
        raise CoterieError(
            f"{where}: there is no column {column!r}{did_you_mean(column, columns)}; {key} names one of {', '.join(columns)}"
        )
    return record[column]


def _separated(path: Path, separator: str, errors: str) -> Iterator[Any]:
    """Yields rows whose fields may exceed the csv module's default limit of 131,072 characters."""
    longest = path.stat().st_size + 1
    with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
        rows = csv.DictReader(file, delimiter=separator)
        while True:
            limit = csv.field_size_limit(longest)
            try:
                row = next(rows, None)
            finally:
                csv.field_size_limit(limit)
            if row is None:
                return
            if None in row:
                raise csv.Error("the next row has more fields than the first one has columns; are its texts quoted?")
            yield row


def _json(path: Path, errors: str) -> Iterator[Any]:
    """Yields rows from a list of objects, or from one object a line."""
    with path.open(encoding="utf-8-sig", errors=errors, newline="\n") as file:
        first = file.read(1)
        while first.isspace():
            first = file.read(1)
        if first == "[":
            yield from json.loads(first + file.read())
            return
        line = first + file.readline()
        while line:
            if line.strip():
                yield json.loads(line)
            line = file.readline()


def _parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CoterieError(f"{str(path)!r} needs the package pyarrow: pip install 'coterie[hub]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for rows in file.iter_batches(batch_size=PARQUET_ROWS):
                yield from rows.to_pylist()
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from None


def load_hub(name: str, place: str, **options: Any) -> Any:
    """Loads the splits of a data set of the Hub, by name.

    Args:
        name: the name in the recipe, for the error message.
        place: ``user/dataset``, a folder, or either with ``:configuration``.
        options: further keyword arguments of ``datasets.load_dataset``.

    Raises:
        CoterieError: the extra ``hub`` is missing, or the data set is not available.
    """
    try:
        import datasets
    except ImportError:
        raise CoterieError(f"data={name} needs the package datasets: pip install 'coterie[hub]'") from None
    place, _, configuration = place.partition(":")
    try:
        return datasets.load_dataset(place, configuration or None, **options)
    except Exception as error:  # network, permissions, formats: the library raises many exception types
        raise CoterieError(f"data={name} cannot be loaded: {' '.join(str(error).split())[:160]}") from None
