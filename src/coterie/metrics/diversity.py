"""How much the students of a group differ, over all pairs of them."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor


def diversity_figures(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Four measures of diversity, each a mean over the n(n-1)/2 pairs of students and over the samples.

    Args:
        logits: [n, N, K].
        targets: class indices [N].

    Returns:
        ``distance``: Euclidean distance of the probability vectors, the family's measure (OKDDip's code takes the first
        three branches only; here all pairs); ``disagreement``: share of samples with different predicted classes;
        ``kl``: mean of both directions' KL divergence in nats; ``double_fault``: share of samples that both get wrong
        (Giacinto and Roli, 2001; smaller is more diverse). Empty for one student.
    """
    log_probabilities = torch.log_softmax(logits.double(), dim=-1)
    probabilities = log_probabilities.exp()
    predicted = logits.argmax(-1)
    wrong = predicted != targets
    totals = {"distance": 0.0, "disagreement": 0.0, "kl": 0.0, "double_fault": 0.0}
    pairs = list(combinations(range(len(logits)), 2))
    for first, second in pairs:
        difference = probabilities[first] - probabilities[second]
        log_ratio = log_probabilities[first] - log_probabilities[second]
        totals["distance"] += float(difference.norm(dim=1).mean())
        totals["disagreement"] += float((predicted[first] != predicted[second]).float().mean())
        totals["kl"] += float((difference * log_ratio).sum(1).mean()) / 2
        totals["double_fault"] += float((wrong[first] & wrong[second]).float().mean())
    return {name: round(total / len(pairs), 7) for name, total in totals.items()} if pairs else {}
