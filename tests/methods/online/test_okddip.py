from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coterie.errors import CoterieError
from coterie.methods.online.okddip import OKDDip
from coterie.methods.progress import Progress


def test_losses_against_a_slow_reference(make_group, batch, slow, said):
    method = OKDDip(make_group(4))
    torch.nn.init.normal_(method.queries[0].weight)
    torch.nn.init.normal_(method.keys[0].weight)
    with torch.no_grad():
        features = [h.double().numpy() for h in method.group(batch[0]).embeddings[:3]]
    w_q, w_k = (layer.weight.detach().double().numpy() for layer in (method.queries[0], method.keys[0]))
    z, targets = said(method), batch[1].tolist()
    wanted = np.zeros_like(z[:3])
    for a in range(3):
        for s in range(len(targets)):
            energies = [(w_q @ features[a][s]) @ (w_k @ features[b][s]) for b in range(3)]
            shares = np.exp(energies) / np.exp(energies).sum()
            wanted[a, s] = sum(share * z[b, s] for b, share in enumerate(shares))
    expected = sum(slow.divergence(wanted[a], z[a], 3.0) for a in range(3)) + slow.divergence(z[:3].mean(0), z[3], 3.0)
    losses = method(*batch, Progress(epoch=40, epochs=300))
    assert losses["label"].item() == pytest.approx(slow.labels(z, targets), rel=1e-5)
    assert losses["distillation"].item() == pytest.approx(math.exp(-5 * 0.25) * expected, rel=1e-3)
    predictions = method.predict(batch[0])
    np.testing.assert_allclose(predictions.ensemble.detach(), z[:3].mean(0), atol=1e-5)
    np.testing.assert_allclose(predictions.deployed.detach(), z[3], atol=1e-6)


def test_equal_attention_mixes_equally(make_group, batch, slow, said):
    method = OKDDip(make_group(3), leader=False)
    torch.nn.init.zeros_(method.queries[0].weight)
    z = said(method)
    expected = sum(slow.divergence(z.mean(0), z[a], 3.0) for a in range(3))
    assert method(*batch)["distillation"].item() == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(method.predict(batch[0]).statistics["attention_entropy"], torch.ones(6))


def test_the_gradient_through_the_targets_trains_the_attention(make_group, batch, reaches):
    method = OKDDip(make_group(4))
    term = method(*batch)["distillation"]
    assert reaches(method, term, "queries")
    assert reaches(method, term, "keys")
    method = OKDDip(make_group(4), detach_target=True)
    assert not any(parameter.requires_grad for parameter in [*method.queries.parameters(), *method.keys.parameters()])


def test_peers_of_different_widths_have_projections_of_their_own(make_group, batch):
    method = OKDDip(make_group(4, widths=[8, 12, 16, 8]))
    assert len(method.queries) == 3
    sum(method(*batch).values()).backward()


@pytest.mark.parametrize(("students", "leader"), [(2, True), (1, False)])
def test_one_peer_is_refused(make_group, students, leader):
    with pytest.raises(CoterieError, match="at least 2 peers"):
        OKDDip(make_group(students), leader=leader)


def test_attention_and_targets_are_mixed_in_float32_under_autocast(make_group, batch):
    """Only the projections are layers; their products and the mixture of logits stay float32."""
    method = OKDDip(make_group(4))
    output = method.group(batch[0])
    method.group.forward = lambda inputs: output._replace(logits=10 * output.logits)
    torch.nn.init.zeros_(method.queries[0].weight)
    expected = method(*batch)["distillation"]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(method(*batch)["distillation"], expected, atol=0, rtol=0)


@pytest.mark.parametrize("leader", [True, False])
def test_equal_peers_have_nothing_to_say_whatever_their_attention(make_group, batch, leader):
    group = make_group(4)
    for number in (1, 2, 3):
        group.branches[number].load_state_dict(group.branches[0].state_dict())
    method = OKDDip(group, leader=leader)
    torch.nn.init.normal_(method.queries[0].weight)
    assert method(*batch)["distillation"].item() == pytest.approx(0.0, abs=1e-5)


def test_constant_targets_are_an_option_and_the_leaders_is_seen_by_the_peers_otherwise(
    make_group, batch, logit_gradient
):
    fixed, free = OKDDip(make_group(4), detach_target=True), OKDDip(make_group(4))
    free.load_state_dict(fixed.state_dict())
    z, constant = logit_gradient(fixed, *batch, "distillation")
    with torch.no_grad():
        attention = fixed.attention(fixed.group(batch[0]))
    targets = torch.einsum("sab,bsk->ask", attention, z[:3])
    q = (torch.cat([targets, z[:3].mean(0, keepdim=True)]) / 3).softmax(-1)
    expected = 3 * ((z / 3).softmax(-1) - q) / len(batch[1])
    torch.testing.assert_close(constant, expected, atol=1e-7, rtol=1e-4)
    _, found = logit_gradient(free, *batch, "distillation")
    torch.testing.assert_close(found[3], expected[3], atol=1e-7, rtol=1e-4)  # nobody learns from the leader
    assert (found[:3] - expected[:3]).abs().max() > 1e-2 * expected.abs().max()


def test_a_group_that_had_a_leader_serves_peers_alone(make_group, batch, slow, said):
    group = make_group(3)
    OKDDip(group)
    method = OKDDip(group, leader=False)
    torch.nn.init.zeros_(method.queries[0].weight)
    z = said(method)
    expected = sum(slow.divergence(z.mean(0), z[a], 3.0) for a in range(3))
    assert method(*batch)["distillation"].item() == pytest.approx(expected, rel=1e-3)


def test_attention_is_the_softmax_of_each_peers_query_with_all_keys(make_group, batch):
    """On embeddings that differ more than those of untrained peers do."""
    method = OKDDip(make_group(4), reduction=2)
    embeddings = torch.randn(3, 6, 8)
    output = method.group(batch[0])._replace(embeddings=(*embeddings, torch.randn(6, 8)))
    w_q, w_k = (layer.weight.detach().numpy() for layer in (method.queries[0], method.keys[0]))
    assert w_q.shape == w_k.shape == (4, 8)
    found = method.attention(output).detach().numpy()
    for s in range(6):
        for a in range(3):
            energies = [float((w_q @ embeddings[a, s].numpy()) @ (w_k @ embeddings[b, s].numpy())) for b in range(3)]
            np.testing.assert_allclose(found[s, a], np.exp(energies) / np.exp(energies).sum(), rtol=1e-4)
