from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from coterie.losses.collaboration import linear_target, min_logit_target, naive_target
from coterie.losses.contrast import contrast, similarities, soft_contrast
from coterie.losses.distillation import kl_divergence, mean_probability
from coterie.losses.diversity import FORMS, diversity_loss
from coterie.losses.mutual import log_mean_probability_of_others, mutual_divergence
from coterie.losses.precision import einsum, matmul
from coterie.losses.relation import pair_distances, relation_loss, triplet_angles

LOGITS = 5 * torch.randn(3, 16, 10, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(16) % 10
FIRST, SECOND = F.normalize(torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1)), dim=-1)
WEIGHTS = list(torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(2)))
POOLED = 10 + FIRST  # pooled activations have a large mean: distances are small differences of large squares

FORMULAS = {
    "kl_divergence": lambda: kl_divergence(LOGITS, LOGITS[0], 3.0),
    "mean_probability": lambda: mean_probability(LOGITS),
    "mutual_divergence": lambda: mutual_divergence(LOGITS, LOGITS, 3.0),
    "log_mean_probability_of_others": lambda: log_mean_probability_of_others(LOGITS),
    "naive_target": lambda: naive_target(LOGITS, TARGETS),
    "linear_target": lambda: linear_target(LOGITS, TARGETS),
    "min_logit_target": lambda: min_logit_target(LOGITS, TARGETS),
    "contrast": lambda: contrast(similarities(FIRST, SECOND, 0.1), TARGETS),
    "soft_contrast": lambda: soft_contrast(similarities(FIRST, SECOND, 0.1), similarities(SECOND, FIRST, 0.1), 3.0),
    "pair_distances": lambda: pair_distances(POOLED),
    "triplet_angles": lambda: triplet_angles(POOLED),
    "relation_loss": lambda: relation_loss(POOLED, SECOND, 25.0, 50.0),
    **{form: lambda form=form: diversity_loss(form, WEIGHTS, LOGITS, TARGETS) for form in FORMS},
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_formula_is_the_same_under_autocast(name, dtype):
    expected = FORMULAS[name]()
    with torch.autocast("cpu", dtype):
        found = FORMULAS[name]()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_products_of_half_precision_operands_are_float32():
    """What autocast's layers give is half precision; its products would overflow 65504 in float16."""
    large = torch.full((2, 300), 20.0, dtype=torch.float16)
    with torch.autocast("cpu", torch.float16):
        torch.testing.assert_close(matmul(large, large.T), torch.full((2, 2), 120000.0))
        torch.testing.assert_close(einsum("ik,jk->ij", large, large), torch.full((2, 2), 120000.0))
