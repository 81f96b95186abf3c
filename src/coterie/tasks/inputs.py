"""Reads samples named on a command line: the words themselves, or texts in files. Nothing heavy is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from coterie.data.records import SUFFIXES, read_records, value_of
from coterie.errors import CoterieError, did_you_mean
from coterie.run_folder import RunFolder
from coterie.terminal import one_line

LINES = ".txt"
READ = (LINES, *SUFFIXES)


def as_they_stand(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[str]:
    """Returns each word as a sample; ``-`` stands for the lines of standard input."""
    return [sample for each in inputs for sample in (lines() if each == "-" else [each])]


def filled_lines(lines: Iterable[str], name: str) -> list[str]:
    """Returns the lines that are not blank, without line ends; reports on standard error how many of ``name`` were left out."""
    every = [line.rstrip("\r\n") for line in lines]
    found = [line for line in every if line.strip()]
    if found and (blank := len(every) - len(found)):  # callers report empty input
        print(f"coterie: {blank:,} blank line{'s' if blank > 1 else ''} of {one_line(name)} left out", file=sys.stderr)
    return found


def texts_or_files(
    inputs: Sequence[str],
    lines: Callable[[], list[str]],
    columns_of: Callable[[Sequence[str]], Sequence[str]],
    key: str,
) -> list[tuple[str, ...]]:
    """Returns texts from the words themselves, from standard input (``-``), and from existing files, which are reported on standard error.

    A ``.txt`` file has one text per line; other files have rows with columns. A tab separates the texts of one line.

    Args:
        inputs: the words.
        lines: reads standard input.
        columns_of: selects the columns to read from those of a file.
        key: the setting that names them.

    Raises:
        CoterieError: a file has another format, is missing, cannot be read or is empty, or rows lack the columns.
    """
    found: list[tuple[str, ...]] = []
    for each in inputs:
        path = _file(each)
        if path is None:
            texts = lines() if each == "-" else [each]
            found += [tuple(text.split("\t")) for text in texts]
            continue
        read = _lines_of(path) if path.suffix.lower() == LINES else _rows_of(path, columns_of, key)
        how = "one a line" if path.suffix.lower() == LINES else "one a row"
        found += read
        print(f"coterie: {len(read):,} text{'s' if len(read) > 1 else ''}, {how}, of {one_line(each)}", file=sys.stderr)
    return found


def _file(word: str) -> Path | None:
    """Returns the file that a word names; None if it is a text."""
    path = Path(word).expanduser()
    try:
        is_file, is_there = path.is_file(), path.exists()
    except (OSError, ValueError):  # not a valid file name
        return None
    known = path.suffix.lower() in READ
    if is_file and known:
        return path
    if is_file and path.suffix:
        raise CoterieError(
            f"{word!r} is a file of no format that is read: expected {', '.join(READ)}; its text is passed by standard input: - < {word}"
        )
    if known and not is_there and len(word.split()) == 1:
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
        raise CoterieError(
            f"there is no file {word!r}{near}; a text that looks like one is passed by standard input: -"
        )
    if is_there and word.strip():
        kind = "file" if is_file else "folder"
        print(f"coterie: {one_line(word)} is taken as a text; there is a {kind} of that name", file=sys.stderr)
    return None


def _lines_of(path: Path) -> list[tuple[str, ...]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            texts = filled_lines(file, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CoterieError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())[:160]}") from None
    if not texts:
        raise CoterieError(f"{str(path)!r} holds no text")
    return [tuple(line.split("\t")) for line in texts]


def _rows_of(path: Path, columns_of: Callable[[Sequence[str]], Sequence[str]], key: str) -> list[tuple[str, ...]]:
    found = []
    for number, record in read_records(path):
        where = f"{str(path)!r}, row {number}"
        texts = tuple(value_of(record, column, key, where) for column in columns_of(list(record)))
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise CoterieError(f"{where}: {str(wrong[0])[:40]!r}, expected a text")
        found.append(texts)
    return found
