"""Builds the rows of every split from the settings, with notes on the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coterie.errors import CoterieError
from coterie.tasks.language.data.corpus import Corpus, open_corpus
from coterie.tasks.language.data.documents import Kind, Tally, plain_text
from coterie.tasks.language.data.rows import Rows
from coterie.tasks.language.data.splits import Selection, find_duplicates, split_documents, unread_shares
from coterie.tasks.language.data.tokens import TokenStore, tokenise
from coterie.tasks.language.settings import LanguageData
from coterie.tasks.language.tokenizer import tokenizer_digest


@dataclass(frozen=True)
class LanguageSets:
    """A data set as rows of tokens.

    Attributes:
        name: display name.
        kind: kind of the documents: text, completion or chat.
        rows: rows by split, including ``train``.
        packing: ``packed`` or ``documents``; ``auto`` is resolved.
        loss_on: ``all`` or ``completion``; ``auto`` is resolved.
        skipped: number of documents left out because they are empty or not UTF-8.
        passed_over: number of files ignored because their format is not supported.
        duplicates: for each held-out split, how many of its documents are also training documents.
        notes: notes on these and other findings, in sentences.
        fingerprint: what identifies the data, as JSON values: documents, tokens and digest of each split, and the tokenizer's digest.
    """

    name: str
    kind: Kind
    rows: Mapping[str, Rows]
    packing: Literal["packed", "documents"]
    loss_on: Literal["all", "completion"]
    skipped: int
    passed_over: int
    duplicates: Mapping[str, int]
    notes: tuple[str, ...]
    fingerprint: Mapping[str, Any]


def load_sets(settings: LanguageData, tokenizer: Any, whole: bool = False, inherited: bool = False) -> LanguageSets:
    """Find, tokenise and split the documents that a recipe names, and cut them into rows.

    Args:
        settings: the recipe's section ``data``.
        tokenizer: the students' tokenizer, see :func:`coterie.tasks.language.tokenizer.load_tokenizer`.
        whole: use all documents without splits as the test split, since nothing is trained on them.
        inherited: whether the settings come from a finished run. They may then name columns that other data do not have; this gives a note, not an error.

    Raises:
        CoterieError: a setting names a column that is not read; reading, encoding or splitting fails; ``loss_on=completion`` for texts; a split has no row.
        RunError: the cache folder cannot be written.
    """
    corpus = open_corpus(settings)
    if not inherited:
        _require_read(corpus)
    loss_on = settings.loss_on
    if loss_on == "auto":
        loss_on = "all" if corpus.kind == "text" else "completion"
    if loss_on == "completion" and corpus.kind == "text":
        raise CoterieError(
            f"data.loss_on=completion: data={settings.name} holds texts, not prompts with completions or chats"
        )
    packing = settings.packing
    if packing == "auto":
        packing = "packed" if corpus.kind == "text" else "documents"
    stores = {split: tokenise(source, corpus.kind, tokenizer) for split, source in corpus.sources.items()}
    whole = whole and len(stores) == 1
    splits = split_documents(stores, settings.model_copy(update={"test": 0, "validation": 0}) if whole else settings)
    completions = loss_on == "completion"
    rows = {split: Rows(each, settings.block_length, packing, completions) for split, each in splits.items()}
    for split, each in rows.items():
        if not len(each):
            raise CoterieError(
                f"data={settings.name}: no row of the {split} split has a token to learn within data.block_length={settings.block_length}; raise it, or set data.loss_on=all"
            )
    duplicates, notes = find_duplicates(splits)
    if whole:
        rows["test"] = rows["train"]
    tallies = [store.tally for store in stores.values()]
    return LanguageSets(
        name=corpus.name,
        kind=corpus.kind,
        rows=rows,
        packing=packing,
        loss_on=loss_on,
        skipped=sum(tally.empty + tally.unreadable for tally in tallies),
        passed_over=corpus.passed_over,
        duplicates=duplicates,
        notes=(
            *corpus.notes,
            *([_names_no_column(corpus)] if corpus.unread else []),
            *([] if inherited else unread_shares(stores, settings)),
            *_reading_notes(corpus, tallies, stores),
            *notes,
            *_row_notes(rows, settings.block_length),
        ),
        fingerprint={
            "tokenizer": tokenizer_digest(tokenizer),
            "splits": {split: _fingerprint(selection) for split, selection in splits.items()},
        },
    )


def _require_read(corpus: Corpus) -> None:
    if corpus.unread:
        raise CoterieError(f"{_names_no_column(corpus)}; leave it out")


def _names_no_column(corpus: Corpus) -> str:
    what = {"text": "texts", "completion": "prompts and completions", "chat": "chats"}[corpus.kind]
    return f"{corpus.unread[0]} has no effect: data={corpus.name} are {what}{'' if corpus.are_rows else ', not rows with columns'}"


def corpus_texts(settings: LanguageData) -> Iterator[str]:
    """Yield the texts of the training documents, for :func:`coterie.tasks.language.tokenizer.train_tokenizer`.

    If the data have no splits, this includes the documents that are held out later, since splitting needs all documents tokenised.
    """
    corpus = open_corpus(settings)
    _require_read(corpus)
    for document in corpus.sources["train"].read(Tally()):
        try:
            document.encoded()
        except UnicodeEncodeError:
            continue
        if not document.is_empty:
            yield plain_text(document.content)


def _fingerprint(selection: Selection) -> dict[str, Any]:
    whole = hashlib.blake2b(selection.digests.tobytes(), digest_size=8).hexdigest()
    return {"documents": len(selection), "tokens": selection.num_tokens, "digest": whole}


def _reading_notes(corpus: Corpus, tallies: list[Tally], stores: Mapping[str, TokenStore]) -> list[str]:
    counts = {
        "{} not UTF-8 and left out": sum(tally.unreadable for tally in tallies),
        "{} empty and left out": sum(tally.empty for tally in tallies),
    }
    notes = [
        f"{_count(count, 'document')} {text.format('are' if count > 1 else 'is')}"
        for text, count in counts.items()
        if count
    ]
    if corpus.passed_over:
        notes.append(f"{_count(corpus.passed_over, 'file')} of no format that is read, or besides texts, passed over")
    if divided := sum(tally.divided for tally in tallies):
        notes.append(
            f"{_count(divided, 'long text file')} divided into several documents, at blank lines where there are any"
        )
    if any(store.rebuilt for store in stores.values()):
        notes.append("the tokens in the cache folder were damaged and have been made again")
    return notes


def _row_notes(rows: Mapping[str, Rows], block_length: int) -> list[str]:
    notes = []
    for split, each in rows.items():
        if each.cut_documents:
            notes.append(
                f"{_count(each.cut_documents, f'{split} document')} longer than data.block_length={block_length} cut off there, {_count(each.cut_tokens, 'token')} in all"
            )
        if each.left_out:
            notes.append(f"{_count(each.left_out, f'{split} row')} without a token to learn left out")
    return notes


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
