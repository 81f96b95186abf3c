"""The methods with teachers: identities that must hold, who learns from what, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from coterie.errors import CoterieError
from coterie.losses import kl_divergence
from coterie.losses.decoupled import others_divergence, target_divergence
from coterie.losses.relation import pair_distances, triplet_angles
from coterie.losses.target_enhanced import target_enhanced_loss, target_enhanced_weights
from coterie.methods import create_method
from coterie.methods.progress import Progress
from coterie.methods.stkd import symmetric_beta
from coterie.networks.branching import branch
from coterie.networks.diffusion import Denoiser
from coterie.networks.registration import register
from coterie.networks.teacher import Teacher, Teachers
from coterie.networks.tiny import tiny_cifar

register()
EXAMPLE = torch.zeros(2, 3, 16, 16)
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])


def make(name: str, teachers: int = 1, **options):
    torch.manual_seed(1)
    taught = Teachers([Teacher(tiny_cifar(num_classes=5), EXAMPLE) for _ in range(teachers)])
    group = branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE, taps="stages")
    return create_method(name, group, teachers=taught, **options)


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
    ("gamma", "p", "total", "share"), [(1.5, 0.1, 0.44, 0.35), (1.5, 0.5, 0.96, 0.88), (1.5, 0.9, 1.63, 0.99)]
)
def test_ofas_weights_at_known_points(gamma, p, total, share):
    """Values computed for ten classes with the rest of the mass uniform."""
    probabilities = torch.full((1, 10), (1 - p) / 9)
    probabilities[0, 3] = p
    weights = target_enhanced_weights(probabilities.log(), torch.tensor([3]), gamma)
    assert weights.sum().item() == pytest.approx(total, abs=0.006)
    assert (weights[0, 3] / weights.sum()).item() == pytest.approx(share, abs=0.006)


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


def test_the_noise_schedule_at_known_points():
    denoiser = Denoiser(4, spatial=True)
    assert denoiser.times == [400, 300, 200, 100, 0]
    expected = {100: 0.895, 200: 0.656, 300: 0.394, 400: 0.194, 500: 0.078}
    for time, kept in expected.items():
        assert denoiser.kept[time].item() == pytest.approx(kept, abs=0.003)


def test_denoising_with_the_true_noise_gives_the_clean_feature():
    """DDIM along the exact noise is exact, whatever the number of steps."""
    denoiser = Denoiser(3, spatial=True)
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)

    class Knows(torch.nn.Module):
        def forward(self, noisy, time):
            return noise

    denoiser.predictor = Knows()
    kept = denoiser.kept[400]
    start = kept.sqrt() * clean + (1 - kept).sqrt() * noise
    torch.testing.assert_close(denoiser.denoise(start), clean, atol=1e-4, rtol=1e-3)


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
    assert set(figures) == {"diffusion_loss", "distance", "distance_without", "gamma"}
    assert all(math.isfinite(value) for value in figures.values())
    assert 0 < figures["gamma"] < 1


def test_stkd_without_mixing_is_kd_exactly(images):
    for reading in ("virtual", "mixed"):
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
