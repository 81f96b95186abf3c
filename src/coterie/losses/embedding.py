"""Losses of dual encoders for retrieval, on vectors and scores of queries and documents of a student and a teacher.

Source: EmbedDistill (Kim et al., arXiv 2301.12005). Its tables and appendix could not be read. The equations follow a detailed third-party account that cites them by
number; equations 7 and 8 also agree with sentence-transformers' ``EmbedDistillLoss``. Everything is computed in float32 or float64, also under autocast. Nothing here
detaches: the caller decides whether a teacher's vectors are constants.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.errors import CoterieError
from coterie.losses.precision import at_least_float32

Metric = Literal["l2", "squared", "cosine"]


def in_batch_scores(queries: Tensor, documents: Tensor) -> Tensor:
    """Inner products of every query with every document of a batch.

    Args:
        queries: [B, D].
        documents: [M, D]; document i belongs to query i; those from B on are additional documents.

    Returns:
        [B, M], in float32 or float64.

    Raises:
        CoterieError: vectors of different widths, or fewer documents than queries.

    >>> in_batch_scores(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    tensor([[1., 0.],
            [0., 2.]])
    """
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise CoterieError(
            f"queries {list(queries.shape)} and documents {list(documents.shape)}: expected [B, D] and [M, D] of one width"
        )
    if len(documents) < len(queries):
        raise CoterieError(f"{len(documents)} documents for {len(queries)} queries: expected one for each at least")
    with torch.autocast(queries.device.type, enabled=False):
        return at_least_float32(queries) @ at_least_float32(documents).T


def one_hot_loss(scores: Tensor, temperature: float = 0.05) -> Tensor:
    r"""Cross-entropy of each query's own document against all documents of the batch (equation 9).

    .. math:: -\frac1B \sum_i \log \frac{\exp(s_{ii}/\tau)}{\sum_j \exp(s_{ij}/\tau)}

    Args:
        scores: [B, M], see :func:`in_batch_scores`.
        temperature: τ > 0. 0.05 suits vectors of length 1 (a reconstruction: the paper gives its value in an appendix that could not be read).

    Returns:
        0-d, in nats.
    """
    return F.cross_entropy(at_least_float32(scores) / temperature, torch.arange(len(scores), device=scores.device))


def score_distillation(
    scores: Tensor, teacher_scores: Tensor, temperature: float = 0.05, known: Tensor | None = None
) -> Tensor:
    r"""Cross-entropy of the student's distribution over a batch's documents from the teacher's (equation 11).

    .. math:: -\frac1B \sum_i \sum_j q_{ij} \log p_{ij},\quad p = softmax(s/\tau),\; q = softmax(t/\tau)

    It differs from the KL divergence by the teacher's entropy, which is constant for the student.

    Args:
        scores: the student's, [B, M].
        teacher_scores: of a dual encoder or a cross-encoder, [B, M].
        temperature: τ > 0, for both.
        known: bool [B, M], which of the teacher's scores are known; at least one for each query. Both distributions cover only these. For cross-encoders, which score
            each query with some documents only. None: all.

    Returns:
        0-d, in nats.

    Raises:
        CoterieError: scores of different shapes.

    >>> scores, taught = torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    >>> known = torch.tensor([[True, True, False]])
    >>> score_distillation(scores, taught, 1.0, known) == score_distillation(scores[:, :2], taught[:, :2], 1.0)
    tensor(True)
    """
    if scores.shape != teacher_scores.shape:
        raise CoterieError(
            f"scores {list(scores.shape)} and the teacher's {list(teacher_scores.shape)} differ in shape"
        )
    own, taught = at_least_float32(scores) / temperature, at_least_float32(teacher_scores) / temperature
    if known is not None:
        own, taught = (each.masked_fill(~known, float("-inf")) for each in (own, taught))
    log_predictions = torch.log_softmax(own, dim=-1)
    targets = torch.softmax(taught, dim=-1)
    if known is not None:
        log_predictions = log_predictions.masked_fill(~known, 0)  # would be minus infinity times a probability of 0
    return -(targets * log_predictions).sum(-1).mean()


def embedding_matching(vectors: Tensor, teacher_vectors: Tensor, metric: Metric = "l2") -> Tensor:
    r"""Mean distance of the student's vectors from the teacher's (equation 7 for queries, 8 for documents).

    - ``l2``, the paper's: :math:`\frac1B \sum_i \lVert t_i - s_i \rVert`, the norm, not squared. Where the two are equal its gradient is taken as 0.
    - ``squared``: :math:`\frac1B \sum_i \lVert t_i - s_i \rVert^2`.
    - ``cosine``: 1 minus the mean cosine; sentence-transformers' default.

    Args:
        vectors: [B, D], projected to the teacher's width if the student's differs.
        teacher_vectors: [B, D].
        metric: the distance.

    Returns:
        0-d.

    Raises:
        CoterieError: vectors of different shapes, or an unknown metric.

    >>> embedding_matching(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])).item()
    5.0
    """
    if vectors.shape != teacher_vectors.shape:
        raise CoterieError(
            f"vectors {list(vectors.shape)} and the teacher's {list(teacher_vectors.shape)} differ in shape; project the student's"
        )
    own, target = at_least_float32(vectors), at_least_float32(teacher_vectors)
    if metric == "cosine":
        return (1 - F.cosine_similarity(own, target, dim=-1)).mean()
    if metric == "squared":
        return (own - target).square().sum(-1).mean()
    if metric == "l2":
        return torch.linalg.vector_norm(own - target, dim=-1).mean()
    raise CoterieError(f"metric={metric!r}: expected l2, squared or cosine")


def margin_mse(scores: Tensor, teacher_scores: Tensor, known: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of margins: the scores of a query's own document minus those of each other document (Hofstätter et al., 2020; a control).

    .. math:: \frac{1}{B(M-1)} \sum_i \sum_{j \neq i} \big((s_{ii} - s_{ij}) - (t_{ii} - t_{ij})\big)^2

    Args:
        scores, teacher_scores: [B, M].
        known: bool [B, M], which of the teacher's scores are known, including each query's own document. The loss is then the mean over queries of each query's mean
            over these. None: all.

    Returns:
        0-d.

    Raises:
        CoterieError: scores of different shapes, or a single document.
    """
    if scores.shape != teacher_scores.shape:
        raise CoterieError(
            f"scores {list(scores.shape)} and the teacher's {list(teacher_scores.shape)} differ in shape"
        )
    if scores.shape[1] < 2:
        raise CoterieError("a margin needs at least 2 documents in a batch")

    if known is not None:
        teacher_scores = teacher_scores.masked_fill(~known, 0)

    def margins(values: Tensor) -> Tensor:
        values = at_least_float32(values)
        return values.diagonal()[:, None] - values

    errors = (margins(scores) - margins(teacher_scores)).square()
    if known is None:
        return errors.sum() / (scores.shape[0] * (scores.shape[1] - 1))
    compared = known & ~torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    return (errors.masked_fill(~compared, 0).sum(1) / compared.sum(1).clamp(min=1)).mean()
