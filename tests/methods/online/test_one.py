from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coterie.errors import CoterieError
from coterie.methods.online.one import ONE
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup


def gate_weights(method, images) -> np.ndarray:
    """The gate once more, by hand, with BatchNorm in eval mode."""
    with torch.no_grad():
        maps = method.group.trunk(images).double().numpy()
    weight, bias = (value.detach().double().numpy() for value in (method.gate.score.weight, method.gate.score.bias))
    norm = method.gate.norm
    rows = []
    for sample in maps:
        scores = weight @ sample.mean((1, 2)) + bias
        scores = (scores - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
        scores = np.maximum(scores * norm.weight.detach().numpy() + norm.bias.detach().numpy(), 0)
        rows.append(np.exp(scores) / np.exp(scores).sum())
    return np.array(rows)


def test_losses_against_a_slow_reference(make_group, batch, slow, said):
    method = ONE(make_group(3)).eval()
    method.gate.norm.running_mean.uniform_(-0.2, 0.2)
    z, targets = said(method), batch[1].tolist()
    weights = gate_weights(method, batch[0])
    ensemble = np.array([sum(weights[b, i] * z[i, b] for i in range(3)) for b in range(len(targets))])
    losses = method(*batch, Progress(epoch=20, epochs=300))
    ramp = math.exp(-5 * (1 - 20 / 80) ** 2)
    assert losses["label"].item() == pytest.approx(slow.labels(z, targets), rel=1e-5)
    assert losses["ensemble_label"].item() == pytest.approx(slow.cross_entropy(ensemble, targets), rel=1e-4)
    expected = ramp * sum(slow.divergence(ensemble, z[i], 3.0) for i in range(3))
    assert losses["distillation"].item() == pytest.approx(expected, rel=1e-3)
    predictions = method.predict(batch[0])
    np.testing.assert_allclose(predictions.ensemble.detach(), ensemble, atol=1e-5)
    np.testing.assert_allclose(predictions.statistics["attention"].detach(), weights, atol=1e-6)


def test_a_uniform_gate_is_the_mean_of_logits(make_group, batch):
    method = ONE(make_group(4)).eval()
    torch.nn.init.zeros_(method.gate.score.weight)
    torch.nn.init.zeros_(method.gate.score.bias)
    predictions = method.predict(batch[0])
    torch.testing.assert_close(predictions.ensemble, predictions.logits.mean(0))
    torch.testing.assert_close(predictions.statistics["attention_entropy"], torch.ones(6))


def test_what_trains_the_gate(make_group, batch, reaches):
    losses = (method := ONE(make_group(3)))(*batch)
    assert reaches(method, losses["ensemble_label"], "gate")
    assert reaches(method, losses["ensemble_label"], "group.branches.0")
    assert not reaches(method, losses["distillation"], "gate")
    losses = (method := ONE(make_group(3), detach_target=False))(*batch)
    assert reaches(method, losses["distillation"], "gate")


def test_peers_have_no_trunk_for_the_gate(make_group):
    peers = StudentGroup(None, [make_group(1).branches[0] for _ in range(2)], example=torch.zeros(2, 5, 6, 6))
    with pytest.raises(CoterieError, match=r"set network\.at"):
        ONE(peers)


def test_equal_branches_have_nothing_to_learn_from_their_ensemble(make_group, batch):
    group = make_group(3)
    for branch in (1, 2):
        group.branches[branch].load_state_dict(group.branches[0].state_dict())
    method = ONE(group)
    assert method(*batch)["distillation"].item() == pytest.approx(0.0, abs=1e-5)


def test_the_branches_learn_from_the_ensemble_as_a_constant(make_group, batch, logit_gradient):
    method = ONE(make_group(3)).eval()
    z, found = logit_gradient(method, *batch, "distillation")
    weights = torch.from_numpy(gate_weights(method, batch[0])).float()
    q = (sum(weights[:, i, None] * z[i] for i in range(3)) / 3).softmax(-1)
    expected = 3 * ((z / 3).softmax(-1) - q) / len(batch[1])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
