"""Selects the student to deploy, only if the evidence is significant: a choice among equals would be noise."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import stats
from torch import Tensor

CHANCE = 0.05  # significance level: largest probability of choosing among students of equal accuracy


class Selection(NamedTuple):
    """The chosen student and the evidence.

    Attributes:
        student: number of the chosen student.
        p_value: p-value against student 0, corrected for the number of students; None: no student is better than student 0.
        standard_error: standard error of the student's accuracy, from the number of samples; as a share.
    """

    student: int
    p_value: float | None
    standard_error: float


def choose_student(right: Tensor) -> Selection:
    """Returns the most accurate student among those that are significantly better than student 0; student 0 if there is none.

    Two students are compared on the samples that only one of them classifies correctly: McNemar's exact test, one-sided, with Bonferroni's correction for the
    number of students. Without a test, the best of equal students would be overrated.

    Args:
        right: bool [n, N], whether each student classifies each sample correctly; at least one sample.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages" (1947).
    """
    counts = right.sum(1).tolist()
    student, p_value = 0, None
    for number in range(1, len(counts)):
        won, lost = int((right[number] & ~right[0]).sum()), int((right[0] & ~right[number]).sum())
        p = float(stats.binom.sf(won - 1, won + lost, 0.5)) * (len(counts) - 1)
        if p < CHANCE and counts[number] > counts[student]:
            student, p_value = number, p
    accuracy = counts[student] / right.shape[1]
    error = math.sqrt(accuracy * (1 - accuracy) / right.shape[1])
    return Selection(student, p_value, error)
