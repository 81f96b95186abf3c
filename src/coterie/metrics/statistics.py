"""Statistics over seeds: intervals, paired differences, and correction of p-values for multiple comparisons.

Pure functions of arrays. Reading runs' summaries and wording results is done elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

ENOUGH_SEEDS = 3  # with fewer, nothing is claimed
RESAMPLES = 20_000  # number of sign flips; up to 14 pairs have fewer, which are enumerated


class Spread(NamedTuple):
    """Mean, standard deviation (n - 1) and 95 % t interval; the latter two None for one value."""

    mean: float
    standard_deviation: float | None
    interval: tuple[float, float] | None


class Difference(NamedTuple):
    """Paired difference: mean, its standard error and 95 % t interval, two-sided p-values; None where n is too small."""

    mean: float
    standard_error: float | None
    interval: tuple[float, float] | None
    p_t: float | None
    p_permutation: float | None
    pairs: int


def spread(values: Sequence[float]) -> Spread:
    """Computes mean, standard deviation and interval.

    Args:
        values: at least one.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return Spread(float(array.mean()), None, None)
    deviation = float(array.std(ddof=1))
    return Spread(
        float(array.mean()), deviation, _interval(float(array.mean()), deviation / math.sqrt(len(array)), len(array))
    )


def _interval(mean: float, error: float, count: int) -> tuple[float, float]:
    half = float(stats.t.ppf(0.975, count - 1)) * error
    return mean - half, mean + half


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """Computes ``values`` minus ``reference``, pair by pair.

    If all differences are equal, the t test is undefined (p is None), the permutation test is not.

    Args:
        values, reference: metrics of the same seeds, in the same order, at least one.
    """
    differences = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return Difference(mean, None, None, None, None, count)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    # Like scipy.stats.ttest_1samp, which warns if differences are almost equal.
    p_t = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error > 0 else None
    return Difference(mean, error, _interval(mean, error, count), p_t, sign_flip_p(differences), count)


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p-value of the mean under random sign flips: exact up to 14 pairs, else from draws with a fixed seed.

    The smallest possible p-value of n pairs is 2 / 2^n: 0.0625 for 5.
    """
    array = np.asarray(differences, dtype=np.float64)
    result = stats.permutation_test(
        (array,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return min(1.0, float(np.asarray(result.pvalue)))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction of p-values for multiple comparisons.

    Args:
        p_values: p-values by name; None is ignored and stays None.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[name] = largest
    return corrected


def detectable(standard_error: float, pairs: int) -> float:
    """Difference that n pairs with this standard error detect as significant (5 %, two-sided) with a power of four out of five.

    Args:
        standard_error: standard error of the mean difference.
        pairs: n, at least 2.
    """
    degrees = pairs - 1
    return float((stats.t.ppf(0.975, degrees) + stats.t.ppf(0.8, degrees)) * standard_error)
