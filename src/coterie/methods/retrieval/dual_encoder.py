"""Base of the methods that train a dual encoder: a batch becomes vectors once, which the method's losses compare."""

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

    A cross-encoder that teaches has scores of its own, of some pairs, and vectors of the B pairs of a query and its document, or none.

    Attributes:
        queries: the student's, [B + E, D].
        documents: the student's [M, D]; where the teacher encodes documents, the teacher's.
        own_documents: whether they are the student's.
        teacher_queries: [B + E, D], constants; None without a teacher.
        teacher_documents: [M, D], of a cross-encoder [B, D], constants; None without a teacher.
        labelled: B.
        excluded: bool [B, M]: documents that belong to a query besides the one that stands for it, and are no wrong answers.
        given_scores: a cross-encoder's, [B, M]; None: the teacher's are inner products.
        known: bool [B, M], which of these it gave; None: all.
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
        """Of the labelled queries, [B, M]."""
        return in_batch_scores(self.queries[: self.labelled], self.documents)

    @property
    def teacher_scores(self) -> Tensor:
        """Of the labelled queries, [B, M].

        Raises:
            CoterieError: there is no teacher.
        """
        if self.given_scores is not None:
            return self.given_scores
        if self.teacher_queries is None or self.teacher_documents is None:
            raise CoterieError("the batch holds no vectors of a teacher")
        return in_batch_scores(self.teacher_queries[: self.labelled], self.teacher_documents)


class DualEncoderMethod(Method):
    """One student: an encoder of queries, and of documents unless these have a teacher's vectors.

    A batch is a mapping:

    - ``query``: what the encoder takes, of B labelled and E unlabelled queries;
    - ``document``: the same of M documents, of which the first B belong to the labelled queries; missing where documents have the teacher's vectors;
    - ``gathered``, int64 [M]: where several processes share the batch, each encodes a part of the documents, equally many; the rows of all processes' vectors, one
      process's after the other's, that are these M documents;
    - ``teacher_query`` [B + E, D] and ``teacher_document`` [M, D]: the teacher's vectors, computed once before training; missing without a teacher;
    - ``teacher_scores`` [B, M] and ``known``, bool [B, M]: a cross-encoder's scores, and where there are any; ``teacher_query`` and ``teacher_document`` are
      then its vectors of the B pairs, [B, D] each, or missing;
    - ``excluded``: bool [B, M], see :class:`DualBatch`.

    Targets are the labelled queries' documents, 0 to B - 1.

    Args:
        encoder: maps a batch of texts to vectors [N, D]; ``plain()`` gives the network that is deployed.
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
        """Whether the student's vectors are compared with the teacher's one by one, which asks for one width."""
        return False

    def student(self) -> nn.Module:
        plain: Any = self.encoder
        network: nn.Module = plain.plain()
        return network

    def encode(self, inputs: Inputs, targets: Tensor) -> DualBatch:
        """The batch's vectors: one forward for the queries, and one for the documents where they are the student's.

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
    """Scores in which a query's further relevant documents are no wrong answers: minus infinity."""
    return torch.where(excluded, float("-inf"), scores)
