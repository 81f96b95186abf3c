"""Which parts of a network are shared out, and what cannot be. Whole trainings are in tests/tasks/language/test_sharding.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from coterie.errors import CoterieError
from coterie.methods.method import Method
from coterie.training.sharding import Shards, blocks_of

CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, inputs):
        return self.parts[1](self.parts[0](inputs).relu())


class Network(nn.Module):
    """Two blocks between layers of other kinds; the last layer's weight is the first one's."""

    def __init__(self, blocks=2):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList(Block() for _ in range(blocks))
        self.last = nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, inputs):
        values = self.first(inputs)
        for layer in self.layers:
            values = layer(values)
        return self.last(values)


class Alone(Method):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs, targets, progress=None):
        return {"label": (self.network(inputs) - targets).square().mean()}


@pytest.fixture
def one_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_blocks_are_the_outermost_lists_of_one_class():
    network = Network()
    assert blocks_of(network) == list(network.layers)
    assert blocks_of(nn.Linear(2, 2)) == []
    mixed = nn.Module()
    mixed.several = nn.ModuleList([nn.Linear(2, 2), nn.ReLU(), Network(3)])
    assert blocks_of(mixed) == list(mixed.several[2].layers)


def test_a_block_that_stands_twice_is_one():
    network = Network()
    network.layers.append(network.layers[0])
    assert blocks_of(network) == list(network.layers)[:2]


def test_steps_are_those_of_a_whole_network_and_it_comes_back_whole(one_process):
    torch.manual_seed(0)
    whole, shared = Alone(Network()), Alone(Network())
    shared.load_state_dict(whole.state_dict())
    shards = Shards(shared, [shared.network], CPU)
    assert all(isinstance(each, DTensor) for each in shared.parameters())
    inputs, targets = torch.randn(3, 4), torch.randn(3, 4)
    for method in (whole, shared):
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        for _ in range(3):
            method(inputs, targets)["label"].backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        shared(inputs, targets)  # an evaluation leaves the root whole
    found = shards.whole(shared, holds=True)
    assert found.network.last.weight is found.network.first.weight
    assert not any(isinstance(each, DTensor) for each in found.parameters())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    assert shards.whole(shared, holds=False) is None


def with_statistics():
    network = Network()
    network.layers[0].norm = nn.BatchNorm1d(4)
    return Alone(network)


def with_a_module_of_its_own():
    method = Alone(Network())
    method.gate = nn.Linear(2, 2)
    return method


def with_blocks_that_share():
    network = Network()
    network.layers[1].parts[0].weight = network.layers[0].parts[0].weight
    return Alone(network)


def with_a_block_that_shares_with_the_rest():
    network = Network()
    network.layers[1].parts[0].weight = network.first.weight
    return Alone(network)


def with_a_number():
    network = Network()
    network.scale = nn.Parameter(torch.tensor(1.0))
    return Alone(network)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (with_statistics, "Network keeps running statistics"),
        (with_a_module_of_its_own, "Alone holds 'gate.weight' besides"),
        (with_blocks_that_share, "blocks of Network share parameters"),
        (with_a_block_that_shares_with_the_rest, "blocks of Network share parameters"),
        (with_a_number, "Network has a parameter without dimensions"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(one_process, build, said):
    method = build()
    with pytest.raises(CoterieError, match=said):
        Shards(method, [method.network], CPU)


def test_a_task_whose_networks_are_not_shared_out_is_refused(one_process):
    with pytest.raises(CoterieError, match="is for language models, whose networks are made of blocks"):
        Shards(Alone(Network()), [], CPU)
