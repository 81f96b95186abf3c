"""Finds the documents that a recipe names: their files or Hub splits, and their kind. ``readers.py`` reads them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from coterie.data.cache import fingerprint, remembered
from coterie.data.records import SUFFIXES as RECORD_SUFFIXES
from coterie.data.split_names import split_of, splits_by_name
from coterie.data.stdlib import stdlib_files, stdlib_name
from coterie.errors import CoterieError
from coterie.tasks.language.data.documents import Kind, Source
from coterie.tasks.language.data.hub import HUB, hub_sources
from coterie.tasks.language.data.readers import (
    columns_key,
    kind_of_file,
    read_docstrings,
    read_rows,
    read_text_files,
    unread_columns,
)
from coterie.tasks.language.settings import LanguageData

TEXT_SUFFIXES = (
    *(".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".py"),
    *(".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go", ".java", ".js", ".kt", ".rs", ".sql", ".sh", ".ts"),
)
EXPECTED = f"stdlib, a file, a folder of text files or of {', '.join(RECORD_SUFFIXES)}, or {HUB}user/dataset"
SHARD = re.compile(r"[-_.]\d+([-_.]of[-_.]\d+)?$")  # train-00000-of-00004
CHUNK = 2**20


@dataclass(frozen=True)
class Corpus:
    """A data set's documents, by split.

    Attributes:
        name: display name.
        kind: kind of all documents.
        sources: sources by split, including ``train``.
        passed_over: number of files that were ignored because their format is not supported.
        notes: notes for the user, in sentences.
        are_rows: whether the documents are rows of tables, which have columns.
        unread: settings that name columns which are not read for these documents, such as ``data.text=body``.
    """

    name: str
    kind: Kind
    sources: Mapping[str, Source]
    passed_over: int = 0
    notes: tuple[str, ...] = ()
    are_rows: bool = False
    unread: tuple[str, ...] = ()


def open_corpus(settings: LanguageData) -> Corpus:
    """Find the documents that a recipe names. Only the first row of a file is read.

    Raises:
        CoterieError: a file or folder is missing or unusable, rows have no known column, splits are of different kinds, or there is no training split.
    """
    name = settings.name
    if settings.stream is not None and not name.startswith(HUB):
        raise CoterieError(f"data.stream={settings.stream} applies to {HUB}user/dataset, not to data={name}")
    if name == "stdlib":
        return _stdlib(settings)
    if name.startswith(HUB):
        kind, sources = hub_sources(settings)
        return _checked(Corpus(name, kind, sources, are_rows=True, unread=tuple(unread_columns(kind, settings, True))))
    path = Path(name).expanduser()
    if path.is_dir():
        files, passed_over = _split_files(path)
        root = path
    elif path.is_file():
        files, passed_over, root = {"train": [path]}, 0, path.parent
    else:
        raise CoterieError(f"there is no {name!r}; data.name of a language model is {EXPECTED}")
    kinds: dict[str, Kind] = {split: kind_of_file(paths[0], settings) for split, paths in files.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{split} of {kind}" for split, kind in kinds.items())
        raise CoterieError(f"data={name}: the splits hold documents of different kinds, {found}")
    kind = next(iter(kinds.values()))
    sources = {split: _source(paths, root, kind, settings) for split, paths in files.items()}
    are_rows = any(paths[0].suffix.lower() in RECORD_SUFFIXES for paths in files.values())
    unread = tuple(unread_columns(kind, settings, are_rows))
    return _checked(
        Corpus(
            path.stem if path.is_file() else path.resolve().name,
            kind,
            sources,
            passed_over,
            are_rows=are_rows,
            unread=unread,
        )
    )


def _checked(corpus: Corpus) -> Corpus:
    if "train" not in corpus.sources:
        raise CoterieError(
            f"data={corpus.name} has no train split, only {', '.join(corpus.sources) or 'files of other names'}"
        )
    return corpus


def _stdlib(settings: LanguageData) -> Corpus:
    files = stdlib_files()
    root = Path(os.path.commonpath([path.parent for path in files]))
    note = f"{len(files)} source files; other versions have other docstrings, and figures on them do not compare"
    return Corpus(
        stdlib_name(),
        "text",
        {"train": Source(files_key(files, root), read_docstrings)},
        notes=(note,),
        unread=tuple(unread_columns("text", settings, False)),
    )


def _source(paths: Sequence[Path], root: Path, kind: Kind, settings: LanguageData) -> Source:
    key = files_key(paths, root)
    if paths[0].suffix.lower() in RECORD_SUFFIXES:
        return Source(f"{key} {columns_key(kind, settings)}", partial(read_rows, paths, kind, settings))
    return Source(f"{key} text", partial(read_text_files, paths))


def files_key(paths: Sequence[Path], root: Path) -> str:
    """Return a digest of the files' names below ``root`` and of all their bytes; it is recomputed if a size or modification time has changed."""

    def compute() -> str:
        whole = hashlib.blake2b(digest_size=16)
        for path in paths:
            one = hashlib.blake2b(digest_size=16)
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    one.update(chunk)
            whole.update(os.fsencode(path.relative_to(root).as_posix()) + b"\0" + one.digest())
        return whole.hexdigest()

    try:
        found: str = remembered("language_files", fingerprint(paths, f"content below {root}"), compute)
    except OSError as error:
        raise CoterieError(f"cannot read {str(error.filename)!r}: {error.strerror}") from None
    return found


def _split_files(folder: Path) -> tuple[dict[str, list[Path]], int]:
    """Return the files of each split, and the number of other files.

    Splits are folders named after them, or else files named after them; a folder without either is the training split.

    Raises:
        CoterieError: two folders or files for one split, or nothing to read.
    """
    found, other = _readable(folder)
    if not found:
        raise CoterieError(
            f"{str(folder)!r} holds no file that is read; expected {', '.join((*TEXT_SUFFIXES, *RECORD_SUFFIXES))}"
        )
    below = {path.relative_to(folder).parts[0] for path in found if path.parent != folder}
    named = splits_by_name(below, str(folder)) if any(split_of(each) == "train" for each in below) else {}
    if named:
        splits = {
            split: [path for path in found if path.relative_to(folder).parts[0] == each and path.parent != folder]
            for split, each in named.items()
        }
    else:
        splits = _splits_of_files(folder, found) or {"train": found}
    chosen = {split: _of_one_format(paths) for split, paths in splits.items()}
    return chosen, other + len(found) - sum(map(len, chosen.values()))


def _readable(folder: Path) -> tuple[list[Path], int]:
    """Return the files of supported formats, sorted by path, and the number of others; hidden files are ignored."""
    found, other = [], 0
    for place, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith((".", "__"))]
        for name in names:
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in (*TEXT_SUFFIXES, *RECORD_SUFFIXES):
                found.append(Path(place, name))
            else:
                other += 1
    return sorted(found), other


def _splits_of_files(folder: Path, found: Sequence[Path]) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for path in found:
        split = split_of(SHARD.sub("", path.stem)) if path.parent == folder else None
        if split is not None:
            splits.setdefault(split, []).append(path)
    for split, paths in splits.items():
        whole = [path for path in paths if not SHARD.search(path.stem)]
        if len(paths) > 1 and whole:
            other = next(path for path in paths if path != whole[0])
            raise CoterieError(f"{str(folder)!r} holds two files for {split}: {whole[0].name} and {other.name}")
    return splits if "train" in splits else {}


def _of_one_format(paths: Sequence[Path]) -> list[Path]:
    """Return the text files or, if there are none, the files of rows: a folder of source code may hold .json files that are no documents."""
    texts = [path for path in paths if path.suffix.lower() in TEXT_SUFFIXES]
    return texts or list(paths)
