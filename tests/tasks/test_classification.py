from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from coterie.tasks.classification import ClassEvaluation, Classification, group_figures, learnt_nothing


@pytest.fixture
def evaluated():
    """Validation of three students with the given numbers of right answers out of 200."""

    def make(*right: int) -> ClassEvaluation:
        labels = torch.zeros(200, dtype=torch.long)
        logits = torch.zeros(len(right), 200, 3)
        for student, count in zip(logits, right, strict=True):
            student[:count, 0] = 1
            student[count:, 1] = 1
        return ClassEvaluation(group_figures(logits, logits[0], labels, 0), logits.argmax(-1), labels)

    return make


def method_of(students=3, leader=None, own=None):
    return SimpleNamespace(
        group=SimpleNamespace(leader=leader, num_students=students), choose=lambda accuracies: own and own(accuracies)
    )


def choose(method, validation):
    return Classification().choose_deployed(method, validation)


def test_student_0_is_deployed_where_the_others_differ_by_chance(evaluated):
    chosen = choose(method_of(), evaluated(150, 154, 149))
    assert chosen.student == 0
    assert chosen.reason == (
        "no other student is better by more than chance on 200 validation images (standard error 3.1 points)"
    )


def test_a_student_that_is_better_is_deployed(evaluated):
    chosen = choose(method_of(), evaluated(120, 150, 149))
    assert chosen.student == 1
    said = r"it is better than student 0 by more than chance on 200 validation images \(p = 1.9e-09, standard error 3.1 points\)"
    assert re.fullmatch(said, chosen.reason)


def test_the_leader_and_the_methods_own_rule_come_first(evaluated):
    validation = evaluated(120, 150, 149)
    assert choose(method_of(leader=2), validation) == (2, "it is the method's leader")
    own = method_of(own=lambda accuracies: accuracies.index(min(accuracies)))
    assert choose(own, evaluated(150, 120, 149)) == (1, "it is the method's own choice")


def test_what_leaves_no_choice(evaluated):
    assert choose(method_of(), None) == (0, "there is no validation split to choose on")
    assert choose(method_of(students=1), None) == (0, "")
    assert choose(method_of(students=1), evaluated(150)) == (0, "")


@pytest.mark.parametrize(
    ("counts", "top1", "nothing"),
    [((50, 50), 0.5, True), ((50, 50), 0.59, True), ((50, 50), 0.61, False), ((90, 10), 0.9, True), ((90, 10), 0.97, False), ((100,) * 20, 0.07, False)],
)  # fmt: skip
def test_the_most_frequent_class_is_the_measure(counts, top1, nothing):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    assert (learnt_nothing(top1, labels) is not None) == nothing
