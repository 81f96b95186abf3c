"""Vectors of several processes are put together in the order of the texts."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from coterie.tasks.retrieval.data.tokens import TokenTable
from coterie.tasks.retrieval.evaluation import DocumentSource, encoded
from coterie.tasks.retrieval.tower import Tower

TEXTS = ["the parser", "a queue of the socket and a window", "thread", "the matrix returns", "how to join"]


class Place:
    """One process of several; what the others have encoded is told it."""

    device = torch.device("cpu")
    autocast = staticmethod(contextlib.nullcontext)

    def __init__(self, index, processes, others=()):
        self.process_index, self.num_processes, self.others, self.own = index, processes, others, None

    def gather(self, vectors):
        self.own = vectors
        parts = [each.own for each in self.others]
        return torch.cat([*parts[: self.process_index], vectors, *parts[self.process_index :]])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_encode_shares_and_each_has_all(processes, tiny_encoder):
    encoder = tiny_encoder()
    tokens, tower = TokenTable(TEXTS, encoder, "document"), Tower(encoder).eval()
    numbers = np.array([4, 0, 2, 1, 3])
    expected = torch.from_numpy(encoder.encode(TEXTS))[numbers]
    places = [Place(index, processes) for index in range(1, processes)]
    for each in places:
        with contextlib.suppress(RuntimeError):  # it does not know the others yet
            encoded(tower, tokens, numbers, each)
    first = Place(0, processes, places)
    torch.testing.assert_close(encoded(tower, tokens, numbers, first), expected, atol=1e-5, rtol=1e-4)
    assert len(first.own) == -(-len(TEXTS) // processes)


def test_chunks_cover_all_documents(tiny_encoder, monkeypatch):
    from coterie.tasks.retrieval import evaluation

    monkeypatch.setattr(evaluation, "CHUNK", 2)
    encoder = tiny_encoder()
    whole = torch.from_numpy(encoder.encode(TEXTS))
    accelerator = Accelerator(cpu=True)
    for source in (DocumentSource(TokenTable(TEXTS, encoder, "document"), None), DocumentSource(None, whole.numpy())):
        chunks = list(source.chunks(Tower(encoder).eval(), accelerator))
        assert [first for first, _ in chunks] == [0, 2, 4]
        torch.testing.assert_close(torch.cat([vectors for _, vectors in chunks]), whole, atol=1e-5, rtol=1e-4)


def test_every_trained_weight_of_an_encoder_has_a_gradient(tiny_encoder):
    """Several processes wait for the gradient of each; the pooler, which no vector reads, has none."""
    tower = Tower(tiny_encoder())
    tower(TokenTable(TEXTS, tower.encoder, "query").batch(range(2), torch.device("cpu"))).sum().backward()
    assert {name for name, each in tower.named_parameters() if each.requires_grad} == {
        name for name, each in tower.named_parameters() if each.grad is not None
    }
    assert all("pooler" in name for name, each in tower.named_parameters() if not each.requires_grad)
    assert {name for name, _ in tower.named_parameters() if "pooler" in name}
