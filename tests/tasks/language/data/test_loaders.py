from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from coterie.data.order import Order
from coterie.methods import create_method
from coterie.tasks.language.causal_lm import CausalLM, LanguageGroup
from coterie.tasks.language.data.loaders import LanguageEvaluationLoader, LanguageTrainLoader
from coterie.tasks.language.data.sets import load_sets
from coterie.tasks.language.settings import LanguageData

CPU = torch.device("cpu")


@pytest.fixture(params=["packed", "documents"])
def rows(request, tokenizer, tmp_path, texts):
    for number, text in enumerate(texts):
        (tmp_path / f"{number:02}.txt").write_text(text)
    settings = LanguageData(name=str(tmp_path), packing=request.param, block_length=16)
    return load_sets(settings, tokenizer).rows["train"]


def loader(rows, batch_size=4, process_index=0, num_processes=1):
    return LanguageTrainLoader(rows, Order(len(rows), batch_size, 7, process_index, num_processes), CPU)


def mask_of(batch):
    """Which places of the rows are positions that count."""
    mask = torch.zeros(batch.inputs["input_ids"].numel(), dtype=torch.bool)
    mask[batch.inputs["positions"]] = True
    return mask.view_as(batch.inputs["input_ids"])


def equal(first, second):
    return (
        first.inputs.keys() == second.inputs.keys()
        and all(torch.equal(first.inputs[key], second.inputs[key]) for key in first.inputs)
        and torch.equal(first.targets, second.targets)
        and torch.equal(first.indices, second.indices)
    )


def test_a_batch_is_what_a_causal_model_takes(rows):
    batch = next(loader(rows).epoch(0))
    assert set(batch.inputs) == {"input_ids", "positions"}
    tokens, positions = batch.inputs["input_ids"], mask_of(batch)
    assert tokens.dtype == batch.inputs["positions"].dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.targets, tokens[:, 1:][positions[:, :-1]])
    assert not positions[:, -1].any()
    lengths = torch.from_numpy(rows.lengths)[batch.indices]
    assert torch.equal(positions.sum(1), lengths - 1)  # every token but a row's first is predicted
    assert batch.weight == 1.0


def test_order_is_a_function_of_seed_and_epoch_and_resumes_within_an_epoch(rows):
    whole = list(loader(rows).epoch(1))
    assert len(whole) == loader(rows).steps_per_epoch == len(rows) // 4
    rest = list(loader(rows).epoch(1, first_step=2))
    assert all(equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert not torch.equal(whole[0].indices, next(loader(rows).epoch(2)).indices)


def test_shares_of_two_processes_are_together_one_processs_batches(rows):
    shares = zip(loader(rows, 4, 0, 2).epoch(0), loader(rows, 4, 1, 2).epoch(0), strict=True)
    for whole, (first, second) in zip(loader(rows).epoch(0), shares, strict=True):
        assert torch.equal(torch.cat([first.indices, second.indices]), whole.indices)
        assert torch.equal(torch.cat([first.targets, second.targets]), whole.targets)
        for slot, part in ((slice(0, 2), first), (slice(2, 4), second)):
            width = part.inputs["input_ids"].shape[1]
            assert torch.equal(whole.inputs["input_ids"][slot, :width], part.inputs["input_ids"])
            assert torch.equal(mask_of(whole)[slot, :width], mask_of(part))
            assert not mask_of(whole)[slot, width:].any()


def test_several_views_are_the_same(rows):
    several = loader(rows)
    several.views = 2
    first, second = next(several.epoch(0)).inputs
    assert torch.equal(first["input_ids"], second["input_ids"])


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_evaluation_sees_every_row_once_in_equally_many_batches(rows, num_processes):
    parts = [list(LanguageEvaluationLoader(rows, 3, CPU, p, num_processes)) for p in range(num_processes)]
    assert len({len(part) for part in parts}) == 1
    indices = torch.cat([batch.indices for part in parts for batch in part])
    assert sorted(indices[indices >= 0].tolist()) == list(range(len(rows)))
    assert (indices < 0).sum() == -len(rows) % num_processes
    for part in parts:
        for batch in part:
            assert not mask_of(batch)[batch.indices < 0].any()
            lengths = torch.from_numpy(rows.lengths)[batch.indices[batch.indices >= 0]]
            assert (lengths.diff() <= 0).all()
    if num_processes == 1 and rows.packing == "packed":
        assert indices.tolist() == list(range(len(rows)))


@pytest.fixture
def completions(tokenizer, tmp_path):
    pairs = [{"prompt": f"number {n}:", "completion": " the cat" * (1 + n % 5)} for n in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    settings = LanguageData(name=str(tmp_path / "a.jsonl"), test=0, validation=0, block_length=32)
    return load_sets(settings, tokenizer).rows["train"]


def test_the_loss_of_the_positions_that_count_is_transformers_own(completions):
    batch = next(loader(completions, batch_size=8).epoch(0))
    network = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()
    tokens, labels = (torch.from_numpy(table) for table in completions.read(batch.indices.numpy()))
    mask = torch.arange(tokens.shape[1]) < torch.from_numpy(completions.lengths)[batch.indices, None]
    with torch.no_grad():
        expected = network(input_ids=tokens, attention_mask=mask.long(), labels=labels).loss
        found = cross_entropy(CausalLM(network)(batch.inputs)[0], batch.targets)
    assert 0 < len(batch.targets) < tokens.numel()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("views", [1, 2])
def test_batches_train_a_group_by_a_method_of_logits(completions, tiny_lm, views):
    group = LanguageGroup([CausalLM(tiny_lm("gpt2", seed, scale=1.0)) for seed in range(2)])
    method = create_method("dml", group).train()
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    batches = loader(completions, batch_size=8)
    batches.views = views
    losses = []
    for epoch in range(30):
        for batch in batches.epoch(epoch):
            total = sum(method(batch.inputs, batch.targets).values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            losses.append(float(total.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_weighted_means_of_shares_are_the_mean_over_all_positions_of_a_step(completions, processes, accumulate):
    shares = [
        LanguageTrainLoader(completions, Order(len(completions), 2, 7, p, processes), CPU, accumulate)
        for p in range(processes)
    ]
    values = torch.rand(300, generator=torch.Generator().manual_seed(0))  # a loss of each target
    batches = [list(share.epoch(2)) for share in shares]
    assert len(batches[0]) == 4
    assert {batch.weight for part in batches for batch in part} != {1.0} or processes == accumulate == 1
    for start in range(0, 4, accumulate):
        step = [part[start : start + accumulate] for part in batches]
        means = torch.stack([values[batch.targets].mean() * batch.weight for part in step for batch in part])
        whole = torch.cat([values[batch.targets] for part in step for batch in part])
        torch.testing.assert_close(means.mean(), whole.mean())


def test_a_limited_evaluation_takes_rows_at_equal_distances(rows):
    parts = [LanguageEvaluationLoader(rows, 3, CPU, p, 2, limit=5) for p in range(2)]
    assert [part.num_samples for part in parts] == [5, 5]
    indices = torch.cat([batch.indices for part in parts for batch in part])
    assert sorted(indices[indices >= 0].tolist()) == [number * len(rows) // 5 for number in range(5)]
    assert LanguageEvaluationLoader(rows, 3, CPU, limit=10_000).num_samples == len(rows)
