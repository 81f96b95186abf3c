"""EmbedDistill: a student's vectors are trained to match a teacher's (Kim et al., 2023, arXiv 2301.12005)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses.embedding import Metric, embedding_matching, one_hot_loss, score_distillation
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.retrieval.dual_encoder import DualEncoderMethod, without_excluded


class EmbedDistill(DualEncoderMethod):
    r"""Weighted sum of one-hot loss, score distillation and embedding matching.

    .. math:: L = w_h L_{one\text{-}hot} + w_s L_{score} + w_e (R_Q + R_D)

    R_Q is the mean distance of the queries' vectors, labelled or not, from the teacher's (equation 7), R_D that of documents (equation 8). If the teacher
    encodes documents (``network.documents=teacher``), R_D is 0 by construction and all scores use the teacher's document vectors. If the widths differ, a
    projection ψ that is part of the student maps to the teacher's width (``network.projection``).

    A cross-encoder teacher scores each query with some documents; score distillation then covers these (section 4.2; which documents is a reconstruction). With
    dual pooling, its vectors of a query and its document, encoded jointly, are matched; without it, set ``embedding=0``.

    A weight of 0 disables a term: ``score=0 embedding=0`` is the one-hot control, ``embedding=0`` score distillation.

    Sources: the equations follow a detailed third-party account, 7 and 8 also sentence-transformers' documentation. The paper's values of temperature and
    optimizer are in an appendix that could not be read.

    Args:
        encoder: see :class:`~coterie.methods.retrieval.dual_encoder.DualEncoderMethod`.
        onehot: weight of the label loss, 1 (paper).
        score: weight of the score distillation, 1 (paper).
        embedding: weight of the embedding matching, 1 (paper; 5 in its smallest student with generated queries).
        metric: ``l2``, the norm (paper); ``squared`` or ``cosine``.
        temperature: of both in-batch distributions, 0.05 (a reconstruction).

    Losses: those of ``label``, ``distillation`` and ``embedding`` whose weight is above 0.

    Raises:
        CoterieError: all weights are 0.
    """

    unused: ClassVar[Unused] = {
        "embedding=0": ("metric",),
        "onehot=0 score=0": ("temperature",),
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        onehot: NonNegative = 1.0,
        score: NonNegative = 1.0,
        embedding: NonNegative = 1.0,
        metric: Metric = "l2",
        temperature: Positive = 0.05,
    ) -> None:
        super().__init__(encoder)
        if onehot == score == embedding == 0:
            raise CoterieError("method.onehot, method.score and method.embedding are all 0: nothing would be learnt")
        self.onehot, self.score, self.embedding = onehot, score, embedding
        self.metric: Metric = metric
        self.temperature = temperature

    @property
    def label_factor(self) -> float:
        return self.onehot

    @property
    def reads_teacher(self) -> bool:
        return self.score > 0 or self.embedding > 0

    @property
    def matches_vectors(self) -> bool:
        return self.embedding > 0

    def forward(self, inputs: Inputs, targets: Any, progress: Progress | None = None) -> dict[str, Tensor]:
        batch = self.encode(inputs, targets)
        losses: dict[str, Tensor] = {}
        scores = batch.scores if self.onehot or self.score else None
        if self.onehot:
            assert scores is not None
            masked = without_excluded(scores, batch.excluded)
            losses["label"] = self.onehot * one_hot_loss(masked, self.temperature)
        if self.score:
            assert scores is not None
            losses["distillation"] = self.score * score_distillation(
                scores, batch.teacher_scores, self.temperature, batch.known
            )
        if self.embedding:
            if batch.teacher_queries is None:
                raise CoterieError("the batch holds no vectors of a teacher")
            matching = embedding_matching(batch.queries, batch.teacher_queries, self.metric)
            if batch.own_documents:
                assert batch.teacher_documents is not None
                own = batch.documents[: len(batch.teacher_documents)]  # a cross-encoder has vectors of the pairs only
                matching = matching + embedding_matching(own, batch.teacher_documents, self.metric)
            losses["embedding"] = self.embedding * matching
        return losses
