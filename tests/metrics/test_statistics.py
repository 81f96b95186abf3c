from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from coterie.metrics.statistics import detectable, holm, paired_difference, sign_flip_p, spread


def test_spread_against_numpy_and_a_table():
    found = spread([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.standard_deviation == pytest.approx(np.std([1, 2, 4], ddof=1))
    half = 4.302653 * found.standard_deviation / math.sqrt(3)  # t(0.975, 2) from a table
    assert found.interval == pytest.approx((7 / 3 - half, 7 / 3 + half), abs=1e-5)
    assert spread([0.5]) == (0.5, None, None)


def test_paired_difference_against_scipy():
    ours, theirs = [0.71, 0.73, 0.70, 0.74], [0.70, 0.70, 0.71, 0.71]
    found = paired_difference(ours, theirs)
    reference = stats.ttest_rel(ours, theirs)
    assert found.p_t == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval(0.95)
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.pairs == 4


def test_pairing_sees_what_two_separate_means_would_not():
    seeds = np.array([0.1, 0.5, 0.9, 0.3, 0.7])
    found = paired_difference(np.add(seeds, [0.010, 0.011, 0.009, 0.010, 0.012]), seeds)
    assert found.p_t < 0.001
    assert stats.ttest_ind(seeds + 0.01, seeds).pvalue > 0.9


def test_sign_flips_counted_by_hand():
    differences = [0.3, 0.1, -0.05, 0.2]
    observed = abs(np.mean(differences))
    means = [
        abs(np.mean([s * d for s, d in zip(signs, differences, strict=True)])) for signs in product((1, -1), repeat=4)
    ]
    expected = np.mean([mean >= observed - 1e-12 for mean in means])
    assert sign_flip_p(differences) == pytest.approx(expected)


def test_the_smallest_permutation_p_of_five_pairs():
    assert sign_flip_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 2**5)


def test_too_few_and_equal_differences():
    assert paired_difference([0.5], [0.4])[1:] == (None, None, None, None, 1)
    same = paired_difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])
    assert same.standard_error == pytest.approx(0, abs=1e-12)
    nothing = paired_difference([0.5, 0.6], [0.5, 0.6])
    assert nothing.p_t is None
    assert nothing.p_permutation == 1.0


def test_holm_by_hand():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert corrected == {"a": pytest.approx(0.03), "b": pytest.approx(0.06), "c": pytest.approx(0.06), "d": None}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@pytest.mark.slow
def test_what_could_be_detected_is_detected_four_times_of_five():
    rng = np.random.default_rng(0)
    pairs, deviation = 5, 1.0
    effect = detectable(deviation / math.sqrt(pairs), pairs)
    found = [stats.ttest_1samp(rng.normal(effect, deviation, pairs), 0).pvalue < 0.05 for _ in range(2000)]
    assert 0.7 < np.mean(found) < 0.9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("spread", [1e-17, 1e-12, 1e-3])
def test_differences_that_are_almost_equal_give_no_warning(spread):
    values = [0.1, 0.1 + spread, 0.1 + 2 * spread]
    found = paired_difference(values, [0.0, 0.0, 0.0])
    assert found.mean == pytest.approx(0.1, abs=2 * spread + 1e-12)
    assert found.p_t is None or found.p_t < 0.05
