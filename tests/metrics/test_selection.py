from __future__ import annotations

import pytest
import torch
from scipy import stats

from coterie.metrics import choose_student


def draw(accuracies, samples, generator, shared=0.5):
    """Right answers of students that agree on a share of the samples, as students of one group do."""
    own = torch.rand(len(accuracies), samples, generator=generator)
    common = torch.rand(samples, generator=generator).expand_as(own)
    together = torch.rand(samples, generator=generator) < shared
    return torch.where(together, common, own) < torch.tensor(accuracies)[:, None]


@pytest.mark.parametrize(("students", "samples"), [(2, 40), (4, 40), (4, 1000), (8, 300)])
def test_of_equal_students_the_first_one_is_chosen_nearly_always(students, samples):
    generator = torch.Generator().manual_seed(students * samples)
    others = sum(choose_student(draw([0.8] * students, samples, generator)).student != 0 for _ in range(400))
    assert others <= 0.05 * 400 + 3 * (0.05 * 0.95 * 400) ** 0.5


def test_a_student_that_is_far_better_is_chosen():
    generator = torch.Generator().manual_seed(0)
    drawn = [choose_student(draw([0.7, 0.7, 0.85, 0.7], 400, generator)) for _ in range(100)]
    assert sum(each.student == 2 for each in drawn) >= 95


def test_the_p_value_is_the_exact_paired_one():
    right = torch.zeros(3, 100, dtype=torch.bool)
    right[:, :60] = True
    right[1, 60:75], right[1, :3] = True, False  # 15 won, 3 lost
    right[2, 60:62] = True
    chosen = choose_student(right)
    assert chosen.student == 1
    assert chosen.p_value == pytest.approx(2 * stats.binomtest(15, 18, alternative="greater").pvalue)
    assert chosen.standard_error == pytest.approx((0.72 * 0.28 / 100) ** 0.5)


def test_the_best_of_those_that_are_better_is_chosen():
    right = torch.zeros(3, 100, dtype=torch.bool)
    right[1, :20] = right[2, :30] = True
    assert choose_student(right).student == 2
    assert choose_student(right[[0, 2, 1]]).student == 1


@pytest.mark.parametrize("right", [torch.ones(4, 10), torch.zeros(4, 10), torch.ones(1, 1)])
def test_students_that_do_not_differ_leave_the_first_one(right):
    chosen = choose_student(right.bool())
    assert chosen == (0, None, 0.0)
