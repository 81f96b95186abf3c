from __future__ import annotations

import pytest
import torch

from coterie.tasks import kept as module
from coterie.tasks.kept import KeptPredictions

SAMPLES, STUDENTS, CLASSES = 50, 3, 4


@pytest.fixture(autouse=True)
def cap(monkeypatch):
    monkeypatch.setattr(module, "SAVED_PREDICTIONS", 20)


@pytest.fixture
def predicted():
    targets = torch.randint(CLASSES, (SAMPLES,))
    return 5 * torch.randn(STUDENTS, SAMPLES, CLASSES), torch.randn(SAMPLES, CLASSES), targets


def kept_of(predicted, batches, whole=False):
    logits, ensemble, targets = predicted
    kept = KeptPredictions(SAMPLES, whole)
    for numbers in batches:
        at = numbers.clamp(min=0)
        kept.add(logits[:, at], ensemble[at], targets[at], numbers)
    return kept


@pytest.mark.parametrize("whole", [True, False])
def test_in_any_order_and_with_fillers(predicted, whole):
    logits, ensemble, targets = predicted
    filled = torch.cat([torch.full((14,), -1), torch.arange(SAMPLES)])[torch.randperm(SAMPLES + 14)]
    kept = kept_of(predicted, filled.split(8), whole)
    assert torch.equal(kept.predicted(), logits.argmax(-1))
    assert torch.equal(kept.labels(), targets)
    saved = kept.predictions()
    assert torch.equal(saved["logits"], logits[:, :20].half())
    assert torch.equal(saved["ensemble"], ensemble[:20].half())
    assert torch.equal(saved["labels"], targets[:20])
    assert saved["indices"].tolist() == list(range(20))
    assert torch.equal(kept.logits(), logits) if whole else kept.logits() is None


def test_of_fewer_samples_than_are_saved_all_are(predicted):
    logits, ensemble, targets = (each[..., :5, :] if each.ndim > 1 else each[:5] for each in predicted)
    kept = KeptPredictions(5)
    kept.add(logits, ensemble, targets, torch.arange(5))
    assert torch.equal(kept.predictions()["logits"], logits.half())


def test_what_is_too_large_for_float16_becomes_its_largest_number(predicted):
    predicted[0][0, 0, 0] = -1e9
    saved = kept_of(predicted, [torch.arange(SAMPLES)]).predictions()
    assert float(saved["logits"][0, 0, 0]) == torch.finfo(torch.float16).min


def test_two_processes_shares_add_up(predicted):
    order = torch.randperm(SAMPLES)
    shares = [torch.cat([order[:30], torch.tensor([-1, -1])]), order[30:]]
    first, second = (kept_of(predicted, share.split(7), whole=True) for share in shares)
    for each in (first, second):
        each.drop_fillers()
    first.state = {name: values + second.state[name] for name, values in first.state.items()}
    one = kept_of(predicted, [torch.arange(SAMPLES)], whole=True)
    assert torch.equal(first.predicted(), one.predicted())
    assert torch.equal(first.labels(), one.labels())
    assert torch.equal(first.logits(), one.logits())
    assert all(torch.equal(value, one.predictions()[name]) for name, value in first.predictions().items())


def test_a_sample_costs_a_few_bytes(predicted):
    sizes = []
    for samples in (1000, 2000):
        kept = KeptPredictions(samples)
        kept.add(*(each[..., :8, :] if each.ndim > 1 else each[:8] for each in predicted), torch.arange(8))
        sizes.append(sum(each.numel() * each.element_size() for each in kept.state.values()))
    assert sizes[1] - sizes[0] == 1000 * (4 * STUDENTS + 8)
