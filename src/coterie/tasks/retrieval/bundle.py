"""Loaders of a run: tokens for the student and, if there is a teacher, its vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from coterie.data.batch import Loaders, SetInfo
from coterie.data.order import Order
from coterie.recipe import Recipe
from coterie.recipe.sections import resolved
from coterie.tasks.retrieval.cross.pairs import with_candidates
from coterie.tasks.retrieval.cross.teacher import CrossTeacher
from coterie.tasks.retrieval.data.loaders import PairLoader, QueryLoader, TrainingTexts
from coterie.tasks.retrieval.data.relevance import Queries
from coterie.tasks.retrieval.data.sets import RetrievalSets
from coterie.tasks.retrieval.data.tokens import TokenTable, joined
from coterie.tasks.retrieval.data.vectors import Vectors, read_rows, teacher_vectors
from coterie.tasks.retrieval.evaluation import CHUNK, DocumentSource
from coterie.tasks.retrieval.ranking import Numbers, search
from coterie.tasks.retrieval.settings import data_of
from coterie.tasks.retrieval.sources import AnyTeacher, TeacherFound
from coterie.tasks.retrieval.students import teacher_encodes

TRAINING_QUERIES = 512  # training queries to evaluate at the end


@dataclass(frozen=True)
class Bundle:
    """Attributes:
    loaders: loaders of all splits.
    documents: documents to search.
    document_vectors: document vectors of a dual-encoder teacher; None without one.
    query_vectors: its query vectors, by the name of the loader's split.
    cross: a cross-encoder teacher.
    document_texts: the documents that the cross-encoder ranks.
    """

    loaders: Loaders
    documents: DocumentSource
    document_vectors: Vectors | None
    query_vectors: Mapping[str, Vectors]
    cross: CrossTeacher | None = None
    document_texts: Sequence[str] = ()

    def teacher_queries(self, loader: QueryLoader) -> Vectors:
        """Return the teacher's vectors of a loader's queries."""
        return self.query_vectors[loader.split]

    def rank_by_teacher(self, loader: QueryLoader, device: torch.device) -> Numbers:
        """Rank documents for a loader's queries by the teacher, int64 [Q, depth]."""
        if self.cross is not None:
            return self.cross.rank(loader.queries, self.document_texts, device)
        vectors = self.document_vectors
        assert vectors is not None
        queries = torch.from_numpy(self.teacher_queries(loader).copy()).to(device)
        chunks = (
            (first, read_rows(vectors, range(first, min(first + CHUNK, len(vectors))), device))
            for first in range(0, len(vectors), CHUNK)
        )
        found: NDArray = search(queries, chunks)[1].cpu().numpy()  # type: ignore[type-arg]
        return found


def make_bundle(
    recipe: Recipe,
    sets: RetrievalSets,
    encoder: object,
    teacher: AnyTeacher | None,
    accelerator: Accelerator,
    notes: tuple[str, ...] = (),
) -> Bundle:
    """Tokenise all texts, compute the teacher's vectors (once per text, for all runs), and make the loaders.

    Args:
        recipe: a fitted recipe.
        sets: documents and queries.
        encoder: the student, whose tokenizer is used.
        teacher: the teacher, or None.
        accelerator: provides the device and the rank of this process.
        notes: further notes for the user, in sentences.
    """
    device = accelerator.device
    place = (accelerator.process_index, accelerator.num_processes)
    cross = teacher if isinstance(teacher, CrossTeacher) else None
    asymmetric = isinstance(teacher, TeacherFound) and teacher_encodes(recipe, True)
    document_tokens = None if asymmetric else TokenTable(sets.documents.texts, encoder, "document")
    tokens = {split: TokenTable(queries.texts, encoder, "query") for split, queries in sets.queries.items()}
    held = {split: queries for split, queries in sets.queries.items() if split != "train"}
    measured = _at_equal_distances(len(sets.queries["train"]), TRAINING_QUERIES)
    on_train = sets.queries["train"].take(measured)
    training = sets.queries["train"]
    if cross is not None:
        training = with_candidates(training, sets.documents.texts, cross.settings.candidates)
    vectors: dict[str, Vectors] = {}
    document_vectors = None
    said: list[str] = []
    taught = None
    if cross is not None:
        with accelerator.main_process_first():
            taught = cross.teach(training, sets.documents.texts, recipe.seed, device, said.append)
    if isinstance(teacher, TeacherFound):

        def ask(texts: list[str], side: str) -> Vectors:
            assert isinstance(teacher, TeacherFound)
            with accelerator.main_process_first():
                return teacher_vectors(
                    teacher.encoder,
                    teacher.digest,
                    texts,
                    side,  # type: ignore[arg-type]
                    normalize=teacher.normalize,
                    batch_size=teacher.batch_size,
                    device=device,
                    announce=said.append,
                )

        document_vectors = ask(sets.documents.texts, "document")
        vectors = {split: ask(queries.texts, "query") for split, queries in held.items()}
        vectors["all training queries"] = ask([*sets.queries["train"].texts, *sets.unlabelled], "query")
        vectors["train"] = vectors["all training queries"][measured]
    unlabelled = [TokenTable(sets.unlabelled, encoder, "query")] if len(sets.unlabelled) else []
    texts = TrainingTexts(
        training,
        joined([tokens["train"], *unlabelled]),
        document_tokens,
        vectors.get("all training queries"),
        document_vectors,
        data_of(recipe).max_negatives if cross is None else cross.settings.candidates,
        taught,
    )
    lengths = tokens["train"].lengths[[query for query, _ in texts.queries.pairs]]
    if document_tokens is not None:
        lengths = lengths + document_tokens.lengths[[document for _, document in texts.queries.pairs]]
    order = Order(len(lengths), resolved(recipe.training.batch_size), recipe.seed, *place, torch.from_numpy(lengths))

    def loader(split: str, queries: Queries, table: TokenTable) -> QueryLoader:
        return QueryLoader(split, queries, table, resolved(recipe.training.batch_size), device, *place)

    evaluation = {split: loader(split, queries, tokens[split]) for split, queries in held.items()}
    info = SetInfo(
        sets.name,
        (),
        skipped=sets.skipped,
        passed_over=sets.passed_over,
        duplicates=sets.duplicates,
        notes=(*sets.notes, *notes, *said, *_unlabelled_note(sets)),
    )
    loaders = Loaders(
        info,
        PairLoader(texts, order, device),
        evaluation.get("validation"),
        evaluation.get("test"),
        loader("train", on_train, TokenTable(on_train.texts, encoder, "query")),
        dict(sets.fingerprint),
    )
    return Bundle(
        loaders,
        DocumentSource(document_tokens, document_vectors),
        document_vectors,
        vectors,
        cross,
        sets.documents.texts,
    )


def _at_equal_distances(count: int, most: int) -> list[int]:
    kept = min(count, most)
    return [number * count // kept for number in range(kept)]


def _unlabelled_note(sets: RetrievalSets) -> tuple[str, ...]:
    return (f"{len(sets.unlabelled):,} queries without a label",) if len(sets.unlabelled) else ()
