"""Documents tokenised once, in memory-mapped files of the cache folder. Only one batch of documents is in memory at a time.

A store is a folder named by a digest of everything it depends on, so every run that needs the same tokens finds it, and it is
never stale. It is written under a temporary name and renamed as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from coterie.data.cache import cache_folder
from coterie.errors import CoterieError, RunError
from coterie.files import reason_of, write_json
from coterie.tasks.language.data.documents import Document, Kind, Source, Tally, digest
from coterie.tasks.language.data.encoding import Encoder
from coterie.tasks.language.tokenizer import num_tokens, tokenizer_digest

LAYOUT = 1  # increased when the format of the files changes
BATCH_CHARACTERS = 250_000  # of documents to tokenise at once
BATCH_DOCUMENTS = 1_000
HEADER = "store.json"
# Files besides the tokens: dtype, and values per entry.
TABLES = {"offsets": "<i8", "digests": "<u8", "groups": "<u8", "spans": "<i8"}

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class TokenStore:
    """A split's documents as tokens, each with its end-of-text token.

    Attributes:
        tokens: uint16 or uint32 [T], memory-mapped.
        offsets: int64 [N + 1]: document d is ``tokens[offsets[d]:offsets[d + 1]]``.
        digests: uint64 [N], equal for documents with equal content.
        groups: uint64 [N], equal for documents that must be in the same split.
        spans: int64 [S, 2], spans in ``tokens`` of completions and assistant's turns, ascending; None: texts, which have none.
        end: the end-of-text token.
        tally: counts from reading the documents.
        rebuilt: whether this call replaced a damaged store.
    """

    tokens: NDArray[Any]
    offsets: Integers
    digests: NDArray[np.uint64]
    groups: NDArray[np.uint64]
    spans: Integers | None
    end: int
    tally: Tally
    rebuilt: bool = False

    def __len__(self) -> int:
        return len(self.digests)


def tokenise(source: Source, kind: Kind, tokenizer: Any) -> TokenStore:
    """Return the tokens of a source from the cache folder; tokenise the source first if they are not there.

    Tokenisation is multi-threaded; ``TOKENIZERS_PARALLELISM=false`` or ``RAYON_NUM_THREADS=1`` in the environment limits it to one thread.

    Raises:
        CoterieError: no document can be read, or reading or encoding fails.
        RunError: the cache folder cannot be written.
    """
    encoder = Encoder(tokenizer, kind)
    end: int = tokenizer.eos_token_id
    template = tokenizer.chat_template if kind == "chat" else None
    described = json.dumps([LAYOUT, source.key, kind, tokenizer_digest(tokenizer), template], sort_keys=True)
    folder = cache_folder() / "tokens" / hashlib.blake2b(described.encode(), digest_size=16).hexdigest()
    found = _open(folder, kind, end)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # the processes of a run start at the same time
            found = _open(folder, kind, end)
            if found is not None:
                return found
            damaged = folder.exists()
            _write(folder, source, encoder, np.dtype("<u2" if num_tokens(tokenizer) <= 2**16 else "<u4"))
    except OSError as error:
        reason = reason_of(error, folder.parent) or error
        raise RunError(
            f"cannot write tokens to {str(folder.parent)!r}: {reason}; COTERIE_CACHE names another folder"
        ) from error
    found = _open(folder, kind, end, rebuilt=damaged)
    if found is None:
        raise RunError(f"{str(folder)!r} was written and cannot be read again")
    return found


def _open(folder: Path, kind: Kind, end: int, rebuilt: bool = False) -> TokenStore | None:
    """Open a store; None: there is none, or the sizes of its files do not match its header."""
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        tally = Tally(**header["tally"])
        tables = {
            name: _map(folder / f"{name}.bin", np.dtype(kind_of), header["entries"][name])
            for name, kind_of in {"tokens": header["tokens"], **TABLES}.items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    offsets = tables["offsets"]
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(tables["tokens"]) or (np.diff(offsets) < 1).any():
        return None
    if not len(offsets) - 1 == len(tables["digests"]) == len(tables["groups"]) or len(tables["spans"]) % 2:
        return None
    spans = None if kind == "text" else tables["spans"].reshape(-1, 2)
    return TokenStore(tables["tokens"], offsets, tables["digests"], tables["groups"], spans, end, tally, rebuilt)


def _map(path: Path, kind: np.dtype[Any], entries: int) -> NDArray[Any]:
    """Memory-map a file of numbers.

    Raises:
        ValueError: it has another size.
    """
    if path.stat().st_size != entries * kind.itemsize:
        raise ValueError(path.name)
    return np.memmap(path, kind, "r") if entries else np.empty(0, kind)  # an empty file cannot be mapped


def _write(folder: Path, source: Source, encoder: Encoder, kind: np.dtype[Any]) -> None:
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context((temporary / f"{name}.bin").open("wb")) for name in ("tokens", *TABLES)}
            tally = _fill(files, source, encoder, kind)
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        kinds = {"tokens": kind.str, **TABLES}
        entries = {
            name: (temporary / f"{name}.bin").stat().st_size // np.dtype(each).itemsize for name, each in kinds.items()
        }
        write_json(temporary / HEADER, {"tokens": kind.str, "entries": entries, "tally": tally.to_dict()})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill(files: Mapping[str, BinaryIO], source: Source, encoder: Encoder, kind: np.dtype[Any]) -> Tally:
    """Write the files of all documents, batch by batch."""
    tally = Tally()
    place = 0
    _append(files["offsets"], [0], TABLES["offsets"])
    for documents, digests in _batches(source.read(tally), tally):
        encoded = encoder.encode(documents)
        groups = [
            own if document.group is None else digest(document.group.encode())
            for document, own in zip(documents, digests, strict=True)
        ]
        offsets, spans = [], []
        for tokens, own in encoded:
            _append(files["tokens"], tokens, kind)
            spans += [place + edge for span in own if span[1] > span[0] for edge in span]
            place += len(tokens)
            offsets.append(place)
        for name, values in (("offsets", offsets), ("digests", digests), ("groups", groups), ("spans", spans)):
            _append(files[name], values, TABLES[name])
    if not place:
        raise CoterieError(
            f"the data hold no document that can be read: {tally.empty} empty, {tally.unreadable} not UTF-8"
        )
    return tally


def _append(file: BinaryIO, values: list[int], kind: Any) -> None:
    file.write(np.array(values, dtype=kind).tobytes())


def _batches(documents: Iterator[Document], tally: Tally) -> Iterator[tuple[list[Document], list[int]]]:
    """Yield batches of the documents that have content, with their digests."""
    batch: list[Document] = []
    digests: list[int] = []
    characters = 0
    for document in documents:
        try:
            content = document.encoded()
        except UnicodeEncodeError:
            tally.unreadable += 1
            continue
        if document.is_empty:
            tally.empty += 1
            continue
        batch.append(document)
        digests.append(digest(content))
        characters += len(content)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch, digests
            batch, digests, characters = [], [], 0
    if batch:
        yield batch, digests
