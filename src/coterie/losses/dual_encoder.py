"""EmbedDistill as a loss module for sentence-transformers' trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.losses.embedding import Metric, embedding_matching, in_batch_scores, one_hot_loss, score_distillation


class EmbedDistillLoss(nn.Module):
    """Sum of one-hot loss, score distillation and embedding matching, for ``SentenceTransformerTrainer``.

    ======================  ====================================================================================
    columns of the data     labels
    ======================  ====================================================================================
    query                   [B, 2, D]: the teacher's vectors of the query and of its document (an index that stays)
    query, document         the same: the student encodes both
    ======================  ====================================================================================

    A student whose width differs from the teacher's needs a projection as one of its modules (``Dense``, before ``Normalize``); it is saved with the student.

    Args:
        model: the student, a ``SentenceTransformer``.
        onehot, score, embedding: weights of the three terms.
        metric: of the embedding matching, see :func:`~coterie.losses.embedding.embedding_matching`.
        temperature: of both in-batch distributions.

    Raises:
        CoterieError: a wrong number of columns, or labels of another shape.

    Source: Kim et al., 2023, arXiv 2301.12005; see :class:`coterie.methods.retrieval.embed_distill.EmbedDistill`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        onehot: float = 1.0,
        score: float = 1.0,
        embedding: float = 1.0,
        metric: Metric = "l2",
        temperature: float = 0.05,
    ) -> None:
        super().__init__()
        self.model = model
        self.onehot, self.score, self.embedding = onehot, score, embedding
        self.metric: Metric = metric
        self.temperature = temperature

    def forward(self, sentence_features: Sequence[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The weighted sum of the terms, 0-d.

        Args:
            sentence_features: tokens of one or two columns.
            labels: [B, 2, D].
        """
        if len(sentence_features) not in {1, 2}:
            raise CoterieError(f"{len(sentence_features)} columns: expected query, or query and document")
        if labels.ndim != 3 or labels.shape[1] != 2:
            raise CoterieError(
                f"labels {list(labels.shape)}: expected the teacher's vectors of query and document, [B, 2, D]"
            )
        teacher_queries, teacher_documents = labels.detach().unbind(1)
        vectors = [self.model(dict(each))["sentence_embedding"] for each in sentence_features]
        documents = vectors[1] if len(vectors) == 2 else teacher_documents
        scores = in_batch_scores(vectors[0], documents)
        total = self.onehot * one_hot_loss(scores, self.temperature)
        taught = in_batch_scores(teacher_queries, teacher_documents)
        total = total + self.score * score_distillation(scores, taught, self.temperature)
        matching = embedding_matching(vectors[0], teacher_queries, self.metric)
        if len(vectors) == 2:
            matching = matching + embedding_matching(documents, teacher_documents, self.metric)
        return total + self.embedding * matching

    def get_config_dict(self) -> dict[str, Any]:
        """Settings that sentence-transformers writes into the model card."""
        return {
            "onehot": self.onehot,
            "score": self.score,
            "embedding": self.embedding,
            "metric": self.metric,
            "temperature": self.temperature,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper, for the model card."""
        return (
            "@article{kim2023embeddistill, title={EmbedDistill: A Geometric Knowledge Distillation for Information Retrieval}, "
            "author={Kim, Seungyeon and Rawat, Ankit Singh and Zaheer, Manzil and others}, journal={arXiv:2301.12005}, year={2023}}"
        )
