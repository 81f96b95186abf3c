"""Which of several students is worth deploying: a choice among equals is noise, and is not made."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import stats
from torch import Tensor

CHANCE = 0.05  # how often students of equal accuracy are taken for different ones, at most


class Selection(NamedTuple):
    """What was chosen, and on what evidence.

    Attributes:
        student: its number.
        p_value: of the student against student 0, corrected for the number of students; None: student 0 was not beaten.
        standard_error: of the student's accuracy, from the number of samples; a share.
    """

    student: int
    p_value: float | None
    standard_error: float


def choose_student(right: Tensor) -> Selection:
    """The most accurate student among those that are better than student 0 by more than chance; student 0 where there is none.

    Two students are compared on the samples that only one of them has right: McNemar's exact test, one-sided, with
    Bonferroni's correction for the number of students. The best of equals would be taken for better than it is.

    Args:
        right: bool [n, N], whether each student classifies each sample rightly; at least one sample.

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
