from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.metrics.sums import LARGEST, STEP, exact_sum, value_of

numbers = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=40)


@given(numbers, st.integers(0, 40), st.randoms())
def test_no_order_and_no_share_changes_a_bit(values, at, random):
    whole = exact_sum(torch.tensor(values, dtype=torch.float64))
    shuffled = random.sample(values, len(values))
    parts = [torch.tensor(part, dtype=torch.float64) for part in (shuffled[:at], shuffled[at:])]
    assert torch.equal(sum(exact_sum(part) for part in parts), whole)
    assert float(value_of(whole)) == pytest.approx(math.fsum(values), abs=len(values) * STEP, rel=1e-15)


def test_each_row_by_itself():
    values = torch.randn(3, 5, 7)
    assert torch.allclose(value_of(exact_sum(values)), values.double().sum(-1), atol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_hidden(bad):
    sums = torch.stack([exact_sum(torch.tensor([1.0, bad])), exact_sum(torch.tensor([1.0, 2.0]))])
    first, second = value_of(sums).tolist()
    assert math.isnan(first)
    assert second == 3.0


def test_the_largest_ones_fit():
    sums = exact_sum(torch.tensor([1e30, -1e30, 1e30]))
    assert float(value_of(sums)) == LARGEST
    assert int(LARGEST) * 2**26 < 2**63  # 67 million such samples
