from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import CoterieError
from coterie.tasks.language import figures as module
from coterie.tasks.language.figures import LanguageFigures, top_tokens


def draw(seed, positions=60, vocabulary=40, length=12):
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(positions, vocabulary, generator=generator) * 3
    student = teacher + torch.randn(positions, vocabulary, generator=generator)
    targets = torch.randint(vocabulary, (positions,), generator=generator)
    columns = torch.arange(positions) % length
    return student, teacher, targets, columns


def ordered(row, k):
    """By value, then by number."""
    return sorted(range(len(row)), key=lambda token: (-row[token], token))[:k]


def slow(student, teacher, targets):
    """Position by position, in Python and float64."""
    rows, teachers = student.double().tolist(), teacher.double().tolist()
    nll = [math.log(sum(map(math.exp, row))) - row[target] for row, target in zip(rows, targets.tolist(), strict=True)]
    figures = {"nll": float(np.mean(nll)), "perplexity": math.exp(np.mean(nll))}
    figures["top1"] = np.mean(
        [ordered(row, 1)[0] == target for row, target in zip(rows, targets.tolist(), strict=True)]
    )
    pairs = list(zip(rows, teachers, strict=True))
    for k in (1, 3, 5):
        figures[f"cr_{k}"] = np.mean([ordered(p, k) == ordered(q, k) for p, q in pairs])
    for k in (3, 5, 10, 20):
        figures[f"mor_{k}"] = np.mean([len({*ordered(p, k)} & {*ordered(q, k)}) / k for p, q in pairs])
    return figures, nll


def figures_of(student, teacher, targets, columns, length=12, sizes=None, **options):
    found = LanguageFigures(student.shape[1], length, **options)
    for part in zip(*(each.split(sizes or len(each)) for each in (student, targets, columns, teacher)), strict=True):
        found.update(*part[:3], teacher_top=top_tokens(part[3]))
    return found


def test_figures_are_those_of_a_slow_count():
    student, teacher, targets, columns = draw(0)
    found = figures_of(student, teacher, targets, columns)
    expected, nll = slow(student, teacher, targets)
    assert found.compute() == pytest.approx(expected, rel=1e-6)
    assert 0 < expected["cr_3"] < expected["cr_1"] < 1
    curves = found.curves()
    same = [[a == b for a, b in zip(ordered(p, 20), ordered(q, 20), strict=True)] for p, q in zip(student.tolist(), teacher.tolist(), strict=True)]  # fmt: skip
    assert curves["agreement_by_rank"] == pytest.approx(np.mean(same, axis=0))
    by_column = [np.mean([n for n, c in zip(nll, columns.tolist(), strict=True) if c == each]) for each in range(12)]
    assert curves["nll_by_position"] == pytest.approx(by_column, abs=1e-6)
    assert set(LanguageFigures(40, 12).compute()) == {"nll", "perplexity", "top1"}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 30), st.integers(1, 25), st.integers(1, 4))
def test_equal_logits_are_ordered_by_number(seed, vocabulary, k, values):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-values, values + 1, (7, vocabulary), generator=generator).float()
    expected = [ordered(row, min(k, vocabulary)) for row in logits.tolist()]
    assert top_tokens(logits, k).tolist() == expected
    assert top_tokens(logits.bfloat16(), k).tolist() == expected


def test_minus_infinity_is_the_last():
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 2.0]])
    assert top_tokens(logits, 4).tolist() == [[3, 1, 0, 2]]


@pytest.mark.parametrize("sizes", [1, 7, 60])
def test_batches_and_chunks_change_no_bit(sizes, monkeypatch):
    student, teacher, targets, columns = draw(1)
    whole = figures_of(student, teacher, targets, columns).state()
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 3 * student.shape[1])
    parts = figures_of(student, teacher, targets, columns, sizes=sizes).state()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_shares_of_processes_add_up_exactly():
    student, teacher, targets, columns = draw(2)
    whole = figures_of(student, teacher, targets, columns)
    shares = [figures_of(*(each[number::2] for each in (student, teacher, targets, columns))) for number in range(2)]
    shares[0].merge(shares[1])
    assert shares[0].compute() == whole.compute()
    summed = LanguageFigures(40, 12)
    states = [
        share.state()
        for share in (shares[1], figures_of(*(each[::2] for each in (student, teacher, targets, columns))))
    ]
    summed.load({name: states[0][name] + states[1][name] for name in states[0]})
    assert summed.compute() == whole.compute()
    with pytest.raises(CoterieError, match="sums of other figures"):
        LanguageFigures(10, 12).load(whole.state())


def test_long_rows_are_told_apart_in_parts():
    found = LanguageFigures(4, 100, buckets=4)
    found.update(torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64), torch.tensor([0, 24, 25, 99]))
    assert found.state()["positions"].tolist() == [2, 1, 0, 1]
    curve = found.curves()["nll_by_position"]
    assert curve[0] == pytest.approx(math.log(4))
    assert math.isnan(curve[2])


def test_a_small_vocabulary_leaves_figures_out():
    student, teacher, targets, columns = draw(3, vocabulary=6)
    found = figures_of(student, teacher, targets, columns)
    assert set(found.compute()) == {"nll", "perplexity", "top1", "cr_1", "cr_3", "cr_5", "mor_3", "mor_5"}
    assert len(found.curves()["agreement_by_rank"]) == 6


def test_values_that_are_no_numbers_show():
    found = LanguageFigures(3, 2)
    assert math.isnan(found.compute()["nll"])
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, -torch.inf, 1.0]])
    found.update(logits, torch.tensor([2, 1]), torch.tensor([0, 1]))
    assert math.isnan(found.compute()["nll"])
    assert math.isnan(found.compute()["perplexity"])
    assert found.compute()["top1"] == 0.5
    found = LanguageFigures(2, 1)
    found.update(torch.tensor([[0.0, 1000.0]]), torch.tensor([0]), torch.tensor([0]))
    assert found.compute()["nll"] == 1000.0
    assert found.compute()["perplexity"] == math.inf


def test_no_positions_change_nothing():
    found = LanguageFigures(3, 2)
    nothing = torch.empty(0, dtype=torch.int64)
    found.update(torch.empty(0, 3), nothing, nothing, top_tokens(torch.empty(0, 3)))
    assert all(not each.any() for each in found.state().values())
    with pytest.raises(CoterieError, match=r"are of \[0, 2\] positions"):
        found.update(torch.empty(2, 3), nothing, nothing)
    with pytest.raises(CoterieError, match="length=0"):
        LanguageFigures(3, 0)


def test_processes_reduce_a_state():
    from accelerate import Accelerator

    student, teacher, targets, columns = draw(4)
    found = figures_of(student, teacher, targets, columns)
    before = found.compute()
    found.load(Accelerator(cpu=True).reduce(found.state(), "sum"))
    assert found.compute() == before
