"""Figures that are added up batch by batch, against the same from all logits at once, written another way (torchmetrics, sums of floats)."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from coterie.losses import mean_probability
from coterie.metrics import sums
from coterie.metrics.classification import CHUNK_ELEMENTS
from coterie.tasks.group_figures import GroupSums, group_figures


def of_one(logits, targets):
    classes = logits.shape[1]
    log_probabilities = torch.log_softmax(logits.double(), 1)
    probabilities = log_probabilities.exp()
    truth = torch.nn.functional.one_hot(targets, classes)
    accuracy = {k: multiclass_accuracy(probabilities, targets, classes, average="micro", top_k=k) for k in (1, min(5, classes))}  # fmt: skip
    return {
        "top1": float(accuracy[1]),
        "top5": float(accuracy[min(5, classes)]),
        "nll": float(torch.nn.functional.nll_loss(log_probabilities, targets)),
        "brier": float((probabilities - truth).square().sum(1).mean()),
        "ece": float(multiclass_calibration_error(probabilities, targets, classes, n_bins=15)),
    }


def diversity_of(logits, targets):
    log_p = torch.log_softmax(logits.double(), -1)
    pairs = list(combinations(range(len(logits)), 2))
    wrong = logits.argmax(-1) != targets
    means = {
        "distance": [(log_p[a].exp() - log_p[b].exp()).norm(dim=1).mean() for a, b in pairs],
        "disagreement": [(logits[a].argmax(-1) != logits[b].argmax(-1)).double().mean() for a, b in pairs],
        "kl": [((log_p[a].exp() - log_p[b].exp()) * (log_p[a] - log_p[b])).sum(1).mean() / 2 for a, b in pairs],
        "double_fault": [(wrong[a] & wrong[b]).double().mean() for a, b in pairs],
    }
    return {name: float(torch.stack(values).mean()) for name, values in means.items()} if pairs else {}


def make(students=3, samples=150, classes=7, scale=3.0):
    targets = torch.randint(classes, (samples,))
    logits = scale * torch.randn(students, samples, classes)
    logits[0, :20, 1] += 300  # a confidence of 1, right and wrong
    return logits, scale * torch.randn(samples, classes), targets


def in_batches(logits, ensemble, targets, statistics, batches):
    sums = GroupSums(len(logits))
    for numbers in batches:
        counted = numbers >= 0
        at = numbers.clamp(min=0)
        sums.add(logits[:, at], ensemble[at], {name: value[at] for name, value in statistics.items()}, targets[at], counted)  # fmt: skip
    return sums


@pytest.mark.parametrize(("students", "classes"), [(1, 2), (1, 7), (3, 3), (4, 12)])
def test_the_figures_of_all_logits_at_once(students, classes):
    logits, ensemble, targets = make(students, classes=classes)
    found = in_batches(logits, ensemble, targets, {}, torch.arange(150).split(64)).compute(students - 1)
    every = {
        "students": [of_one(each, targets) for each in logits],
        "ensemble": {
            "mean_probability": of_one(mean_probability(logits), targets),
            "mean_logit": of_one(logits.mean(0), targets),
            "method": of_one(ensemble, targets),
        },
    }
    for figures, expected in [
        *zip(found["students"], every["students"], strict=True),
        *((found["ensemble"][name], values) for name, values in every["ensemble"].items()),
        (found["diversity"], diversity_of(logits, targets)),
    ]:
        assert figures == pytest.approx(expected, abs=3e-7, rel=3e-7)
    assert found["deployed"] == {"student": students - 1, **found["students"][-1]}
    assert found["mean_student"]["nll"] == pytest.approx(sum(each["nll"] for each in every["students"]) / students)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_no_batch_no_order_and_no_filler_changes_a_bit(scale):
    logits, ensemble, targets = make(scale=scale)
    statistics = {"entropy": torch.randn(150), "weights": torch.randn(150, 3)}
    one = in_batches(logits, ensemble, targets, statistics, [torch.arange(150)]).compute(0)
    filled = torch.cat([torch.full((11,), -1), torch.randperm(150)])[torch.randperm(161)]
    other = in_batches(logits, ensemble, targets, statistics, filled.split(16))
    assert other.compute(0) == one
    assert {**group_figures(logits, ensemble, targets, 0), "statistics": one["statistics"]} == one
    for name, values in statistics.items():
        assert one["statistics"][name] == pytest.approx(values.double().mean(0).tolist(), abs=1e-6)


def test_two_processes_sums_add_up():
    logits, ensemble, targets = make()
    statistics = {"entropy": torch.randn(150)}
    order = torch.randperm(150)
    shares = [in_batches(logits, ensemble, targets, statistics, part.split(20)) for part in (order[:90], order[90:])]
    both = GroupSums(3)
    first, second = (share.state() for share in shares)
    both.load({part: {name: sums + second[part][name] for name, sums in group.items()} for part, group in first.items()})  # fmt: skip
    assert both.compute(0) == in_batches(logits, ensemble, targets, statistics, [torch.arange(150)]).compute(0)


def test_a_student_that_predicts_no_number_is_found_though_fillers_are_not_looked_at():
    logits, ensemble, targets = make()
    assert in_batches(logits, ensemble, targets, {}, [torch.arange(150)]).first_not_finite() is None
    logits[2, 149, 3] = torch.inf
    assert in_batches(logits, ensemble, targets, {}, [torch.arange(150)]).first_not_finite() == 2
    fillers = torch.where(torch.arange(150) < 149, torch.arange(150), -1)
    sums = GroupSums(3)
    sums.add(logits, ensemble, {}, targets, fillers >= 0)
    assert sums.first_not_finite() is None


def test_the_sums_are_as_large_for_any_number_of_samples():
    def size(samples):
        sums = in_batches(*make(samples=samples), {"entropy": torch.randn(samples)}, torch.arange(samples).split(64))
        return sum(each.numel() for group in sums.state().values() for each in group.values())

    assert size(64) == size(640) < 1000
    assert CHUNK_ELEMENTS * 8 <= 2**24  # of one copy in float64, whatever the batch


class NoFloat64(TorchDispatchMode):
    """As on a device that has no numbers of 64 bits: an operation that would make some fails."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        assert not any(each.dtype == torch.float64 for each in tree_leaves(found) if isinstance(each, torch.Tensor)), (
            func
        )
        return found


def test_batches_are_added_up_without_float64_where_a_device_has_none(monkeypatch):
    logits, ensemble, targets = make()
    counted = torch.ones_like(targets, dtype=torch.bool)
    statistics = {"attention": torch.rand(len(targets), 3)}
    expected = GroupSums(3)
    expected.add(logits, ensemble, statistics, targets, counted)
    monkeypatch.setattr(sums, "WITHOUT_FLOAT64", {"cpu"})
    with NoFloat64():
        narrow = GroupSums(3)
        narrow.add(logits, ensemble, statistics, targets, counted)
    for first, second in zip(numbers_in(narrow.compute(0)), numbers_in(expected.compute(0)), strict=True):
        assert first == pytest.approx(second, abs=2e-6)
    assert narrow.compute(0)["statistics"] == expected.compute(0)["statistics"]  # float32 ones come out the same
    with pytest.raises(AssertionError), NoFloat64():
        logits.double()


def numbers_in(tree):
    return [each for each in tree_leaves(tree) if isinstance(each, float)]
