from __future__ import annotations

import pytest

from coterie.metrics import primary

STUDENTS = [{"top1": 0.5}, {"top1": 0.7}]


@pytest.mark.parametrize(
    ("students", "leader", "expected"),
    [
        (STUDENTS, None, ("the mean student", {"top1": 0.6})),
        (STUDENTS, 1, ("the leader, student 1", {"top1": 0.7})),
        (STUDENTS, 0, ("the leader, student 0", {"top1": 0.5})),
        (STUDENTS[:1], None, ("the network", {"top1": 0.5})),
    ],
)
def test_the_leader_or_the_mean_student(students, leader, expected):
    assert primary({"students": students, "mean_student": {"top1": 0.6}}, leader) == expected
