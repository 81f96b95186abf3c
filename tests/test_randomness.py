from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from coterie.randomness import derive_seed, seeded, uniform


def test_seeds_depend_on_every_part_and_their_order():
    seeds = {derive_seed(*parts) for parts in [(0, "a"), (1, "a"), (0, "b"), ("a", 0), (0, "a", 0), (0,)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_golden_values_so_that_a_run_can_be_repeated_by_a_later_version():
    values = uniform(1, torch.arange(3), 0)
    torch.testing.assert_close(values, torch.tensor([0.33816659450531006, 0.9160981178283691, 0.035670578479766846]))


def test_uniform_numbers_are_uniform_and_streams_are_unrelated():
    indices = torch.arange(50_000)
    draws = np.stack(
        [uniform(derive_seed(seed, "x"), indices, stream).numpy() for seed in range(2) for stream in range(3)]
    )
    assert draws.min() >= 0
    assert draws.max() < 1
    for row in draws:
        assert stats.kstest(row, "uniform").pvalue > 1e-4
    correlation = np.corrcoef(draws) - np.eye(6)
    assert np.abs(correlation).max() < 0.02
    assert abs(np.corrcoef(draws[0][:-1], draws[0][1:])[0, 1]) < 0.02  # neighbouring samples


def test_a_draw_depends_on_the_sample_and_not_on_its_place_in_the_batch():
    indices = torch.tensor([5, 3, 9, 3])
    draws = uniform(7, indices, 2)
    assert draws[1] == draws[3]
    torch.testing.assert_close(uniform(7, torch.tensor([9]), 2)[0], draws[2])


def test_seeded_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with seeded(5):
        first = torch.rand(2)
    torch.testing.assert_close(torch.rand(2), expected)
    with seeded(5):
        torch.testing.assert_close(torch.rand(2), first)
