"""Formulas as pure functions: tensors in, tensor out. No parameters, no state, no decision about gradients' paths."""

from coterie.losses.distillation import kl_divergence, mean_probability, ramp_up
from coterie.losses.diversity import classifier_diversity, coincident_error, diversity_loss, logit_agreement
from coterie.losses.label import LabelLoss, balanced_class_weights, soft_labels

__all__ = [
    "LabelLoss",
    "balanced_class_weights",
    "classifier_diversity",
    "coincident_error",
    "diversity_loss",
    "kl_divergence",
    "logit_agreement",
    "mean_probability",
    "ramp_up",
    "soft_labels",
]
