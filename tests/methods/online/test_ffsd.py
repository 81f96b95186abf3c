from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coterie.errors import CoterieError
from coterie.methods.online.ffsd import FFSD
from coterie.methods.progress import Progress


def attention(feature_map: torch.Tensor) -> np.ndarray:
    energy = (feature_map.double().numpy() ** 2).mean(1).reshape(len(feature_map), -1)
    return energy / np.linalg.norm(energy, axis=1, keepdims=True)


def shifted(row: np.ndarray) -> np.ndarray:
    threshold = np.sort(row)[max(1, len(row) // 3) - 1]
    return np.where(row > threshold, np.linalg.norm(row) - row, row)


def test_losses_against_a_slow_reference(make_group, batch, slow, said):
    method = FFSD(make_group(4), diversity_weight=0.5).eval()
    with torch.no_grad():
        maps = method.group(batch[0]).feature_maps
        logits, fused_map = method.fusion(maps[:3])
    fused, z, targets = logits.double().numpy(), said(method), batch[1].tolist()
    losses = method(*batch, Progress(epoch=2, epochs=300))
    mutual = sum(slow.divergence(z[j], z[i], 2.0) for i in range(3) for j in range(3) if i != j) / 2
    distillation = mutual + slow.divergence(z[:3].mean(0), fused, 2.0) + slow.divergence(fused, z[3], 2.0)
    ramp = math.exp(-5 * (1 - 2 / 5) ** 2)
    shift = sum(
        np.mean((attention(maps[i]) - np.array([shifted(row) for row in attention(maps[i - 1])])) ** 2) for i in (1, 2)
    )
    guidance = np.mean((attention(maps[3]) - attention(fused_map)) ** 2)
    assert losses["label"].item() == pytest.approx(slow.labels(z, targets), rel=1e-5)
    assert losses["ensemble_label"].item() == pytest.approx(slow.cross_entropy(fused, targets), rel=1e-4)
    assert losses["distillation"].item() == pytest.approx(distillation, rel=1e-3)
    assert losses["diversity"].item() == pytest.approx(0.5 * ramp * shift, rel=1e-3)
    assert losses["feature"].item() == pytest.approx(10 * ramp * guidance, rel=1e-3)


def test_who_learns_from_what(make_group, batch, reaches):
    method = FFSD(make_group(3), diversity_weight=1.0)
    losses = method(*batch)
    assert reaches(method, losses["ensemble_label"], "fusion")
    assert not reaches(method, losses["ensemble_label"], "group")  # its features are constants
    assert reaches(method, losses["feature"], "group.branches.2")
    assert not reaches(method, losses["feature"], "group.branches.0")
    assert not reaches(method, losses["feature"], "fusion")
    assert reaches(method, losses["diversity"], "group.branches.1")
    assert not reaches(method, losses["diversity"], "group.branches.0")


def test_the_leader_is_deployed_and_two_students_are_too_few(make_group):
    assert FFSD(make_group(3)).deployed_student == 2
    with pytest.raises(CoterieError, match=r"network\.branches=3"):
        FFSD(make_group(2))


def test_each_part_learns_from_its_own_divergence_alone(make_group, batch):
    """Common students from one another, the fused classifier from their mean, the leader from the fused classifier."""
    method = FFSD(make_group(3)).eval()

    def gradients(term):
        parts = [
            method.group.branches[0].fc.weight,
            method.group.branches[2].fc.weight,
            method.fusion.classifier.weight,
        ]
        return torch.autograd.grad(term, parts, retain_graph=True, allow_unused=True)

    def tempered(logits):
        return (logits / 2).log_softmax(-1)

    def divergence(target, logits):
        wanted = tempered(target.detach())
        return 4 * (wanted.exp() * (wanted - tempered(logits))).sum(-1).mean()

    output = method.group(batch[0])
    first, second, leader = output.logits
    fused, _ = method.fusion([each.detach() for each in output.feature_maps[:2]])
    expected = [
        gradients(divergence(first, second) + divergence(second, first))[0],
        gradients(divergence(fused, leader))[1],
        gradients(divergence(torch.stack([first, second]).mean(0), fused))[2],
    ]
    for found, wanted in zip(gradients(method(*batch)["distillation"]), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-7, rtol=1e-3)


def test_nobody_but_the_leader_and_the_fusion_hears_of_the_fusion(make_group, batch, reaches):
    method = FFSD(make_group(3))
    losses = method(*batch)
    assert not reaches(method, losses["label"], "fusion")
    assert not reaches(method, losses["diversity"], "fusion")
    assert not reaches(method, losses["diversity"], "group.branches.2")
    assert not reaches(method, losses["ensemble_label"], "group.branches.2")


def test_the_fusion_has_a_weight_decay_of_its_own(make_group):
    groups = FFSD(make_group(3)).parameter_groups()
    assert "weight_decay" not in groups[0]
    assert groups[1]["weight_decay"] == 1e-5


def test_maps_of_other_sizes_are_brought_to_the_positions_of_the_one_that_learns(make_group, batch):
    """A leader with maps of a quarter of the size."""
    group = make_group(3)
    leader = group.branches[2]
    leader.conv.stride = (2, 2)
    group.feature_shapes = (*group.feature_shapes[:2], (8, 3, 3))
    method = FFSD(group).eval()
    with torch.no_grad():
        maps = method.group(batch[0]).feature_maps
        _, fused = method.fusion(maps[:2])
    assert maps[2].shape[2:] == (3, 3)
    smaller = fused.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))
    expected = 10 * np.mean((attention(maps[2]) - attention(smaller)) ** 2)
    assert method(*batch)["feature"].item() == pytest.approx(expected, rel=1e-3)
