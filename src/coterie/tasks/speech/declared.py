"""Figures of speech encoders, computed by :mod:`coterie.tasks.speech.evaluation`. This module does not import torch, so that a report can read it."""

from __future__ import annotations

from coterie.tasks.figures import Figure

FIGURES: tuple[Figure, ...] = (
    Figure(
        "distance",
        "distance",
        "lower",
        meaning="mean absolute difference between what the heads predict and what the teachers say, over features and frames, then layers and teachers",
    ),
    Figure("cosine", "cosine", "higher", meaning="cosine between these, over frames, then layers and teachers"),
    Figure(
        "probe",
        "probe",
        "higher",
        ".2%",
        optional=True,
        meaning="test {sample}s that a linear classifier of the frozen features gets right, mean over labels",
    ),
    Figure(
        "probe_noisy",
        "probe at 0 dB",
        "higher",
        ".2%",
        optional=True,
        meaning="the same, of {sample}s as loud as noise",
    ),
)
