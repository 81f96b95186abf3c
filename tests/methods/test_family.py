"""What must hold of every method, whatever it does."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.methods import METHODS, TABLE, create_method
from coterie.methods.group_method import GroupMethod
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import TaughtMethod
from coterie.networks.branching import branch
from coterie.networks.group import StudentGroup
from coterie.networks.papers.registration import register
from coterie.networks.papers.tiny import tiny_cifar
from coterie.networks.teacher import Teacher, Teachers
from coterie.training.capture import CapturedStep

register()
FAMILY = [name for name in TABLE if issubclass(METHODS[name], GroupMethod)]
LONE = [name for name in FAMILY if METHODS[name].max_students == 1]
GROUPS = [name for name in FAMILY if name not in LONE]
NEEDS_TRUNK = {"one"}  # its gate reads the trunk's map
ALLOWS_ONE = {"baseline", "independent", "okdmde", "dml", "cl_ilr", "one", "kdcl", "afd", "pcl", "mcl", "ffl", "okdph"}
VARIANTS = [
    *((name, {}) for name in FAMILY),
    ("dml", {"target": "mean"}),
    ("dml", {"target": "mean_logit", "detach_target": False}),
    ("okdmde", {"attention": "class"}),
    ("okdmde", {"attention": "pairwise"}),
    ("okdmde", {"attention": "uniform"}),
    ("okdmde", {"leader": True}),
    ("okddip", {"detach_target": True}),
    ("okddip", {"leader": False}),
    ("kdcl", {"target": "naive"}),
    ("kdcl", {"target": "linear"}),
    ("kdcl", {"target": "general"}),
    ("ffl", {"detach_features": True}),
    ("pcl", {"deploy": "student"}),
    ("okdph", {"hybrid_gradient": False}),
    ("okdph", {"move_statistics": True}),
    ("okdph", {"evaluate_moved": False}),
    ("mcl", {"distillation_weight": 1.0}),
    ("mcl", {"form": "code", "distillation_weight": 1.0}),
    ("ddgsd", {"label_weight": 0.5}),
    ("kd", {"combination": "learned"}),
    ("kd", {"combination": "mean_logit"}),
    ("kd", {"divergence": "reverse_kl"}),
    ("kd", {"divergence": "jsd"}),
    ("kd", {"divergence": "tvd"}),
    ("kd", {"divergence": "adaptive_kl"}),
    ("rlkd", {"k": 3, "dynamic_weight": True, "label_weight": 1.0}),
    ("rlkd", {"divergence": "reverse_kl", "deduplicate": False}),
    ("rlkd", {"measure": "pearson", "divergence": "none"}),
    ("ofa", {"gamma": 1.3, "nontarget_power": False}),
    ("diffkd", {"taps": "feature", "autoencoder": 6, "standardise": True}),
    ("diffkd", {"taps": "logits", "steps": 1, "noise_matching": False}),
    ("diffkd", {"denoiser": "projector"}),
    ("diffkd", {"denoiser": "none"}),
    ("stkd", {"reading": "mixed"}),
    ("stkd", {"wrong_classes": True}),
    ("stkd", {"mixing": 0.0}),
    ("rl_kd", {"selection": "argmin_ce"}),
    ("rl_kd", {"selection": "softmax_ce"}),
    ("rl_kd", {"selection": "uniform"}),
    ("rl_kd", {"reward": "label_and_distillation", "shuffle_state": True}),
    ("rl_kd", {"reward": "instance"}),
    ("rl_kd", {"reward": "validation"}),
    ("multilevel", {"feature_weight": 1.0}),
]
IDS = [name + "".join(f",{key}={value}" for key, value in options.items()) for name, options in VARIANTS]
# The first of each method is quick: 33 of some 75.
CASES = [
    pytest.param(
        *each, id=label, marks=() if each[0] not in {name for name, _ in VARIANTS[:number]} else pytest.mark.slow
    )
    for number, (each, label) in enumerate(zip(VARIANTS, IDS, strict=True))
]


EXAMPLE = torch.zeros(2, 3, 16, 16)


def students_of(name: str) -> int:
    return 1 if name in LONE else 4


@cache
def built_group(count: int, at: str | None, taps: str | tuple[str, ...]) -> StudentGroup:
    """Copied, not built again: to trace a network takes longer than a step of it."""
    torch.manual_seed(0)
    return branch(lambda: tiny_cifar(num_classes=5), branches=count, at=at, example=EXAMPLE, taps=taps)


def teachers_for(name: str, example: torch.Tensor, classes: int = 5) -> dict[str, Teachers]:
    """Teachers, two where several may teach, for the methods that are made of them."""
    if not issubclass(METHODS[name], TaughtMethod):
        return {}
    count = 1 if METHODS[name].max_teachers == 1 else 2
    return {"teachers": Teachers([Teacher(tiny_cifar(num_classes=classes), example) for _ in range(count)])}


def make(name: str, at: str | None = "auto", students: int | None = None, **options):
    at, taps = (None, "stages") if METHODS[name].uses_taps else (at, ())
    group = copy.deepcopy(built_group(students or students_of(name), at, taps))
    torch.manual_seed(1)
    return create_method(name, group, **teachers_for(name, EXAMPLE), **options)


@pytest.fixture
def images():
    return torch.randn(8, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("at", ["auto", None], ids=["trunk", "peers"])
def test_every_trainable_parameter_learns_and_no_other(name, options, at, images):
    if (at is None and name in NEEDS_TRUNK) or (at == "auto" and name in LONE):
        return
    method = make(name, at, **options).train()
    for parameter in method.parameters():  # layers that start at zero hide what is behind them
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    losses = method(*images)
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    for parameter_name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name
        else:
            assert parameter.grad is None, parameter_name
    grouped = [id(p) for group in method.parameter_groups() for p in group["params"]]
    own = [id(p) for o in method.build_optimizers().values() for g in o.param_groups for p in g["params"]]
    assert sorted(grouped + own) == sorted(id(p) for p in method.parameters() if p.requires_grad)


class Constant(nn.Module):
    """A label loss that is 1.7 whatever is predicted."""

    def forward(self, logits, targets):
        return 0 * logits.sum() + 1.7


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("students", [None, 1])
def test_the_label_term_is_known_in_a_students_label_losses(name, options, students, images):
    if students == 1 and (name not in ALLOWS_ONE or options.get("leader")):
        return
    method = make(name, students=students, label_loss=Constant(), **options).train()
    losses = method(*images)
    assert losses["label"].item() == pytest.approx(1.7 * method.label_factor, rel=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_predictions_and_the_plain_student(name, options, images):
    method = make(name, **options)
    method.train()
    method(*images)
    method.after_step(Progress(0, 10, 3, 40))
    method.eval()
    with torch.inference_mode():
        predictions = method.predict(images[0])
        students = students_of(name)
        assert predictions.logits.shape == (students, 8, 5)
        assert predictions.ensemble.shape == predictions.deployed.shape == (8, 5)
        torch.testing.assert_close(predictions.deployed, predictions.logits[method.deployed_student])
        for values in predictions.statistics.values():
            assert len(values) == 8
        student = method.student()
        torch.testing.assert_close(student(images[0]), predictions.deployed)
    tiny_cifar(num_classes=5).load_state_dict(student.state_dict(), strict=True)


@pytest.mark.parametrize("name", GROUPS)
def test_views_of_their_own(name, images):
    method = make(name)
    inputs, targets = images
    views = [inputs + 0.1 * torch.randn_like(inputs) for _ in range(max(method.views, method.group.num_students))]
    losses = method(views, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    method.eval()
    same = method([inputs] * len(views), targets)
    for term, value in method(inputs, targets).items():
        torch.testing.assert_close(same[term], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(ALLOWS_ONE))
def test_a_lone_student_learns_as_the_baseline_does(name, images):
    """Whatever a method adds, the gradient of a lone student's weights is that of the label loss alone where nothing else teaches."""
    method = make(name, students=1).eval()  # BatchNorm in eval mode, so that several passes change nothing
    reference = make("baseline", at="auto", students=1).eval()
    reference.load_state_dict({k: v for k, v in method.state_dict().items() if k.startswith("group.")}, strict=True)
    losses = method(*images)
    labels = reference(*images)["label"]
    torch.testing.assert_close(losses["label"] + losses.get("hybrid_label", 0), labels)
    if name in {"okdmde", "ffl", "pcl", "mcl"}:  # these add a classifier, a contrast or a diversity of their own
        assert set(losses) - {"label"}
        return
    sum(losses.values()).backward()
    labels.backward()
    for (parameter_name, ours), theirs in zip(
        method.group.named_parameters(), reference.group.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=parameter_name)


class Fixed(nn.Module):
    """A branch with given logits, for what no network would say."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(4, logits.shape[1])
        self.logits = nn.Parameter(logits)
        self.maps = nn.Parameter(torch.randn(len(logits), 4, 3, 3))

    def forward(self, x):
        dtype = self.logits.dtype
        maps = self.maps[: len(x)].to(dtype)
        embedding = maps.mean((2, 3))
        return self.logits[: len(x)] + 0 * self.fc(embedding), embedding, maps + 0 * x.mean().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), [each for each in CASES if each.values[0] in GROUPS])
def test_extreme_logits_in_half_precision(name, options, dtype):
    """Certain, opposite and enormous predictions: every term and every gradient of the logits stays finite."""
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    extreme = torch.zeros(6, 5)
    extreme[torch.arange(6), targets] = 3e4
    students = students_of(name)
    logits = [extreme, -extreme, extreme.roll(1, 1), torch.full_like(extreme, -3e4)][:students]
    trunk = nn.Conv2d(3, 4, 1)
    group = StudentGroup(trunk, [Fixed(each) for each in logits], example=torch.zeros(2, 3, 4, 4))
    method = create_method(name, group, **options).to(dtype)
    losses = method(torch.randn(6, 3, 4, 4, dtype=dtype), targets)
    for term, loss in losses.items():
        assert torch.isfinite(loss), term
    sum(loss.float() for loss in losses.values()).backward()
    for each in group.branches:
        assert torch.isfinite(each.logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "options"), [each for each in CASES if each.values[0] in LONE])
def test_extreme_logits_of_student_and_teacher(name, options, dtype, images):
    if name == "diffkd" and dtype is torch.float16:
        pytest.skip("its convolutions run on the logits themselves, whose products exceed float16 at 3e4")
    method = make(name, None, **options)
    with torch.no_grad():
        method.group.classifiers[0].bias.copy_(torch.tensor([3e4, -3e4, 0.0, 0.0, 3e4]))
        for teacher in method.teachers.each() if method.teachers is not None else ():
            teacher.body.fc.bias.copy_(torch.tensor([-3e4, 3e4, 0.0, 0.0, 3e4]))
    method = method.to(dtype)
    losses = method(images[0].to(dtype), images[1])
    sum(loss.float() for loss in losses.values()).backward()
    for term, loss in losses.items():
        assert torch.isfinite(loss), term
    for parameter_name, parameter in method.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", sorted(set(GROUPS) - {"afd", "ffsd", "okddip"}))
def test_the_order_of_equal_students_does_not_matter(name, images):
    """Left out: AFD's students stand in a circle, FFSD's and OKDDip's last one is a leader."""
    method = make(name, None if name not in NEEDS_TRUNK else "auto").eval()
    swapped = copy.deepcopy(method)
    order = [2, 0, 3, 1]
    for group in [swapped.group, *([swapped.mean_group] if name == "pcl" else [])]:
        group.branches = nn.ModuleList(group.branches[number] for number in order)
    if name == "mcl":
        swapped.heads = nn.ModuleList(swapped.heads[number] for number in order)
    if name == "okdmde":  # its attention starts uniform, and the maps' channels stand in order
        weight = swapped.fusion.fusion.fuse[0].weight
        weight.data = torch.cat([weight.chunk(4, 1)[number] for number in order], dim=1).data
    if name == "one":
        method.gate.score.weight.data.zero_(), method.gate.score.bias.data.zero_()
        swapped.gate.score.weight.data.zero_(), swapped.gate.score.bias.data.zero_()
    if name == "pcl":
        weight = swapped.ensemble.weight
        weight.data = torch.cat([weight.chunk(4, 1)[number] for number in order], dim=1).data
    if name == "ffl":
        first, second = swapped.fusion.fusion.fuse[0], swapped.fusion.fusion.fuse[3]
        first.weight.data = torch.cat([first.weight.chunk(4, 0)[number] for number in order]).data
        second.weight.data = torch.cat([second.weight.chunk(4, 1)[number] for number in order], dim=1).data
    ours, theirs = method(*images), swapped(*images)
    for term in ours:
        torch.testing.assert_close(ours[term], theirs[term], atol=1e-5, rtol=1e-4)


@pytest.mark.fast_for("diffkd", "dml", "kd", "ofa", "okdmde", "one")
@pytest.mark.parametrize("name", sorted(set(FAMILY) - {"baseline"}))
def test_a_transformer(name):
    import timm

    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, num_heads=3, depth=4, num_classes=4
    )
    example = torch.zeros(2, 3, 32, 32)
    if name in LONE:
        group = branch(network, branches=1, at=None, example=example, taps="stages")
    else:
        group = branch(network, branches=3, at="blocks.2", example=example)
    method = create_method(name, group, **teachers_for(name, example, classes=4))  # a CNN teaches a transformer
    losses = method(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0]))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    predictions = method.eval().predict(torch.randn(2, 3, 32, 32))
    assert F.softmax(predictions.ensemble, -1).shape == (2, 4)


def test_every_online_method_has_its_paper():
    for name in METHODS:
        assert TABLE[name].paper or TABLE[name].kind == "control"


def batch_for(method, batch):
    inputs, targets = batch
    return (inputs if method.views == 1 else [inputs.clone() for _ in range(method.views)]), targets


# Each has machinery of its own; the others, slow to compile, differ from one of these in their formulas.
COMPILED = {"baseline", "dml", "okdmde", "okddip", "kdcl", "afd", "pcl", "mcl", "kd", "ofa", "diffkd", "rl_kd", "byot"}
FEWEST = {"ffsd": 3, "okddip": 3}


@pytest.mark.fast_for("okdmde")
@pytest.mark.parametrize(
    "name", [each if each in COMPILED else pytest.param(each, marks=pytest.mark.slow) for each in FAMILY]
)
def test_compiled_whole_and_once(name, images):
    """One graph without a break, and no other one over epochs."""
    torch._dynamo.reset()
    method = make(name, students=min(FEWEST.get(name, 2), students_of(name))).train()
    batch = batch_for(method, images)
    progress = Progress(0, 10, 0, 100)
    compiled = torch.compile(method, fullgraph=True, backend="eager")
    sum(compiled(*batch, progress).values()).backward()
    counters = torch._dynamo.utils.counters["stats"]
    graphs = counters["unique_graphs"]
    assert graphs > 0
    for epoch in (1, 2, 3):
        progress.update(epoch, 10 * epoch)
        method.after_step(progress)
        compiled(*batch, progress)
    assert counters["unique_graphs"] == graphs


class NoSynchronisation(TorchDispatchMode):
    """Fails where a tensor's value is read on the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a value was read on the host"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_step_reads_no_value_on_the_host(name, options, images):
    method = make(name, **options).train()
    batch = batch_for(method, images)
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.1)
    progress = Progress(0, 10, 3, 40)
    with NoSynchronisation():
        sum(method(*batch, progress).values()).backward()
        optimizer.step()
        method.after_step(progress)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_recorded_step_is_the_step(name, options, images, monkeypatch):
    """Eight steps, of which five are replays, against eight that run as they are."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    def train(record: bool) -> tuple[dict[str, torch.Tensor], str | None]:
        method = make(name, **options).cuda().train()
        inputs, targets = batch_for(method, images)
        optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.01)
        progress = Progress(0, 10, 0, 40, device="cuda")

        def compute(inputs, targets) -> None:
            sum(method(inputs, targets, progress).values()).backward()

        step = CapturedStep(compute, method.parameters(), torch.device("cuda"))
        for number in range(8):
            torch.manual_seed(number)
            progress.update(number, number)
            generator = torch.Generator().manual_seed(number)
            order = torch.randperm(len(targets), generator=generator)
            views = [each[order].cuda() for each in (inputs if isinstance(inputs, list) else [inputs])]
            batch = (views if isinstance(inputs, list) else views[0], targets[order].cuda())
            (step if record else compute)(*batch)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step(progress)
        assert not record or step.failure or len(step.records) == 1
        return method.state_dict(), step.failure

    ours, failure = train(True)
    theirs, _ = train(False)
    assert failure is None
    for key in theirs:
        torch.testing.assert_close(
            ours[key], theirs[key], atol=1e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize(
    ("name", "options"), [each for each in VARIANTS if METHODS[each[0]].compares_logits()], ids=lambda value: str(value)
)
def test_a_comparison_of_parts_of_a_batch_gives_that_of_the_whole(name, options):
    """What lets a vocabulary's logits be computed for some positions at a time."""
    method = make(name, **options)
    teachers = len(method.teachers) if method.teachers is not None else 0
    logits = torch.randn(method.num_students, 8, 5)
    taught = torch.randn(teachers, 8, 5) if teachers else None
    targets = torch.randint(5, (8,))
    progress = Progress(3, 10, 30, 100)
    whole = method.compare(logits, taught, targets, progress)
    pieces = [slice(0, 3), slice(3, 8)]
    parts = [
        method.compare(logits[:, piece], None if taught is None else taught[:, piece], targets[piece], progress)
        for piece in pieces
    ]
    for term, value in whole.items():
        torch.testing.assert_close((3 * parts[0][term] + 5 * parts[1][term]) / 8, value, msg=term)


def test_which_methods_compare_logits_alone():
    found = {name for name in FAMILY if METHODS[name].compares_logits()}
    assert found == {"baseline", "independent", "dml", "cl_ilr", "kdcl", "kd", "amd", "dkd", "rlkd"}
