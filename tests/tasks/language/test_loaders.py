from __future__ import annotations

import json

import pytest
import torch

from coterie.data.order import Order
from coterie.tasks.language.loaders import LanguageEvaluationLoader, LanguageTrainLoader
from coterie.tasks.language.rows import IGNORED, shifted_targets, valid_positions
from coterie.tasks.language.sets import load_sets
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


def equal(first, second):
    return (
        first.inputs.keys() == second.inputs.keys()
        and all(torch.equal(first.inputs[key], second.inputs[key]) for key in first.inputs)
        and torch.equal(first.targets, second.targets)
        and torch.equal(first.indices, second.indices)
    )


def test_a_batch_is_what_transformers_takes(rows):
    batch = next(loader(rows).epoch(0))
    assert set(batch.inputs) == {"input_ids"} | ({"attention_mask"} if rows.packing == "documents" else set())
    assert batch.inputs["input_ids"].dtype == batch.targets.dtype == torch.int64
    assert batch.inputs["input_ids"].shape == batch.targets.shape
    known = batch.targets != IGNORED
    assert torch.equal(batch.targets[known], batch.inputs["input_ids"][known])
    if rows.packing == "documents":
        assert torch.equal(batch.inputs["attention_mask"].bool(), known)


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
        for slot, part in ((slice(0, 2), first), (slice(2, 4), second)):
            width = part.targets.shape[1]
            assert torch.equal(whole.targets[slot, :width], part.targets)
            assert (whole.targets[slot, width:] == IGNORED).all()
            assert torch.equal(whole.inputs["input_ids"][slot, :width], part.inputs["input_ids"])


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
            assert (batch.targets[batch.indices < 0] == IGNORED).all()
            if rows.packing == "documents":
                lengths = batch.inputs["attention_mask"].sum(1)[batch.indices >= 0]
                assert (lengths.diff() >= 0).all()
    if num_processes == 1 and rows.packing == "packed":
        assert indices.tolist() == list(range(len(rows)))


def test_the_loss_of_the_valid_positions_is_transformers_own(tokenizer, tmp_path):
    from torch.nn.functional import cross_entropy
    from transformers import GPT2Config, GPT2LMHeadModel

    pairs = [{"prompt": f"number {n}:", "completion": " the cat" * (1 + n % 5)} for n in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    settings = LanguageData(name=str(tmp_path / "a.jsonl"), test=0, validation=0, block_length=32)
    batch = next(loader(load_sets(settings, tokenizer).rows["train"], batch_size=8).epoch(0))
    network = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()
    with torch.no_grad():
        found = network(**batch.inputs, labels=batch.targets)
    valid = valid_positions(batch.targets)
    assert 0 < valid.sum() < valid.numel()
    own = cross_entropy(found.logits[:, :-1][valid], shifted_targets(batch.targets)[valid])
    torch.testing.assert_close(own, found.loss)
