"""Figures that are measured, never trained on: accuracy and calibration of one classifier, diversity of a group."""

from coterie.metrics.classification import classification_figures, mean_figures
from coterie.metrics.diversity import diversity_figures

__all__ = ["classification_figures", "diversity_figures", "mean_figures"]
