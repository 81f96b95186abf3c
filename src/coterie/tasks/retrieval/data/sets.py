"""Builds documents and the queries of every split from the settings, with notes on the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.group_splits import copies_note, drawn_groups, hold_out
from coterie.data.records import SUFFIXES, load_hub
from coterie.data.split_names import split_of, splits_by_name
from coterie.data.stdlib import stdlib_name
from coterie.errors import CoterieError
from coterie.randomness import derive_seed
from coterie.tasks.retrieval.data.docstrings import docstring_pairs
from coterie.tasks.retrieval.data.pseudo import pseudo_queries
from coterie.tasks.retrieval.data.readers import Row, Tally, is_beir, read_beir, read_pairs, read_texts, rows_of_files
from coterie.tasks.retrieval.data.relevance import Documents, Queries, Query, texts_digest
from coterie.tasks.retrieval.settings import RetrievalData

HUB = "hf-text://"
EXPECTED = f"stdlib, a file or folder of {', '.join(SUFFIXES)}, a folder of BEIR, or {HUB}user/dataset"


@dataclass(frozen=True)
class RetrievalSets:
    """A data set for retrieval.

    Attributes:
        name: display name.
        documents: all documents; every split searches among all of them.
        queries: queries by split, including ``train``.
        unlabelled: queries without known documents.
        skipped: number of rows and judgements left out.
        passed_over: number of files that were ignored.
        duplicates: for each held-out split, how many of its queries are identical to training queries.
        notes: notes on these and other findings, in sentences.
        fingerprint: what identifies the data, as in ``data.json``.
    """

    name: str
    documents: Documents
    queries: Mapping[str, Queries]
    unlabelled: Sequence[str]
    skipped: int
    passed_over: int
    duplicates: Mapping[str, int]
    notes: tuple[str, ...]
    fingerprint: Mapping[str, Any]


def load_sets(settings: RetrievalData, seed: int = 0, whole: bool = False) -> RetrievalSets:
    """Read and split the data that a recipe names.

    Args:
        settings: the recipe's section ``data``.
        seed: seed of pseudo-queries.
        whole: use all queries without splits as the test split, since nothing is trained on them.

    Raises:
        CoterieError: nothing is readable, a column is missing, there are no training queries, or too few to hold out any.
    """
    tally = Tally()
    name, documents, found, passed_over, notes = _read(settings, tally)
    if "train" not in found:
        raise CoterieError(f"data={settings.name} has no training queries, only {', '.join(found)}")
    if not found["train"]:
        raise CoterieError(f"data={settings.name} has no pair of a query and a document")
    whole = whole and len(found) == 1
    splits = split_queries(found, settings.model_copy(update={"test": 0, "validation": 0}) if whole else settings)
    if whole:
        splits["test"] = splits["train"]
    unlabelled = _unlabelled(settings, splits["train"], documents, seed)
    duplicates, found_again = _duplicates(splits)
    counted = {"left out: empty, or naming what is not there": tally.skipped, "there twice": tally.duplicates}
    notes += [f"{count:,} {'pairs' if count > 1 else 'pair'} {what}" for what, count in counted.items() if count]
    return RetrievalSets(
        name=name,
        documents=documents,
        queries=splits,
        unlabelled=unlabelled,
        skipped=tally.skipped,
        passed_over=passed_over,
        duplicates=duplicates,
        notes=(*notes, *found_again),
        fingerprint=_fingerprint(documents, splits, unlabelled),
    )


def _read(settings: RetrievalData, tally: Tally) -> tuple[str, Documents, dict[str, Sequence[Query]], int, list[str]]:
    """Return name, documents, queries by split, number of ignored files, and notes."""
    name = settings.name
    if name == "stdlib":
        documents, queries, twice = docstring_pairs()
        note = f"{twice} docstrings repeat another's first sentence or rest and are left out; other versions have other docstrings, and figures on them do not compare"
        return stdlib_name(), documents, {"train": queries}, 0, [note]
    documents = Documents()
    if name.startswith(HUB):
        rows = _hub_rows(name)
        return (
            name,
            documents,
            {split: read_pairs(each, settings, documents, tally) for split, each in rows.items()},
            0,
            [],
        )
    path = Path(name).expanduser()
    if path.is_dir() and is_beir(path):
        documents, judged = read_beir(path, tally)
        return path.resolve().name, documents, dict(judged), 0, []
    if path.is_dir():
        files, passed_over = _files_by_split(path)
    elif path.is_file():
        files, passed_over = {"train": [path]}, 0
    else:
        raise CoterieError(f"there is no {name!r}; data.name of task=retrieval is {EXPECTED}")
    queries_by_split = {
        split: read_pairs(rows_of_files(each), settings, documents, tally) for split, each in files.items()
    }
    notes = [f"{passed_over:,} files of no format that is read, passed over"] if passed_over else []
    return path.stem if path.is_file() else path.resolve().name, documents, dict(queries_by_split), passed_over, notes


def _hub_rows(name: str) -> dict[str, list[Row]]:
    found = load_hub(name, name.removeprefix(HUB))
    splits = splits_by_name(map(str, found), name) or {"train": next(iter(found))}
    return {
        split: [(f"data={name}, {split}, row {number}", row) for number, row in enumerate(found[each], 1)]
        for split, each in splits.items()
    }


def _files_by_split(folder: Path) -> tuple[dict[str, list[Path]], int]:
    """Return the files named after splits, or else all files as the training split; and the number of other files.

    Raises:
        CoterieError: no file is readable, or two files are for the same split.
    """
    below = sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    found = [each for each in below if each.suffix.lower() in SUFFIXES]
    if not found:
        raise CoterieError(f"{str(folder)!r} holds no file that is read; expected {', '.join(SUFFIXES)}")
    named: dict[str, list[Path]] = {}
    for path in found:
        if (split := split_of(path.stem)) is not None:
            named.setdefault(split, []).append(path)
    for split, paths in named.items():
        if len(paths) > 1:
            raise CoterieError(f"{str(folder)!r} holds two files for {split}: {paths[0].name} and {paths[1].name}")
    chosen = named if "train" in named else {"train": found}
    return chosen, len(below) - sum(map(len, chosen.values()))


def split_queries(found: Mapping[str, Sequence[Query]], settings: RetrievalData) -> dict[str, Queries]:
    """Return the splits of the data, holding out missing ones from the training queries by their groups, else by their texts.

    If only one held-out split exists, it is the test split, whatever its name, unless ``data.test`` is a number.
    """
    brought = {split: Queries.of(each) for split, each in found.items() if len(each)}
    splits = hold_out(brought, settings, _carve, "queries")
    if settings.train_limit is not None:
        splits["train"] = _limit(splits["train"], settings.train_limit, settings.validation_seed)
    return splits


def _carve(queries: Queries, share: float, seed: int, what: str) -> tuple[Queries, Queries]:
    """Return (rest, held out), each in the original order. Whole groups are held out until the share of queries is reached, at least one and not all.

    Raises:
        CoterieError: there is one group only.
    """
    groups = np.array([each.group or each.text for each in queries.items])
    if len(np.unique(groups)) < 2:
        raise CoterieError(
            f"there is one query (or group): too few to carve a {what} split from; bring more, or set data.test=0 data.validation=0"
        )
    chosen = drawn_groups(groups, share, seed, what, of_samples=True)
    return queries.take(np.flatnonzero(~chosen).tolist()), queries.take(np.flatnonzero(chosen).tolist())


def _limit(queries: Queries, count: int, seed: int) -> Queries:
    pairs = queries.pairs
    if count > len(pairs):
        raise CoterieError(f"data.train_limit={count} is above the number of training pairs, {len(pairs)}")
    kept: dict[int, set[int]] = {}
    for place in np.random.default_rng(derive_seed(seed, "limit")).permutation(len(pairs))[:count]:
        query, document = pairs[place]
        kept.setdefault(query, set()).add(document)
    return Queries.of(
        Query(each.text, tuple(pair for pair in each.relevant if pair[0] in kept[number]), each.negatives, each.group)
        for number, each in enumerate(queries.items)
        if number in kept
    )


def _unlabelled(settings: RetrievalData, train: Queries, documents: Documents, seed: int) -> list[str]:
    """Return queries of the file and pseudo-queries, without duplicates and labelled queries."""
    found: list[str] = []
    if settings.unlabelled is not None:
        path = Path(settings.unlabelled).expanduser()
        if not path.is_file():
            raise CoterieError(f"data.unlabelled={settings.unlabelled!r}: there is no such file")
        known = set(train.texts)
        found += [text for text in read_texts(path, settings.query, "data.query") if text not in known]
    if settings.pseudo_queries > 0:
        pairs = train.pairs
        own = [documents.texts[number] for number in dict.fromkeys(document for _, document in pairs)]
        found += pseudo_queries(train.texts, own, round(settings.pseudo_queries * len(pairs)), seed)
    return list(dict.fromkeys(found))


def _duplicates(splits: Mapping[str, Queries]) -> tuple[dict[str, int], list[str]]:
    train = set(splits["train"].texts)
    counts, notes = {}, []
    for split, queries in splits.items():
        if split == "train" or queries is splits["train"]:
            continue
        count = counts[split] = sum(text in train for text in queries.texts)
        if count:
            notes.append(copies_note(count, len(queries), split, "queries"))
    return counts, notes


def _fingerprint(documents: Documents, splits: Mapping[str, Queries], unlabelled: Sequence[str]) -> dict[str, Any]:
    digests = {
        split: texts_digest(f"{each.text}\0{each.relevant}" for each in queries.items)
        for split, queries in splits.items()
    }
    searched = [len(documents), texts_digest(documents.texts)]
    return {
        "classes": [],
        "preparation": {"unlabelled": texts_digest(unlabelled)},
        "splits": {
            split: {
                "samples": len(queries),
                "order": digests[split],
                "classes": {"queries": [len(queries), digests[split]], "documents": searched},
            }
            for split, queries in splits.items()
        },
    }
