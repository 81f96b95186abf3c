"""Formulas as pure functions: tensors in, tensor out. No parameters and no state. The caller decides what is detached."""

from coterie.losses.chunked import chunked_mean, chunked_terms
from coterie.losses.chunks import Projection
from coterie.losses.distillation import kl_divergence, mean_probability, ramp_up
from coterie.losses.divergences import DIVERGENCES, adaptive_kl, forward_kl, jsd, reverse_kl, tvd
from coterie.losses.diversity import classifier_diversity, coincident_error, diversity_loss, logit_agreement
from coterie.losses.embedding import embedding_matching, in_batch_scores, margin_mse, one_hot_loss, score_distillation
from coterie.losses.label import LabelLoss, balanced_class_weights, soft_labels
from coterie.losses.ranking import ranking_distillation, ranking_loss, soft_rank, top_union

__all__ = [
    "DIVERGENCES",
    "LabelLoss",
    "Projection",
    "adaptive_kl",
    "balanced_class_weights",
    "chunked_mean",
    "chunked_terms",
    "classifier_diversity",
    "coincident_error",
    "diversity_loss",
    "embedding_matching",
    "forward_kl",
    "in_batch_scores",
    "jsd",
    "kl_divergence",
    "logit_agreement",
    "margin_mse",
    "mean_probability",
    "one_hot_loss",
    "ramp_up",
    "ranking_distillation",
    "ranking_loss",
    "reverse_kl",
    "score_distillation",
    "soft_labels",
    "soft_rank",
    "top_union",
    "tvd",
]
