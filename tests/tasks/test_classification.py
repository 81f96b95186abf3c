from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from coterie.data.batch import Batch
from coterie.errors import RunError
from coterie.methods.group_method import GroupMethod, Predictions
from coterie.tasks.classification import ClassEvaluation, Classification, untrained_warning
from coterie.tasks.group_figures import group_figures


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
    return SimpleNamespace(leader=leader, num_students=students, choose=lambda accuracies: own and own(accuracies))


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
    assert (untrained_warning(top1, labels) is not None) == nothing


class Asked(GroupMethod):
    """Predicts what its inputs are, and notes what it is given of a validation split."""

    needs_validation = True

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.group = SimpleNamespace(num_students=1)  # a method may predict for more than its group trains
        self.deployed_student, self.given = 0, []

    def predict(self, inputs):
        return Predictions(torch.stack([inputs, -inputs]), inputs, inputs, {"first": inputs[:, 0]})

    def after_validation(self, logits, targets):
        self.given.append((logits, targets))


class Unasked(Asked):
    needs_validation = False


class Choosing(Asked):
    after_validation = GroupMethod.after_validation


class Loader(list):
    num_samples = 30


@pytest.mark.parametrize("kind", [Asked, Unasked, Choosing])
def test_logits_are_kept_for_methods_that_read_them_and_of_the_validation_split_alone(kind):
    inputs, labels = torch.randn(30, 3), torch.randint(3, (30,))
    order = torch.cat([torch.randperm(30), torch.tensor([-1, -1])])
    batches = [Batch(inputs[part.clamp(min=0)], labels[part.clamp(min=0)], part) for part in order.split(8)]
    task, method = Classification(), kind()
    task.accelerator = Accelerator(cpu=True)
    task.data = SimpleNamespace(validation=Loader(batches))
    validation = task.evaluate(method, task.data.validation)
    task.learn_from(method, validation)
    assert len(method.given) == (kind is Asked)
    for logits, targets in method.given:
        assert torch.equal(logits, torch.stack([inputs, -inputs]))
        assert torch.equal(targets, labels)
    assert task.evaluate(method, Loader(batches)).logits is None
    right = torch.stack([inputs.argmax(1) == labels, inputs.argmin(1) == labels])
    assert torch.equal(validation.predicted == validation.labels, right)
    assert [each["top1"] for each in validation.figures["students"]] == pytest.approx(right.double().mean(1).tolist())
    assert validation.figures["statistics"]["first"] == pytest.approx(float(inputs[:, 0].mean()))


def test_predictions_that_are_no_numbers_end_the_run():
    inputs = torch.randn(30, 3)
    inputs[17, 1] = torch.nan
    task = Classification()
    task.accelerator, task.data = Accelerator(cpu=True), SimpleNamespace(validation=None)
    with pytest.raises(RunError, match="the predictions of student 0 are not finite"):
        task.evaluate(Unasked(), Loader([Batch(inputs, torch.zeros(30, dtype=torch.long), torch.arange(30))]))


@pytest.mark.slow
def test_memory_does_not_grow_with_samples_times_classes():
    """20,000 samples of 4 students and 1,000 classes: their logits alone are 305 MiB, and were kept many times over."""
    command = [sys.executable, "-m", "benchmarks.speed.evaluation_memory", "--one", "20000"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(done.stdout)["mib"] < 250
