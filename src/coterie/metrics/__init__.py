"""Metrics: accuracy and calibration of classifiers, diversity of groups."""

from coterie.metrics.classification import classification_figures, mean_figures
from coterie.metrics.diversity import diversity_figures
from coterie.metrics.per_class import ClassFigures, balanced_accuracy, per_class_figures
from coterie.metrics.primary import Primary, own_ensemble, primary
from coterie.metrics.selection import Selection, choose_student

__all__ = [
    "ClassFigures",
    "Primary",
    "Selection",
    "balanced_accuracy",
    "choose_student",
    "classification_figures",
    "diversity_figures",
    "mean_figures",
    "own_ensemble",
    "per_class_figures",
    "primary",
]
