"""Documents one after the other, from text files, rows and docstrings."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.data.records import SUFFIXES as RECORD_SUFFIXES
from coterie.data.records import read_records, value_of
from coterie.data.stdlib import stdlib_docstrings
from coterie.errors import CoterieError
from coterie.tasks.language.data.documents import Content, Document, Kind, Tally
from coterie.tasks.language.settings import LanguageData

# Number of characters above which a text file is divided into several documents: one file may be the whole corpus, and splits need several documents.
LONGEST = 65_536
CHUNK = 2**20


def kind_of_file(path: Path, settings: LanguageData) -> Kind:
    """Return the kind of a file's documents, by its suffix and first row.

    Raises:
        CoterieError: see :func:`kind_of_row`; or the file cannot be read.
    """
    if path.suffix.lower() not in RECORD_SUFFIXES:
        return "text"
    _, record = next(iter(read_records(path, errors="surrogateescape")))
    return kind_of_row(record, settings, f"{str(path)!r}, row 1")


def kind_of_row(record: Mapping[str, Any], settings: LanguageData, where: str) -> Kind:
    """Return the kind of a table's documents, by its columns.

    Raises:
        CoterieError: the columns fit no kind, or several.
    """
    columns: dict[Kind, tuple[str | None, ...]] = {
        "text": (settings.text,),
        "completion": (settings.prompt, settings.completion),
        "chat": (settings.messages,),
    }
    kinds = [kind for kind, names in columns.items() if all(name is not None and name in record for name in names)]
    if len(kinds) > 1:
        names = [" and ".join(str(name) for name in columns[kind]) for kind in kinds]
        raise CoterieError(
            f"{where}: the columns {', '.join(names)} can all be documents; set data.{'prompt' if kinds[0] == 'completion' else kinds[0]}=null to leave out the first"
        )
    if not kinds:
        found = ", ".join(map(str, record))
        raise CoterieError(
            f"{where} has the columns {found}; expected {settings.text}, or {settings.prompt} and {settings.completion}, or {settings.messages}: name yours by data.text=..., data.prompt=... data.completion=... or data.messages=..."
        )
    return kinds[0]


def unread_columns(kind: Kind, settings: LanguageData, are_rows: bool) -> list[str]:
    """Return the settings that name columns which are not read: columns for another kind of documents, or any for text files.

    Args:
        kind: kind of the documents.
        settings: the settings; those that are null or have their default name no column.
        are_rows: whether the documents are rows of a table.
    """
    read = {"text": ("text",), "completion": ("prompt", "completion"), "chat": ("messages",)}[kind] if are_rows else ()
    others = [key for key in ("text", "prompt", "completion", "messages") if key not in read]
    named = {key: getattr(settings, key) for key in others}
    default = type(settings).model_fields
    return [f"data.{key}={value}" for key, value in named.items() if value not in (None, default[key].default)]


def columns_key(kind: Kind, settings: LanguageData) -> str:
    """Return the settings on which the documents of rows depend."""
    columns = {
        "text": (settings.text,),
        "completion": (settings.prompt, settings.completion),
        "chat": (settings.messages,),
    }
    return f"{kind} {columns[kind]!r}"


def document_of(record: Mapping[str, Any], kind: Kind, settings: LanguageData, where: str) -> Document:
    """Convert a row to a document; null becomes an empty text.

    Raises:
        CoterieError: a column is missing, a text is not a string, or a chat is not a list of messages with roles.
    """

    def text(key: str, column: str | None) -> str:
        value = value_of(record, str(column), f"data.{key}", where)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise CoterieError(f"{where}: {column} is {str(value)[:40]!r}, expected a text")
        return value

    content: Content
    if kind == "text":
        content = text("text", settings.text)
    elif kind == "completion":
        content = (text("prompt", settings.prompt), text("completion", settings.completion))
    else:
        content = _messages(value_of(record, str(settings.messages), "data.messages", where), where)
    return Document(where, content)


def _messages(value: Any, where: str) -> list[dict[str, Any]]:
    messages = [] if value is None else value
    if not isinstance(messages, list) or not all(isinstance(each, Mapping) and "role" in each for each in messages):
        raise CoterieError(f"{where}: expected a list of messages with role and content, got {str(value)[:60]!r}")
    return [dict(each) for each in messages]


def read_rows(paths: Sequence[Path], kind: Kind, settings: LanguageData, tally: Tally) -> Iterator[Document]:
    """Yield the rows of files. A row that is not UTF-8 gives a text that cannot be encoded; the caller counts it."""
    for path in paths:
        for number, record in read_records(path, errors="surrogateescape"):
            yield document_of(record, kind, settings, f"{str(path)!r}, row {number}")


def read_text_files(paths: Sequence[Path], tally: Tally) -> Iterator[Document]:
    """Yield each file, or the parts of a long one."""
    for path in paths:
        if not is_utf8(path):
            tally.unreadable += 1
            continue
        number = 0
        for number, part in enumerate(divided(path), 1):
            yield Document(f"{str(path)!r}, part {number}", part)
        tally.divided += number > 1
        tally.empty += number == 0


def is_utf8(path: Path) -> bool:
    """Return whether a file is UTF-8, reading it in chunks.

    Raises:
        CoterieError: it cannot be read at all.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    except OSError as error:
        raise CoterieError(f"cannot read {str(path)!r}: {error.strerror}") from None
    return True


def divided(path: Path) -> Iterator[str]:
    """Yield a text file in parts of at most ``LONGEST`` characters. Each is cut after the last blank line in its second half, else after the
    last line end there, else at ``LONGEST`` characters. Together, the parts are the whole file.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        waiting = ""
        while True:
            chunk = file.read(LONGEST + 1 - len(waiting))
            waiting += chunk
            if len(waiting) <= LONGEST:
                break
            cuts = ((waiting.rfind(mark, LONGEST // 2, LONGEST), len(mark)) for mark in ("\n\n", "\n"))
            end = next((place + length for place, length in cuts if place >= 0), LONGEST)
            yield waiting[:end]
            waiting = waiting[end:]
        if waiting:
            yield waiting


def read_docstrings(tally: Tally) -> Iterator[Document]:
    """Yield the docstrings of the standard library; those of one module are in the same split."""
    for module, docstring in stdlib_docstrings():
        yield Document(module, docstring, group=module)
