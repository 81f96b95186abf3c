"""Losses of speech encoders: distance from a teacher's hidden states in each valid frame.

Source: DistilHuBERT's official code (s3prl, ``pretrain/distiller``), on which EKD (Huang et al., ICASSP 2023, arXiv 2302.12757) builds. Only EKD's abstract and introduction
could be read, so the aggregation of several teachers is the natural reading of the names they give. Computed in float32 or float64, also under autocast. Nothing here detaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.errors import CoterieError
from coterie.losses.precision import at_least_float32

Aggregation = Literal["average", "concatenation"]


def frame_distance(
    predictions: Tensor, targets: Tensor, valid: Tensor | None = None, cosine_weight: float = 1.0
) -> Tensor:
    r"""L1 and cosine distance of frames.

    .. math:: \overline{|\hat y - h|} + \lambda\, \overline{-\log \sigma(\cos(\hat y, h))}

    The first mean includes the features. The published code counts padded frames too, which is ``valid=None`` here.

    Args:
        predictions: a head's output, [B, T, D].
        targets: a teacher's hidden states, [B, T, D].
        valid: bool [B, T], false for padding; None: all count.
        cosine_weight: λ, 1 (code).

    Returns:
        0-d; 0 where no frame is valid.

    Raises:
        CoterieError: tensors of different shapes.

    >>> frame_distance(torch.ones(1, 2, 4), torch.ones(1, 2, 4), cosine_weight=0.0).item()
    0.0
    """
    if predictions.shape != targets.shape:
        raise CoterieError(f"predictions {list(predictions.shape)} and targets {list(targets.shape)} differ in shape")
    if valid is not None and valid.shape != predictions.shape[:-1]:
        raise CoterieError(f"valid {list(valid.shape)}: expected {list(predictions.shape[:-1])}, one value a frame")
    own, other = at_least_float32(predictions), at_least_float32(targets)
    values = (own - other).abs().mean(-1) - cosine_weight * F.logsigmoid(F.cosine_similarity(own, other, dim=-1))
    if valid is None:
        return values.mean()
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)


def aggregated(
    states: Sequence[Tensor], aggregation: Aggregation = "average", weights: Sequence[float] | None = None
) -> Tensor:
    """Aggregates several teachers' hidden states of a layer into one target.

    Args:
        states: [B, T, D_m] of each teacher m. If lengths differ, all are cut to the shortest: feature extractors of the same stride may differ by one frame at the end.
        aggregation: ``average`` (layerwise-average, the better one according to the paper's abstract; all D_m equal) or ``concatenation``.
        weights: of the teachers in an average; they sum to 1. None: equal.

    Returns:
        [B, T, D] or [B, T, sum of D_m].

    Raises:
        CoterieError: no states, lengths that differ by more than a frame, widths that cannot be averaged, or an unknown aggregation.
    """
    if not states:
        raise CoterieError("there are no teachers' states to put together")
    lengths = [each.shape[1] for each in states]
    if max(lengths) - min(lengths) > 1:
        raise CoterieError(f"the teachers have {lengths} frames: they do not share a frame rate")
    cut = [at_least_float32(each[:, : min(lengths)]) for each in states]
    if aggregation == "concatenation":
        return torch.cat(cut, dim=-1)
    if aggregation != "average":
        raise CoterieError(f"aggregation={aggregation!r}: expected average or concatenation")
    widths = sorted({each.shape[-1] for each in cut})
    if len(widths) > 1:
        raise CoterieError(
            f"teachers' states of {widths} features cannot be averaged; use concatenation, or a head for each"
        )
    if weights is None:
        return torch.stack(cut).mean(0)
    return torch.stack([weight * each for weight, each in zip(weights, cut, strict=True)]).sum(0)
