from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.data.order import Order, Shards, evaluation_share, longest_first
from coterie.errors import CoterieError


def test_an_epoch_visits_every_sample_once_and_drops_the_incomplete_batch():
    batches = list(Order(23, 5, 0).batches(0))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    assert Order(23, 5, 0).steps_per_epoch == 4
    seen = torch.cat(batches).tolist()
    assert len(set(seen)) == 20
    assert set(seen) < set(range(23))


def test_a_set_smaller_than_a_batch_is_one_batch():
    order = Order(7, 64, 0)
    assert order.steps_per_epoch == 1
    assert sorted(torch.cat(list(order.batches(0))).tolist()) == list(range(7))


def test_order_depends_on_seed_and_epoch_and_not_on_what_was_drawn_before():
    whole = list(Order(40, 4, 3).batches(2))
    torch.rand(5)
    assert torch.equal(torch.cat(whole[6:]), torch.cat(list(Order(40, 4, 3).batches(2, first_step=6))))
    for other in (Order(40, 4, 3).batches(1), Order(40, 4, 4).batches(2)):
        assert not torch.equal(torch.cat(whole), torch.cat(list(other)))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_every_batch(processes):
    whole = list(Order(50, 8, 1).batches(0))
    shares = [list(Order(50, 8, 1, process, processes).batches(0)) for process in range(processes)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step] for share in shares]), batch)
        assert len({len(share[step]) for share in shares}) == 1


def test_batches_that_processes_cannot_share_evenly_are_refused():
    with pytest.raises(CoterieError, match=r"batch_size=10 .* multiple of their number, 4"):
        Order(100, 10, 0, 0, 4)
    with pytest.raises(CoterieError, match=r"batch_size=8 is above the number of training samples, 5"):
        Order(5, 8, 0, 1, 2)


@pytest.mark.parametrize(("samples", "processes"), [(10, 1), (10, 3), (2, 4), (9, 3)])
def test_evaluation_shares_are_equal_and_cover_everything_once(samples, processes):
    shares = [evaluation_share(samples, process, processes) for process in range(processes)]
    assert len({len(share) for share in shares}) == 1
    together = torch.cat(shares)
    assert together[together >= 0].tolist() == list(range(samples))
    assert (together[together < 0] == -1).all()


def test_the_longest_come_first_and_processes_take_turns():
    lengths = torch.tensor([3, 9, 3, 5, 9])
    assert longest_first(lengths, 0, 1).tolist() == [1, 4, 3, 0, 2]
    assert [longest_first(lengths, p, 2).tolist() for p in range(2)] == [[1, 3, 2], [4, 0, -1]]


def sharded(count, shard, **changes):
    return Order(count, **{"batch_size": 8, "seed": 1, **changes}, shards=Shards(np.arange(count) // shard))


def test_an_order_by_shards_visits_every_sample_once_whatever_the_processes():
    for count, size in ((64, 8), (61, 12), (40, 7), (5, 8)):
        whole = torch.cat(list(sharded(count, 9, batch_size=size).batches(0)))
        assert len(whole) == sharded(count, 9, batch_size=size).steps_per_epoch * min(size, count)
        assert len(whole.unique()) == len(whole)
    shares = [list(sharded(64, 9, process_index=process, num_processes=4).batches(3)) for process in range(4)]
    for step, batch in enumerate(sharded(64, 9).batches(3)):
        assert torch.equal(torch.cat([share[step] for share in shares]), batch)
    assert torch.equal(
        torch.cat(list(sharded(64, 9).batches(3, first_step=5))), torch.cat(list(sharded(64, 9).batches(3))[5:])
    )
    assert not torch.equal(torch.cat(list(sharded(64, 9).batches(3))), torch.cat(list(sharded(64, 9).batches(4))))


def test_an_order_by_shards_reads_each_process_s_archives_nearly_in_sequence():
    """Of 64 archives with 2,000 samples each, four processes have 16 each, but for those at the borders; within a hundred
    steps a process looks into few of them, and what it reads lies within the buffer.
    """
    count, shard, size = 128_000, 2_000, 64
    read = []
    for process in range(4):
        order = sharded(count, shard, batch_size=size, process_index=process, num_processes=4)
        batches = list(order.batches(0))
        read.append(set((torch.cat(batches) // shard).tolist()))
        some = torch.cat(batches[500:600])
        archives = (some // shard).unique().tolist()
        assert len(archives) <= 10
        parts = [some[some // shard == each] for each in archives]
        assert all(int(part.max() - part.min()) < 1_500 for part in parts)
        assert not torch.equal(some.sort().values, some)
    assert all(len(each) <= 17 for each in read)
    whole = torch.cat(list(sharded(count, shard, batch_size=size).batches(0)))
    assert len(whole.unique()) == count
    assert (whole[:64] // shard).unique().numel() > 8  # a batch is drawn from many archives


def test_which_samples_an_order_by_shards_leaves_out_is_a_matter_of_chance():
    left_out = [
        set(range(60)) - set(torch.cat(list(sharded(60, 7, seed=seed).batches(0))).tolist()) for seed in range(30)
    ]
    assert all(len(each) == 4 for each in left_out)
    assert len(set.union(*left_out)) > 25
