from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from coterie.errors import CoterieError
from coterie.losses import LabelLoss
from coterie.losses.diversity import FORMS
from coterie.methods.online.okdmde import OKDMDE
from coterie.methods.progress import Progress


def train_attention(method):
    """Give the zero-initialised layers values, so that the attention is not uniform."""
    torch.manual_seed(3)
    for name, parameter in method.named_parameters():
        if not name.startswith("group."):
            parameter.data.normal_()
    return method


def total(losses):
    return sum(losses.values())


def gradients(method, terms, part):
    """Sum of absolute gradients of the terms with respect to the parameters whose name starts with ``part``."""
    named = [p for name, p in method.named_parameters() if name.startswith(part) and p.requires_grad]
    found = torch.autograd.grad(sum(terms), named, retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in found if g is not None)


def test_losses_equal_a_slow_reference(make_group, batch):
    images, targets = batch
    method = train_attention(OKDMDE(make_group(3), diversity="squared", diversity_weight=0.01)).eval()
    losses = method(images, targets, Progress(epoch=8, epochs=300))
    with torch.no_grad():
        output = method.group(images)
        scores = method.fusion(list(output.feature_maps))
    label = ensemble_label = distillation = 0.0
    for b in range(len(targets)):
        exponentials = [math.exp(s) for s in scores[b].tolist()]
        weights = [e / sum(exponentials) for e in exponentials]
        z = output.logits[:, b]
        z_e = sum(w * z[i] for i, w in enumerate(weights))
        ensemble_label -= float(F.log_softmax(z_e, -1)[targets[b]]) / len(targets)
        q = F.softmax(z_e / 3, -1)
        for i in range(3):
            label -= float(F.log_softmax(z[i], -1)[targets[b]]) / len(targets)
            p = F.softmax(z[i] / 3, -1)
            distillation += 9 * float((q * (q.log() - p.log())).sum()) / len(targets)
    ramp = math.exp(-5 * (1 - 8 / 80) ** 2)
    w = [head.fc.weight for head in method.group.branches]
    cd = sum(float((w[i].T @ w[j]).square().sum()) for i, j in [(0, 1), (0, 2), (1, 2)]) / 3
    assert losses["label"].item() == pytest.approx(label, rel=1e-4)
    assert losses["ensemble_label"].item() == pytest.approx(ensemble_label, rel=1e-4)
    assert losses["distillation"].item() == pytest.approx(ramp * distillation, rel=1e-3)
    assert losses["diversity"].item() == pytest.approx(0.01 * cd, rel=1e-4)


@pytest.mark.parametrize("attention", ["sample", "class", "pairwise"])
def test_attention_sums_to_one_and_starts_uniform(make_group, batch, attention):
    method = OKDMDE(make_group(3), attention=attention).eval()
    output = method.group(batch[0])
    torch.testing.assert_close(method.branch_weights(output), torch.full_like(method.branch_weights(output), 1 / 3))
    statistics = method.predict(batch[0]).statistics
    torch.testing.assert_close(statistics["attention_entropy"], torch.ones(6))
    weights = train_attention(method).branch_weights(output)
    torch.testing.assert_close(weights.sum(0), torch.ones_like(weights[0]))
    assert not torch.allclose(weights, torch.full_like(weights, 1 / 3), atol=1e-3)
    assert method.predict(batch[0]).statistics["attention"].shape == (6, 3)


def test_uniform_attention_is_the_mean_of_logits(make_group, batch):
    method = OKDMDE(make_group(4)).eval()
    predictions = method.predict(batch[0])
    torch.testing.assert_close(predictions.ensemble, predictions.logits.mean(0))


def test_class_attention_ignores_a_constant_added_to_one_branch(make_group, batch):
    method = train_attention(OKDMDE(make_group(3), attention="class")).eval()
    before = method.predict(batch[0]).ensemble
    method.group.branches[1].fc.bias.data += 7.0
    torch.testing.assert_close(method.predict(batch[0]).ensemble, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sample", "class", "pairwise"])
def test_what_receives_gradient(make_group, batch, attention):
    method = train_attention(
        OKDMDE(make_group(3), ensemble_gradient="all", attention=attention, diversity="squared", diversity_weight=1.0)
    )
    losses = method(*batch)
    assert gradients(method, [losses["distillation"]], "fusion") == 0  # the target is a constant
    assert gradients(method, [losses["distillation"]], "group.branches.2") > 0
    assert gradients(method, [losses["ensemble_label"]], "fusion") > 0
    assert gradients(method, [losses["ensemble_label"]], "group.trunk") > 0
    for branch in range(3):
        assert gradients(method, [losses["diversity"]], f"group.branches.{branch}.fc") > 0


def test_target_with_gradient_reaches_the_fusion(make_group, batch):
    method = train_attention(OKDMDE(make_group(3), detach_target=False))
    assert gradients(method, [method(*batch)["distillation"]], "fusion") > 0


@pytest.mark.parametrize("attention", ["sample", "class", "pairwise"])
def test_gate_gradient_trains_only_the_attention(make_group, batch, attention):
    method = train_attention(OKDMDE(make_group(3), attention=attention, ensemble_gradient="gate"))
    term = method(*batch)["ensemble_label"]
    assert gradients(method, [term], "group.") == 0
    assert gradients(method, [term], "fusion") > 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention": "class"},
        {"attention": "pairwise"},
        {"fusion": "depthwise"},
        {"fusion": "sum"},
        {"leader": True},
        {"ensemble_label": False},
        {"ensemble_label": False, "detach_target": False},
        {"ensemble_gradient": "gate"},
    ],
)
def test_every_trained_parameter_receives_gradient_and_no_frozen_one(make_group, batch, options):
    method = train_attention(OKDMDE(make_group(3), **options))
    total(method(*batch)).backward()
    for name, parameter in method.named_parameters():
        has = parameter.grad is not None and float(parameter.grad.abs().sum()) > 0
        # A bias before a batch normalisation or a dead unit may have none by chance; whole modules may not.
        if parameter.requires_grad and name.endswith("weight"):
            assert has, name
        if not parameter.requires_grad:
            assert parameter.grad is None, name


def test_one_student_learns_from_the_labels_alone(make_group, batch):
    method = OKDMDE(make_group(1), diversity_weight=1.0)
    losses = method(*batch)
    expected = F.cross_entropy(method.group(batch[0]).logits[0], batch[1])
    torch.testing.assert_close(losses["label"], expected)
    torch.testing.assert_close(losses["ensemble_label"], expected)
    assert losses["distillation"].item() == pytest.approx(0, abs=1e-6)
    assert losses["diversity"].item() == 0


def test_order_of_the_branches_does_not_matter(make_group, batch):
    method = OKDMDE(make_group(3), diversity="gram", diversity_weight=1.0).eval()
    before = method(*batch)
    branches = list(method.group.branches)
    method.group.branches = torch.nn.ModuleList([branches[2], branches[0], branches[1]])
    after = method(*batch)
    for name in before:
        torch.testing.assert_close(after[name], before[name])


def test_the_leader_is_outside_the_ensemble_and_deployed(make_group, batch):
    group = make_group(4)
    method = train_attention(OKDMDE(group, leader=True))
    assert group.leader == method.deployed_student == 3
    before = method.eval().predict(batch[0]).ensemble
    group.branches[3].fc.weight.data += 1.0
    torch.testing.assert_close(method.predict(batch[0]).ensemble, before)
    losses = method.train()(*batch)
    assert gradients(method, [losses["distillation"]], "group.branches.3") > 0
    assert gradients(method, [losses["ensemble_label"]], "group.branches.3") == 0


def test_the_published_diversity_term_is_inert(make_group, batch):
    """specs: its gradient is far below weight decay's; whoever relies on it should know."""
    method = OKDMDE(make_group(4), diversity="frobenius", diversity_weight=5e-8)
    weight = method.group.branches[0].fc.weight
    (gradient,) = torch.autograd.grad(method(*batch)["diversity"], weight)
    assert 0 < gradient.norm() < 1e-2 * (5e-4 * weight).norm()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_in_low_precision(make_group, batch, form, dtype):
    method = train_attention(OKDMDE(make_group(3), diversity=form, diversity_weight=1.0))
    output = method.group(batch[0])
    extreme = output._replace(logits=(output.logits * 1e4).clamp(-6e4, 6e4).to(dtype))
    method.group.forward = lambda inputs: extreme
    losses = method(*batch)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses


def test_soft_targets_and_other_label_losses(make_group, batch):
    images, targets = batch
    soft = 0.7 * F.one_hot(targets, 4).float() + 0.3 / 4
    for kind in ("cross_entropy", "binary_cross_entropy"):
        method = OKDMDE(make_group(2), label_loss=LabelLoss(kind), diversity="coincident_error", diversity_weight=1.0)
        assert torch.isfinite(total(method(images, soft)))


def test_a_view_for_each_student(make_group, batch):
    images, targets = batch
    method = OKDMDE(make_group(2)).eval()
    together = method([images, images], targets)
    for name, value in method(images, targets).items():
        torch.testing.assert_close(together[name], value)
    other = method([images, images.flip(-1)], targets)
    assert other["label"].item() != together["label"].item()


def test_unequal_branches(make_group, batch):
    group = make_group(widths=[8, 12])
    for fusion in ("1x1", "depthwise", "sum"):
        assert torch.isfinite(total(OKDMDE(group, fusion=fusion)(*batch)))
    with pytest.raises(CoterieError, match="use 'gram'"):
        OKDMDE(group, diversity="cosine")


def test_a_leader_needs_followers(make_group):
    with pytest.raises(CoterieError, match="at least 2 students"):
        OKDMDE(make_group(1), leader=True)
