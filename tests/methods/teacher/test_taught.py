"""The methods with teachers: identities that must hold, who learns from what, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import timm
import torch
import torch.nn.functional as F

from coterie.errors import CoterieError
from coterie.losses import DIVERGENCES, kl_divergence, ranking_distillation, ranking_loss
from coterie.losses.decoupled import others_divergence, target_divergence
from coterie.losses.relation import pair_distances, triplet_angles
from coterie.losses.target_enhanced import target_enhanced_loss, target_enhanced_weights
from coterie.methods import TABLE, create_method
from coterie.methods.progress import Progress
from coterie.methods.teacher.guide import Guide
from coterie.methods.teacher.stkd import symmetric_beta
from coterie.networks.branching import branch
from coterie.networks.papers.registration import register
from coterie.networks.papers.tiny import tiny_cifar
from coterie.networks.teacher import Teacher, Teachers

register()
EXAMPLE = torch.zeros(2, 3, 16, 16)
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])


def make(name: str, teachers: int = 1, **options):
    torch.manual_seed(1)
    taught = Teachers([Teacher(tiny_cifar(num_classes=5), EXAMPLE) for _ in range(teachers)])
    group = branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE, taps="stages")
    return create_method(name, group, teachers=taught, **options)


def sharpened(method):
    """Teachers, and students, that are surer and differ more than untrained networks do, so that no two readings of a formula agree."""
    for number, network in enumerate([*(each.body for each in method.teachers.each()), *method.group.branches]):
        widen(network, number)
    return method


def widen(network, number):
    with torch.no_grad():
        network.fc.weight.mul_(6 + 3 * number)
        network.fc.bias.copy_(torch.linspace(-1, 1, 5).roll(number))


@pytest.fixture
def images():
    return torch.randn(8, 3, 16, 16)


def logits_of(method, images):
    student = method.group(images).logits[0].detach()
    teacher = torch.stack([output.logits for output in method.teachers(images)])
    return student, teacher


def test_kd_by_hand(images):
    method = make("kd", teachers=2, temperature=3.0).eval()
    student, teacher = logits_of(method, images)
    mean = teacher.softmax(-1).mean(0)
    losses = method(images, TARGETS)
    assert losses["label"].item() == pytest.approx(0.1 * F.cross_entropy(student, TARGETS).item(), rel=1e-5)
    expected = 0.9 * kl_divergence(student, mean.log(), 3.0)
    torch.testing.assert_close(losses["distillation"], expected)
    mixed = make("kd", teachers=2, combination="mean_logit").eval()
    student, teacher = logits_of(mixed, images)
    torch.testing.assert_close(
        mixed(images, TARGETS)["distillation"], 0.9 * kl_divergence(student, teacher.mean(0), 4.0)
    )


@pytest.mark.fast_for("forward_kl", "jsd")
@pytest.mark.parametrize("name", DIVERGENCES)
def test_kd_with_another_divergence(images, name):
    method = sharpened(make("kd", divergence=name, distillation_weight=0.5)).eval()
    student, _ = logits_of(method, images)
    target = method.target(images, TARGETS, {})
    term = method(images, TARGETS)["distillation"]
    assert torch.equal(term, 0.5 * DIVERGENCES[name](student, target, 4.0))
    if name == "forward_kl":
        assert torch.equal(term, 0.5 * kl_divergence(student, target, 4.0))


@pytest.mark.fast_for("forward_kl", "jsd")
@pytest.mark.parametrize("name", DIVERGENCES)
def test_rlkd_is_the_papers_sum_on_two_teachers_mean(images, name):
    method = sharpened(make("rlkd", teachers=2, k=3, divergence=name)).eval()
    student, teachers = logits_of(method, images)
    mean = teachers.softmax(-1).mean(0).log()
    losses = method(images, TARGETS)
    assert losses.pop("label").item() == 0.0
    torch.testing.assert_close(losses["ranking"], 2 * ranking_loss(student, mean, 3).mean())
    torch.testing.assert_close(losses["distillation"], DIVERGENCES[name](student, mean))
    expected = ranking_distillation(student, mean, k=3, divergence=name)
    torch.testing.assert_close(sum(losses.values()), expected)


def test_rlkds_settings_reach_its_loss(images):
    options = {"k": 2, "dynamic_weight": True, "deduplicate": False, "strength": 0.5, "temperature": 2.0}
    method = sharpened(make("rlkd", ranking_weight=1.5, label_weight=0.3, **options)).eval()
    student, (teacher,) = logits_of(method, images)
    losses = method(images, TARGETS)
    torch.testing.assert_close(losses.pop("label"), 0.3 * F.cross_entropy(student, TARGETS))
    expected = ranking_distillation(student, teacher, ranking_weight=1.5, **options)
    torch.testing.assert_close(sum(losses.values()), expected)
    alone = sharpened(make("rlkd", divergence="none", measure="pearson")).eval()
    student, (teacher,) = logits_of(alone, images)
    assert set(alone(images, TARGETS)) == {"label", "ranking"}
    expected = 2 * ranking_loss(student, teacher, 5, measure="pearson").mean()
    torch.testing.assert_close(alone(images, TARGETS)["ranking"], expected)


def test_rlkds_student_that_is_the_teacher_has_nothing_to_learn(images):
    method = sharpened(make("rlkd")).eval()
    method.group.branches[0].load_state_dict(method.teachers[0].body.state_dict())
    losses = method(images, TARGETS)
    assert losses["ranking"].item() == pytest.approx(0.0, abs=1e-5)
    assert losses["distillation"].item() == pytest.approx(0.0, abs=1e-6)


def test_rlkds_range_is_at_most_the_classes():
    assert make("rlkd").k == 5
    assert make("rlkd", k=2).k == 2
    with pytest.raises(CoterieError, match=r"method.k=6: there are 5 classes; expected 2 to 5"):
        make("rlkd", k=6)
    with pytest.raises(CoterieError, match=r"method.k=1: input should be greater than or equal to 2"):
        make("rlkd", k=1)


@pytest.mark.slow
def test_learned_weights_turn_to_the_better_teacher(images):
    method = make("kd", teachers=2, combination="learned")
    with torch.no_grad():
        method.teachers[0].body.fc.weight.zero_()
        method.teachers[0].body.fc.bias.zero_()
    good = method.teachers[1](images).logits.argmax(1)  # labels that the second teacher knows
    optimizer = torch.optim.SGD([method.teacher_scores], lr=5.0)
    for _ in range(50):
        optimizer.zero_grad()
        method(images, good)["teacher_weights"].backward()
        optimizer.step()
    assert method.teacher_scores.softmax(0)[1] > 0.7


def test_kd_is_the_sum_of_dkds_halves():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    targets = torch.arange(6) % 5
    for sample in range(6):
        one = (student[sample : sample + 1], teacher[sample : sample + 1], targets[sample : sample + 1])
        doubt = 1 - teacher[sample].softmax(-1)[targets[sample]]
        halves = target_divergence(*one, 1.0) + doubt * others_divergence(*one, 1.0)
        torch.testing.assert_close(kl_divergence(one[0], one[1]), halves, atol=1e-5, rtol=1e-4)


def test_dkds_warm_up_and_refusal(images):
    method = make("dkd", warmup=0.5)
    full = method.eval()(images, TARGETS)["distillation"]
    first = method(images, TARGETS, Progress(epoch=0, epochs=10))["distillation"]
    torch.testing.assert_close(first, full * 0.2)
    with pytest.raises(CoterieError, match="turn them off"):
        method(images, torch.full((8, 5), 0.2))


def test_dist_ignores_a_linear_change_of_the_probabilities(images):
    method = make("dist").eval()
    student, (teacher,) = logits_of(method, images)
    y_s, y_t = (student / 4).softmax(-1).numpy(), (teacher / 4).softmax(-1).numpy()
    between = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(y_s, y_t, strict=True)])
    within = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(y_s.T, y_t.T, strict=True)])
    assert method(images, TARGETS)["distillation"].item() == pytest.approx(2 * 16 * (between + within), rel=1e-3)


def test_rkd_relations_by_hand():
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    distances = torch.tensor([[0.0, 5, 8], [5, 0, 5], [8, 5, 0]])
    torch.testing.assert_close(pair_distances(points), distances / 6, atol=1e-5, rtol=1e-5)
    angle = triplet_angles(points)[0, 1, 2]  # at the origin between (3, 4) and (0, 8)
    assert angle.item() == pytest.approx(0.8)
    turned = points @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) * 3 + 7
    torch.testing.assert_close(pair_distances(turned), pair_distances(points), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(triplet_angles(turned), triplet_angles(points), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["fitnet", "at", "rkd"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn_from_features(images, name):
    method = make(name).eval()
    method.group.branches[0].load_state_dict(method.teachers[0].body.state_dict())
    if name == "fitnet":
        for projector in method.projectors:
            projector.project.weight.data = torch.eye(len(projector.project.weight))[:, :, None, None]
    assert method(images, TARGETS)["feature"].item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("classes", "p", "total", "share"),
    [(10, 0.1, 0.44, 0.35), (10, 0.5, 0.96, 0.88), (10, 0.9, 1.63, 0.99), (1000, 0.1, 0.18, 0.85)],
)
def test_ofas_weights_at_known_points(classes, p, total, share):
    """Values computed for γ = 1.5, with the rest of the mass uniform."""
    probabilities = torch.full((1, classes), (1 - p) / (classes - 1))
    probabilities[0, 3] = p
    weights = target_enhanced_weights(probabilities.log(), torch.tensor([3]), 1.5)
    assert weights.sum().item() == pytest.approx(total, abs=0.006)
    assert (weights[0, 3] / weights.sum()).item() == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize("gamma", [1.1, 1.5, 2.0])
def test_ofas_exponent_raises_the_targets_share_always_and_the_weight_where_the_teacher_is_sure(gamma):
    """A thousand classes; targets of which the teacher is less and less sure."""
    teacher = 3 * torch.randn(6, 1000)
    targets = torch.arange(6)
    sure = torch.tensor([0.99, 0.9, 0.5, 0.1, 0.01, 0.001])
    others = teacher.scatter(1, targets[:, None], float("-inf")).softmax(-1) * (1 - sure)[:, None]
    probabilities = others.scatter(1, targets[:, None], sure[:, None])
    weights = target_enhanced_weights(probabilities.log(), targets, gamma)
    for sample, p in enumerate(sure.tolist()):
        raised = [
            (1 + q) ** gamma - 1 if k == sample else q**gamma for k, q in enumerate(probabilities[sample].tolist())
        ]
        assert weights[sample].tolist() == pytest.approx(raised, rel=1e-3, abs=1e-6)
        assert raised[sample] / sum(raised) > p
    total = weights.sum(-1)
    assert (total[:2] > 1).all()
    assert (total[3:] < 1).all()


def test_ofa_is_a_cross_entropy_with_a_weight_for_every_sample():
    """With W = Σ w_c: the target is w / W, the weight W."""
    teacher, student = 3 * torch.randn(2, 6, 1000)
    weights = target_enhanced_weights(teacher, torch.arange(6), 1.5)
    total = weights.sum(-1)
    each = F.cross_entropy(student / 2, weights / total[:, None], reduction="none")
    torch.testing.assert_close(target_enhanced_loss(student, weights, 2.0), (total * each).mean())


def test_ofa_with_gamma_1_is_a_soft_cross_entropy_and_its_gradient():
    teacher, student = torch.randn(6, 5), torch.randn(6, 5, requires_grad=True)
    targets = torch.arange(6) % 5
    weights = target_enhanced_weights(teacher, targets, 1.0)
    torch.testing.assert_close(weights, teacher.softmax(-1))
    loss = target_enhanced_loss(student, weights)
    entropy = -(weights * weights.log()).sum(-1).mean()
    torch.testing.assert_close(loss, kl_divergence(student, teacher) + entropy)
    enhanced = target_enhanced_weights(teacher, targets, 1.4)
    (gradient,) = torch.autograd.grad(target_enhanced_loss(student, enhanced), student)
    expected = (enhanced.sum(-1, keepdim=True) * student.softmax(-1) - enhanced) / 6
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def taught_cross_entropy(slow, teacher, student, targets, gamma):
    """OFA's formula, sample by sample and class by class."""
    total = 0.0
    for wanted, said, target in zip(teacher.tolist(), student.tolist(), targets.tolist(), strict=True):
        for k, (p, q) in enumerate(zip(slow.softmax(wanted), slow.softmax(said), strict=True)):
            total -= ((1 + p) ** gamma - 1 if k == target else p**gamma) * math.log(q)
    return total / len(targets)


def test_ofa_with_gamma_1_is_kd_without_temperature_and_the_sum_of_its_exits(images, slow):
    """KD in the form of a cross-entropy; three exits count three times, not once."""
    method = sharpened(make("ofa")).eval()
    student, (teacher,) = logits_of(method, images)
    with torch.no_grad():
        taps = method.group(images).taps[0]
        exits = [branch(tap)[0] for branch, tap in zip(method.exits, taps, strict=True)]
    p = teacher.double().softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean().item()
    divergences = [slow.divergence(teacher.numpy(), each.numpy(), 1.0) + entropy for each in (student, *exits)]
    losses = method(images, TARGETS)
    assert losses["distillation"].item() == pytest.approx(divergences[0], rel=1e-4)
    assert losses["exit_distillation"].item() == pytest.approx(sum(divergences[1:]), rel=1e-4)
    total = slow.cross_entropy(student.numpy(), TARGETS.tolist()) + sum(divergences)
    assert sum(losses.values()).item() == pytest.approx(total, rel=1e-4)


def test_every_exit_of_ofa_has_an_exponent_of_its_own_and_the_student_the_last(images, slow):
    gammas = [1.0, 2.0, 3.0, 1.5]
    weights = {"label_weight": 0.5, "distillation_weight": 0.3, "exit_weight": 0.7}
    method = sharpened(make("ofa", gamma=gammas, **weights)).eval()
    student, (teacher,) = logits_of(method, images)
    with torch.no_grad():
        taps = method.group(images).taps[0]
        said = [*(branch(tap)[0] for branch, tap in zip(method.exits, taps, strict=True)), student]
    expected = [taught_cross_entropy(slow, teacher, z, TARGETS, g) for z, g in zip(said, gammas, strict=True)]
    losses = method(images, TARGETS)
    label = slow.cross_entropy(student.numpy(), TARGETS.tolist())
    assert losses["label"].item() == pytest.approx(0.5 * label, rel=1e-4)
    assert losses["distillation"].item() == pytest.approx(0.3 * expected[3], rel=1e-4)
    assert losses["exit_distillation"].item() == pytest.approx(0.7 * sum(expected[:3]), rel=1e-4)


def test_ofa_reads_no_feature_of_the_teacher_and_has_an_exit_a_stage(images):
    method = make("ofa", gamma=[1.0, 1.2, 1.4, 1.1])
    assert len(method.exits) == 3
    assert set(method(images, TARGETS)) == {"label", "distillation", "exit_distillation"}
    with pytest.raises(CoterieError, match="expected one, or 4"):
        make("ofa", gamma=[1.0, 1.2])


def test_ofas_target_power_only():
    teacher, targets = torch.randn(3, 5), torch.tensor([0, 1, 2])
    paper = target_enhanced_weights(teacher, targets, 1.5, nontarget_power=False)
    other = torch.ones(3, 5, dtype=torch.bool)
    other[torch.arange(3), targets] = False
    torch.testing.assert_close(paper[other], teacher.softmax(-1)[other])
    code = target_enhanced_weights(teacher, targets, 1.5)
    torch.testing.assert_close(paper[~other], code[~other])


def test_diffkds_gradient_paths(images, reaches):
    method = make("diffkd", taps="feature", autoencoder=6)
    losses = method(images, TARGETS)
    assert reaches(method, losses["autoencoder"], "feature.encoder")
    for term in ("distillation", "diffusion"):
        assert not reaches(method, losses[term], "feature.encoder")
        assert not reaches(method, losses[term], "feature.decoder")
        assert reaches(method, losses[term], "feature.denoiser.predictor")
    for part in ("group", "feature.transform", "feature.denoiser.adapter", "feature.project"):
        assert reaches(method, losses["distillation"], part)
    assert not reaches(method, losses["diffusion"], "group")


def test_diffkds_mechanism_is_measured(images):
    figures = make("diffkd").eval().mechanism(images)
    assert set(figures) == {"diffusion_loss", "distance", "distance_without", "cosine", "cosine_without", "gamma"}
    assert all(math.isfinite(value) for value in figures.values())
    assert 0 < figures["gamma"] < 1


def test_diffkds_mechanism_of_a_map_that_is_the_teachers(images, monkeypatch):
    """Where student and teacher agree and nothing is projected, the plain feature is at distance 0 and cosine 1."""
    method = make("diffkd", noise_matching=False).eval()
    (teacher,) = method.teacher_outputs(images)
    monkeypatch.setattr(method.feature, "transform_map", lambda student, wanted: teacher.feature_map)
    monkeypatch.setattr(method.feature, "project", torch.nn.Identity())
    figures = method.mechanism(images)
    assert figures["distance_without"] == 0
    assert figures["cosine_without"] == pytest.approx(1)
    assert figures["distance"] > 0
    assert figures["cosine"] < 1
    assert "gamma" not in figures


@pytest.mark.slow
def test_stkd_without_mixing_is_kd_exactly(images):
    for reading in ("virtual", "mixed", "clean"):
        method, kd = make("stkd", mixing=0.0, reading=reading), make("kd")
        ours, theirs = method.eval()(images, TARGETS), kd.eval()(images, TARGETS)
        torch.testing.assert_close(ours["label"], theirs["label"])
        torch.testing.assert_close(ours["distillation"], theirs["distillation"], atol=1e-5, rtol=1e-4)


def test_stkd_by_hand(images):
    method = make("stkd", distillation_weight=0.5).eval()
    torch.manual_seed(5)
    losses = method(images, TARGETS)
    torch.manual_seed(5)
    share = method._share(images)
    mixture = share * images + (1 - share) * images.roll(1, 0)
    student, (teacher,) = logits_of(method, mixture)
    label = share * F.cross_entropy(student, TARGETS) + (1 - share) * F.cross_entropy(student, TARGETS.roll(1))
    torch.testing.assert_close(losses["label"], 0.5 * label)
    torch.testing.assert_close(losses["distillation"], 0.5 * kl_divergence(student, teacher, 4.0))


@pytest.mark.parametrize("wrong_classes", [False, True])
@pytest.mark.parametrize("reading", ["virtual", "mixed", "clean"])
def test_stkds_readings_and_wrong_classes_by_hand(images, slow, monkeypatch, reading, wrong_classes):
    """λ = 0.3, so that the two sides of a mixture can be told apart; some neighbours are of one class, most are not."""
    share, temperature, alpha = 0.3, 2.0, 0.6
    monkeypatch.setattr("coterie.methods.teacher.stkd.symmetric_beta", lambda uniform, parameter: torch.tensor(share))
    options = {"reading": reading, "wrong_classes": wrong_classes, "temperature": temperature}
    method = sharpened(make("stkd", distillation_weight=alpha, **options)).eval()
    targets = [0, 0, 2, 3, 4, 1, 1, 2]
    partners = [sample - 1 for sample in range(8)]  # the batch moved by one place
    mixture = torch.stack([share * images[i] + (1 - share) * images[j] for i, j in enumerate(partners)])
    student, (virtual,) = logits_of(method, mixture)
    _, (clean,) = logits_of(method, images)
    label = divergence = 0.0
    for i, j in enumerate(partners):
        said = slow.softmax(student[i].tolist())
        label -= (share * math.log(said[targets[i]]) + (1 - share) * math.log(said[targets[j]])) / 8
        p = slow.softmax(student[i].tolist(), temperature)
        q = slow.softmax(virtual[i].tolist(), temperature)
        if reading == "clean":
            q = slow.softmax(clean[i].tolist(), temperature)
        if reading == "mixed":
            both = [slow.softmax(clean[each].tolist(), temperature) for each in (i, j)]
            q = share * both[0] + (1 - share) * both[1]
        if wrong_classes:
            left = [k for k in range(5) if k not in (targets[i], targets[j])]
            p, q = p[left] / p[left].sum(), q[left] / q[left].sum()
        divergence += temperature**2 * float((q * np.log(q / p)).sum()) / 8
    losses = method(images, torch.tensor(targets))
    assert losses["label"].item() == pytest.approx((1 - alpha) * label, rel=1e-4)
    assert losses["distillation"].item() == pytest.approx(alpha * divergence, rel=1e-3)


def test_rl_kds_controls_select_as_they_say(images):
    method = make("rl_kd", teachers=3)
    losses = torch.tensor([[0.1, 3.0], [2.0, 0.5], [1.0, 1.0]])
    state = torch.zeros(3, 2, method.policy_weight.shape[1])
    expected = {
        "argmin_ce": torch.tensor([[1.0, 0], [0, 1], [0, 0]]),
        "uniform": torch.full((3, 2), 1 / 3),
        "softmax_ce": (-losses).softmax(0),
    }
    for selection, weights in expected.items():
        method.selection = selection
        torch.testing.assert_close(method.selected(state, losses, None)[0], weights)


def test_rl_kds_policy_learns_to_prefer_the_teacher_that_is_right(images):
    """Per-instance rewards by the loss of the teacher chosen: the probability of the better one rises."""
    method = make("rl_kd", teachers=2, policy_learning_rate=1.0, warm_up=0.0)
    state = torch.zeros(2, 64, method.policy_weight.shape[1])
    state[0, :, -1], state[1, :, -1] = 0.0, 3.0  # teacher 0 is right, teacher 1 is not
    progress = Progress(0, 1, 0, 1)
    targets = torch.arange(64) % 5
    for _ in range(60):
        _, actions = method.selected(state, state[..., -1], None)
        chosen = (actions[0] - actions[1]) + 0.01 * torch.randn(64)
        method._episode = (state, actions, -chosen, torch.zeros(()), torch.zeros(64, 3, 16, 16), targets)
        method.reward = "instance"
        method.after_step(progress)
    probabilities = method._probabilities(state).mean(1)
    assert probabilities[0] > 0.7
    assert probabilities[1] < 0.3


def test_rl_kds_improvement_is_no_noise_of_drop_out(images):
    """Where nothing was learned, nothing has improved, although the student drops activations at random."""

    torch.manual_seed(1)
    taught = Teachers([Teacher(tiny_cifar(num_classes=5), EXAMPLE) for _ in range(2)])
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": 2, "proj_drop_rate": 0.3}
    student = timm.create_model("vit_tiny_patch16_224", num_classes=5, **options)
    method = create_method("rl_kd", branch(student, 1, None, example=EXAMPLE), teachers=taught).train()
    torch.manual_seed(7)  # as the loop does before each step
    method(images, TARGETS)
    _, _, before, _, inputs, targets = method._episode
    after = F.cross_entropy(method._logits_again(inputs), targets, reduction="none")
    torch.testing.assert_close(after, before)
    torch.manual_seed(8)
    assert not torch.allclose(F.cross_entropy(method._logits_again(inputs), targets, reduction="none"), before)


def test_how_much_each_teacher_counts(images):
    method = make("rl_kd", teachers=3, selection="argmin_ce").eval()
    choices = method.choices(images, TARGETS)
    losses = torch.stack([F.cross_entropy(each.logits, TARGETS, reduction="none") for each in method.teachers(images)])
    assert torch.equal(choices.argmax(0), losses.argmin(0))
    policy = make("rl_kd", teachers=3).eval()
    with torch.no_grad():
        policy.policy_bias.copy_(torch.tensor([0.0, 2.0, -2.0]))
    chances = torch.sigmoid(torch.tensor([0.0, 2.0, -2.0]))
    torch.testing.assert_close(policy.choices(images, TARGETS), (chances / chances.sum())[:, None].expand(3, 8))


def test_rl_kds_second_look_leaves_the_statistics_alone(images):
    method = make("rl_kd", teachers=2).train()
    sum(method(images, TARGETS).values()).backward()
    torch.optim.SGD(method.parameter_groups(), lr=0.1).step()
    before = [buffer.clone() for buffer in method.group.buffers()]
    method.after_step(Progress(1, 1, 0, 1))
    for buffer, value in zip(method.group.buffers(), before, strict=True):
        assert torch.equal(buffer, value)
    assert method.policy_weight.abs().sum() > 0


@pytest.mark.parametrize("name", ["byot", "dks", "multilevel", "frskd"])
def test_self_distillation_has_a_constant_teacher(images, name, reaches):
    torch.manual_seed(1)
    group = branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE, taps="stages")
    method = create_method(name, group)
    losses = method(images, TARGETS)
    part = {"byot": "exits", "dks": "exits", "multilevel": "heads", "frskd": "pyramid"}[name]
    teacher = {"byot": "group.branches.0.fc", "multilevel": "fused", "frskd": "pyramid"}.get(name)
    if name != "frskd":
        assert reaches(method, losses["distillation"], part)
    if teacher:
        assert not reaches(method, losses["distillation"], teacher)
    plain = tiny_cifar(num_classes=5)
    plain.load_state_dict(method.student().state_dict(), strict=True)


def test_what_a_teacher_method_refuses():
    group = branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE)
    with pytest.raises(CoterieError, match=r"set teacher\.run=FOLDER"):
        create_method("kd", group)
    other = Teachers([Teacher(tiny_cifar(num_classes=7), EXAMPLE)])
    with pytest.raises(CoterieError, match="7 classes, the student has 5"):
        create_method("kd", group, teachers=other)
    two = Teachers([Teacher(tiny_cifar(num_classes=5), EXAMPLE) for _ in range(2)])
    with pytest.raises(CoterieError, match="1 teacher, got 2"):
        create_method("fitnet", group, teachers=two)
    with pytest.raises(CoterieError, match="taps='stages'"):
        create_method("ofa", group, teachers=two)


@pytest.mark.parametrize("parameter", [0.2, 1.0, 3.0])
def test_stkds_share_is_beta_distributed(parameter):
    uniform = torch.rand(3, 4000, generator=torch.Generator().manual_seed(3))
    draws = symmetric_beta(uniform, parameter)
    assert scipy.stats.kstest(draws.numpy(), scipy.stats.beta(parameter, parameter).cdf).pvalue > 0.01
    assert symmetric_beta(torch.zeros(3), parameter).isfinite()


def ddgsd(**options):
    torch.manual_seed(1)
    group = branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE)
    widen(group.branches[0], 1)
    return create_method("ddgsd", group, **options)


def test_ddgsd_by_hand(slow):
    views = list(torch.randn(2, 8, 3, 16, 16) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1))
    method = ddgsd(temperature=2.0, distillation_weight=0.5, feature_weight=3.0).eval()
    with torch.no_grad():
        outputs = [method.group(view) for view in views]
    first, second = (output.logits[0].numpy() for output in outputs)
    means = [math.fsum(output.feature_maps[0].flatten().tolist()) / (8 * 32 * 4 * 4) for output in outputs]
    losses = method(views, TARGETS)
    labels = [slow.cross_entropy(each, TARGETS.tolist()) for each in (first, second)]
    assert losses["label"].item() == pytest.approx(sum(labels) / 2, rel=1e-4)
    both = slow.divergence(first, second, 2.0) + slow.divergence(second, first, 2.0)
    assert losses["distillation"].item() == pytest.approx(0.5 * both, rel=1e-3)
    assert losses["feature"].item() == pytest.approx(3 * (means[0] - means[1]) ** 2, rel=1e-3)
    assert losses["feature"] > 1e-5
    same = method(views[0], TARGETS)
    assert same["label"].item() == pytest.approx(labels[0], rel=1e-4)
    assert same["distillation"].item() == pytest.approx(0, abs=1e-6)
    assert same["feature"].item() == pytest.approx(0, abs=1e-10)


def test_ddgsds_settings_are_its_codes_and_each_view_is_a_constant_for_the_other():
    views = list(torch.randn(2, 8, 3, 16, 16))
    method = ddgsd().eval()
    output = method.group(torch.cat(views))
    logits = (3 * torch.randn(1, 16, 5)).requires_grad_()
    method.group.forward = lambda inputs: output._replace(logits=logits)
    losses = method(views, TARGETS)
    (gradient,) = torch.autograd.grad(losses["distillation"], logits)
    first, second = (logits[0].detach() / 4).softmax(-1).chunk(2)
    # d/dz of T² KL(q || p) is T (p - q) / B
    torch.testing.assert_close(gradient[0], 4 / 8 * torch.cat([first - second, second - first]), atol=1e-6, rtol=1e-4)
    means = [each.mean() for each in output.feature_maps[0].detach().chunk(2)]
    assert losses["feature"].item() == pytest.approx(5e-4 * float(means[0] - means[1]) ** 2, rel=1e-3)


def guided(name: str, teachers: int, **options):
    """A method with three students, or one, and the teachers that may join them."""
    torch.manual_seed(1)
    count, at = (1, None) if name == "ddgsd" else (3, "layer3")
    group = branch(lambda: tiny_cifar(num_classes=5), count, at, example=EXAMPLE)
    taught = [Teacher(tiny_cifar(num_classes=5), EXAMPLE) for _ in range(teachers)]
    for number, network in enumerate([*(each.body for each in taught), *group.branches]):
        widen(network, number)
    return create_method(name, group).eval(), Guide(Teachers(taught), **options)


def combined(logits, rule):
    """What several teachers say together, as logits [B, K]; ``logits`` [m, B, K]."""
    values = logits.double()
    together = values.softmax(-1).mean(0).log() if rule == "mean_probability" else values.mean(0)
    return together.numpy()


@pytest.mark.fast_for("okdmde-mean_probability-False", "dml-mean_logit-True")
@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("combination", ["mean_probability", "mean_logit"])
@pytest.mark.parametrize("name", ["okdmde", "dml"])
def test_a_teacher_that_joins_a_group_by_hand(slow, name, combination, views):
    """Weight · Σ over students of T² KL from the teachers' one prediction; with a view for each student, of that student's view."""
    method, guide = guided(name, 2, weight=0.7, temperature=3.0, combination=combination)
    inputs = list(torch.randn(3, 8, 3, 16, 16)) if views else torch.randn(8, 3, 16, 16)
    alone = method(inputs, TARGETS)
    method.join(guide)
    losses = method(inputs, TARGETS)
    with torch.no_grad():
        students = method.group(inputs).logits.numpy()
    seen = inputs if views else [inputs] * 3
    expected = 0.0
    for student, view in zip(students, seen, strict=True):
        said = torch.stack([output.logits for output in guide.teachers(view)])
        expected += 0.7 * slow.divergence(combined(said, combination), student, 3.0)
    assert losses["teacher"].item() == pytest.approx(expected, rel=1e-3)
    for term, value in alone.items():  # and what the method does besides stays
        torch.testing.assert_close(losses[term], value)
    assert set(losses) == {*alone, "teacher"}


def test_a_teacher_that_joins_ddgsd_is_asked_about_both_views(slow):
    method, guide = guided("ddgsd", 1, weight=0.7, temperature=3.0)
    method.join(guide)
    views = list(torch.randn(2, 8, 3, 16, 16))
    with torch.no_grad():
        students = [method.group(view).logits[0].numpy() for view in views]
    teacher = [guide.teachers(view)[0].logits.numpy() for view in views]
    expected = sum(0.7 * slow.divergence(q, p, 3.0) for q, p in zip(teacher, students, strict=True)) / 2
    assert method(views, TARGETS)["teacher"].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["okdmde", "dml"])
def test_every_student_learns_from_a_teacher_that_joins_and_the_teacher_from_nobody(images, name, reaches):
    method, guide = guided(name, 1)
    method.join(guide)
    term = method(images, TARGETS)["teacher"]
    for student in range(3):
        assert reaches(method, term, f"group.branches.{student}")
    assert reaches(method, term, "group.trunk")
    sum(method(images, TARGETS).values()).backward()
    assert all(parameter.grad is None for parameter in guide.teachers.parameters())
    assert not {id(parameter) for parameter in method.parameters()} & {id(each) for each in guide.teachers.parameters()}


def tiny_vit():
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "num_heads": 3, "depth": 4}
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **options)


NETWORKS = {"cnn": lambda: tiny_cifar(num_classes=5), "vit": tiny_vit}
WITH_TEACHERS = {name: entry.kind for name, entry in TABLE.items() if entry.kind in {"teacher", "multi-teacher"}}
FURTHER = [
    ("diffkd", {"autoencoder": 6, "standardise": True}),
    ("diffkd", {"denoiser": "projector"}),
    ("stkd", {"reading": "mixed", "wrong_classes": True}),
    ("ofa", {"gamma": 1.4, "combination": "learned"}),
]


def hears(method, losses):
    """Every term is finite, and so is the gradient of every parameter that is trained; the student's are not zero."""
    for term, value in losses.items():
        assert torch.isfinite(value), term
    sum(losses.values()).backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any() or not name.startswith("group."), name


@pytest.mark.fast_for(
    "kd-options0-cnn-vit", "fitnet-options4-cnn-vit", "ofa-options7-cnn-vit", "diffkd-options8-cnn-vit"
)
@pytest.mark.parametrize(("teacher", "student"), [("cnn", "vit"), ("vit", "cnn")])
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in WITH_TEACHERS), *FURTHER])
def test_a_transformer_and_a_cnn_teach_each_other(images, reaches, name, options, teacher, student):
    torch.manual_seed(1)
    count = 2 if WITH_TEACHERS[name] == "multi-teacher" else 1
    taught = Teachers([Teacher(NETWORKS[teacher](), EXAMPLE) for _ in range(count)])
    group = branch(NETWORKS[student], 1, None, example=EXAMPLE, taps="stages")
    method = create_method(name, group, teachers=taught, **options)
    losses = method(images, TARGETS)
    from_teacher = [term for term in losses if term in {"distillation", "exit_distillation", "feature"}]
    assert from_teacher
    for term in from_teacher:
        assert reaches(method, losses[term], "group."), term
    hears(method, losses)
    assert all(parameter.grad is None for parameter in taught.parameters())
    plain = NETWORKS[student]()
    plain.load_state_dict(method.student().state_dict(), strict=True)


@pytest.mark.parametrize(("teacher", "student"), [("cnn", "vit"), ("vit", "cnn")])
@pytest.mark.parametrize("name", ["okdmde", "dml"])
def test_a_teacher_of_another_kind_joins_a_group(images, name, teacher, student):
    torch.manual_seed(1)
    group = branch(NETWORKS[student], 2, None, example=EXAMPLE)
    method = create_method(name, group)
    method.join(Guide(Teachers([Teacher(NETWORKS[teacher](), EXAMPLE)])))
    losses = method(images, TARGETS)
    assert losses["teacher"] > 0
    hears(method, losses)
