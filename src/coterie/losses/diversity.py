"""Classifier Diversification: measures of the agreement between students, to be minimised.

The equation of the OKDMDE paper is not known to us. The forms below are readings of ``frobenius`` (found in two public code bases that name the paper) and
alternatives to it. Every form is a mean over the n(n-1)/2 pairs of students, so its weight does not depend on the number of students; with one student it is
zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal, get_args

import torch
from torch import Tensor

from coterie.losses.label import soft_labels
from coterie.losses.precision import matmul

WeightForm = Literal["frobenius", "frobenius_classes", "squared", "cosine", "gram"]
PredictionForm = Literal["logits", "coincident_error"]
DiversityForm = Literal["frobenius", "frobenius_classes", "squared", "cosine", "gram", "logits", "coincident_error"]
_EPSILON = 1e-12  # keeps the gradient of a square root finite where a product is exactly zero


def _norm(matrix: Tensor) -> Tensor:
    return torch.sqrt((matrix * matrix).sum() + _EPSILON)


def _frobenius(first: Tensor, second: Tensor) -> Tensor:
    """||W_i^T W_j||_F, the d x d product; small when the two classifiers use different feature directions."""
    return _norm(matmul(first.T, second))


def _frobenius_classes(first: Tensor, second: Tensor) -> Tensor:
    """||W_i W_j^T||_F, the K x K product: the transposed reading."""
    return _norm(matmul(first, second.T))


def _squared(first: Tensor, second: Tensor) -> Tensor:
    """||W_i^T W_j||_F^2."""
    return matmul(first.T, second).square().sum()


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Mean over classes of the squared cosine of the two weight vectors of a class, in [0, 1].

    It compares coordinates, so it is meaningful only if the branches' features are aligned (copied branches).
    """
    return torch.cosine_similarity(first, second, dim=1, eps=1e-8).square().mean()


def _gram(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the centred off-diagonals of the Gram matrices of the unit class vectors, in [-1, 1].

    A Gram matrix is invariant to rotation of the features, and unit rows are invariant to scale: the form compares only which classes a classifier places close
    together. It is 0 with two classes, which have a single off-diagonal value.
    """

    def off_diagonal(weight: Tensor) -> Tensor:
        rows = torch.nn.functional.normalize(weight, dim=1, eps=1e-8)
        keep = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        values = matmul(rows, rows.T) * keep
        centre = values.sum() / keep.sum().clamp(min=1)
        return (values - centre) * keep

    if len(first) < 3:
        return (first.sum() + second.sum()) * 0.0
    left, right = off_diagonal(first), off_diagonal(second)
    # The floor keeps the gradient finite when all classes of a classifier are equally far apart.
    floor = 1e-4
    return (left * right).sum() / torch.sqrt((left.square().sum() + floor) * (right.square().sum() + floor))


_WEIGHT_FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "frobenius": _frobenius,
    "frobenius_classes": _frobenius_classes,
    "squared": _squared,
    "cosine": _cosine,
    "gram": _gram,
}
NEEDS_EQUAL_WIDTH = frozenset({"frobenius_classes", "cosine"})


def classifier_diversity(weights: Sequence[Tensor], form: WeightForm = "frobenius") -> Tensor:
    """Agreement of classifiers, computed from their weights; mean over pairs. Smaller is more diverse.

    Args:
        weights: n matrices [K, d_i], without biases. ``frobenius_classes`` and ``cosine`` need equal d_i.
        form: see the functions above.

    Returns:
        0-d float32. The gradient reaches every matrix and is finite at zero.

    Source: reconstruction of OKDMDE's CD (arXiv 2010.00795): ``frobenius`` is in a facial-expression code base, in a function named after the paper (detached
    there, hence without effect); the constraint itself is in Saito, Ushiku and Harada, 2017, section 3.3. ``gram`` is ours.
    """
    matrices = [weight.float().flatten(1) for weight in weights]
    pairs = [_WEIGHT_FORMS[form](first, second) for first, second in combinations(matrices, 2)]
    return torch.stack(pairs).mean() if pairs else matrices[0].sum() * 0.0


def coincident_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Probability that two students that sample from their predictions choose the same wrong class; mean over pairs.

    A soft form of the double fault: sum over wrong classes k of p_ik p_jk, in [0, 1]. Only coinciding errors are penalised, so the students may stay confident
    in the right class.

    Args:
        logits: [n, B, K].
        targets: class indices [B] or distributions [B, K]; with these, class k counts as wrong by 1 - target.

    Returns:
        0-d float32.

    Source: ours.
    """
    students = logits.shape[0]
    if students == 1:
        return logits.float().sum() * 0.0
    probabilities = torch.softmax(logits.float(), dim=-1)
    wrong = 1.0 - soft_labels(targets, logits.shape[-1])
    # The sum over ordered pairs is the square of the sum minus the squares.
    products = probabilities.sum(0).square() - probabilities.square().sum(0)
    return (products * wrong).sum(-1).mean() / (students * (students - 1))


def logit_agreement(logits: Tensor) -> Tensor:
    """||Z_i^T Z_j||_F of the batch's centred logits, divided by the batch size; mean over pairs.

    Args:
        logits: [n, B, K].

    Returns:
        0-d float32.

    Source: a reading of CD that would not be negligible at a small weight (``frobenius`` applied to predictions).
    """
    centred = logits.float() - logits.float().mean(-1, keepdim=True)
    pairs = [_norm(matmul(first.T, second)) / logits.shape[1] for first, second in combinations(centred, 2)]
    return torch.stack(pairs).mean() if pairs else centred.sum() * 0.0


def diversity_loss(form: DiversityForm, weights: Sequence[Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    """Computes the chosen form from the classifiers' weights [K, d_i] or the predictions [n, B, K]; 0-d."""
    if form == "coincident_error":
        return coincident_error(logits, targets)
    if form == "logits":
        return logit_agreement(logits)
    return classifier_diversity(weights, form)


FORMS: tuple[str, ...] = get_args(DiversityForm)
