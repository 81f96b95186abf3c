"""Statistics over seeds: intervals, paired differences, and what several comparisons at once do to p-values.

Pure functions of arrays. What they are made of (summaries of runs) and what is said of them stands elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

ENOUGH_SEEDS = 3  # below it nothing is claimed
RESAMPLES = 20_000  # of sign flips; up to 14 pairs have fewer, and are counted out


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
    """Mean and how far the values lie apart.

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
    """``values`` minus ``reference``, pair by pair.

    Equal differences have no spread: a t test says nothing of them (p is None), the permutation test does.

    Args:
        values, reference: figures of the same seeds, in the same order, at least one.
    """
    differences = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return Difference(mean, None, None, None, None, count)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    # As scipy.stats.ttest_1samp, which warns of differences that are almost equal.
    p_t = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error > 0 else None
    return Difference(mean, error, _interval(mean, error, count), p_t, sign_flip_p(differences), count)


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of the mean under flips of signs: exact up to 14 pairs, else of fixed-seed draws.

    The smallest p that n pairs can give is 2 / 2^n: 0.0625 for 5.
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
    """Holm's step-down correction: p-values that hold for all comparisons together.

    Args:
        p_values: by name; None where there is none, which is left out and stays None.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[name] = largest
    return corrected


def detectable(standard_error: float, pairs: int) -> float:
    """Difference that n pairs with this standard error would show as significant (5 %, two-sided) four times out of five.

    Args:
        standard_error: of the mean difference.
        pairs: n, at least 2.
    """
    degrees = pairs - 1
    return float((stats.t.ppf(0.975, degrees) + stats.t.ppf(0.8, degrees)) * standard_error)
