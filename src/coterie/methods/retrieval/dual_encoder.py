"""Base of methods that train a dual encoder: encodes a batch once; the method's losses compare the vectors."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses.embedding import in_batch_scores
from coterie.methods.method import Method, method_name
from coterie.methods.retrieval.gathering import gather


class DualBatch(NamedTuple):
    """Vectors of a batch of B labelled queries, E unlabelled ones and M documents, of which the first B belong to the labelled queries.

    A cross-encoder teacher gives scores of some pairs, and optionally vectors of the B pairs of a query and its document.

    Attributes:
        queries: the student's vectors, [B + E, D].
        documents: the student's vectors [M, D], or the teacher's if the teacher encodes documents.
        own_documents: whether ``documents`` are the student's.
        teacher_queries: [B + E, D], detached; None without a teacher.
        teacher_documents: [M, D], or [B, D] from a cross-encoder, detached; None without a teacher.
        labelled: B.
        excluded: bool [B, M]: further relevant documents of a query, which must not count as negatives.
        given_scores: a cross-encoder's scores, [B, M]; None: the teacher's scores are inner products.
        known: bool [B, M], which of ``given_scores`` are known; None: all.
    """

    queries: Tensor
    documents: Tensor
    own_documents: bool
    teacher_queries: Tensor | None
    teacher_documents: Tensor | None
    labelled: int
    excluded: Tensor
    given_scores: Tensor | None = None
    known: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """Scores of the labelled queries, [B, M]."""
        return in_batch_scores(self.queries[: self.labelled], self.documents)

    @property
    def teacher_scores(self) -> Tensor:
        """The teacher's scores of the labelled queries, [B, M].

        Raises:
            CoterieError: there is no teacher.
        """
        if self.given_scores is not None:
            return self.given_scores
        if self.teacher_queries is None or self.teacher_documents is None:
            raise CoterieError("the batch holds no vectors of a teacher")
        return in_batch_scores(self.teacher_queries[: self.labelled], self.teacher_documents)


class DualEncoderMethod(Method):
    """One student: an encoder of queries and, unless documents use a teacher's vectors, of documents.

    A batch is a mapping:

    - ``query``: the encoder's inputs for B labelled and E unlabelled queries;
    - ``document``: the inputs for M documents, of which the first B belong to the labelled queries; missing if documents use the teacher's vectors;
    - ``gathered``, int64 [M]: only if several processes share the batch and each encodes an equal part of the documents: the rows of these M documents among all
      processes' vectors, concatenated by process;
    - ``teacher_query`` [B + E, D] and ``teacher_document`` [M, D]: the teacher's vectors, computed once before training; missing without a teacher;
    - ``teacher_scores`` [B, M] and ``known``, bool [B, M]: a cross-encoder's scores and which of them are known; ``teacher_query`` and ``teacher_document`` are
      then its vectors of the B pairs, [B, D] each, or missing;
    - ``excluded``: bool [B, M], see :class:`DualBatch`.

    Targets are the indices of the labelled queries' documents, 0 to B - 1.

    Args:
        encoder: maps a batch of texts to vectors [N, D]; ``plain()`` returns the network to deploy.
    """

    takes_teachers: ClassVar[bool] = True
    max_teachers: ClassVar[int | None] = 1
    max_students: ClassVar[int | None] = 1
    min_batch: ClassVar[int] = 2

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def networks(self) -> nn.Module:
        return self.encoder

    @property
    def reads_teacher(self) -> bool:
        """Whether the losses read a teacher's vectors."""
        return False

    @property
    def matches_vectors(self) -> bool:
        """Whether the student's vectors are matched to the teacher's, which requires equal widths."""
        return False

    def student(self) -> nn.Module:
        plain: Any = self.encoder
        network: nn.Module = plain.plain()
        return network

    def encode(self, inputs: Inputs, targets: Tensor) -> DualBatch:
        """Encodes the batch: one forward pass for the queries, and one for the documents if the student encodes them.

        Raises:
            CoterieError: fewer documents than :attr:`min_batch`.
        """
        queries = self.encoder(inputs["query"])
        teacher_documents = inputs.get("teacher_document")
        own = "document" in inputs
        documents = self.encoder(inputs["document"]) if own else teacher_documents
        if own and "gathered" in inputs:
            documents = gather(documents)[inputs["gathered"]]
        if len(documents) < self.min_batch:
            raise CoterieError(
                f"{method_name(type(self))} compares the documents of a batch and needs at least {self.min_batch}, got {len(documents)}"
            )
        return DualBatch(
            queries,
            documents,
            own,
            inputs.get("teacher_query"),
            teacher_documents,
            len(targets),
            inputs["excluded"],
            inputs.get("teacher_scores"),
            inputs.get("known"),
        )


def without_excluded(scores: Tensor, excluded: Tensor) -> Tensor:
    """Sets the scores of a query's further relevant documents to minus infinity, so that they do not count as negatives."""
    return torch.where(excluded, float("-inf"), scores)
