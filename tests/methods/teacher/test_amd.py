from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import timm
import torch

import coterie
from coterie.errors import CoterieError
from coterie.methods.teacher.amd import Assistants
from coterie.networks.branching import branch
from coterie.networks.papers.registration import register
from coterie.networks.papers.tiny import tiny_cifar
from coterie.networks.pruning import apply_masks, column_masks, find_structures, keep_masks, scale
from coterie.networks.teacher import Statistics, Teacher, Teachers
from coterie.recipe import load_recipe
from coterie.tasks.images.teachers import first_stage

register()
EXAMPLE = torch.zeros(2, 3, 16, 16)


def vit():
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, num_heads=3, depth=2, num_classes=5
    )


@pytest.mark.parametrize(
    ("build", "kinds"), [(vit, {"head", "neuron"}), (lambda: tiny_cifar(num_classes=5), {"channel"})]
)
def test_a_unit_that_is_left_out_has_no_effect_and_is_counted(build, kinds):
    network = build().eval()
    structures = find_structures(network)
    assert {each.kind for each in structures} == kinds
    masks = keep_masks(network, structures, 0.5)
    factors = column_masks(structures, masks, network)
    apply_masks(network, factors)
    images = torch.randn(4, 3, 16, 16)
    before = network(images)
    # Whatever the writers of the units that are left out compute: nothing comes of it.
    with torch.no_grad():
        for each, keep in zip(structures, masks, strict=True):
            for path in each.writers:
                weight = network.get_submodule(path).weight
                rows = keep.repeat_interleave(each.width).repeat(3 if each.kind == "head" else 1)
                weight[~rows] = torch.randn_like(weight[~rows])
    torch.testing.assert_close(network(images), before)
    total = sum(parameter.numel() for parameter in network.parameters())
    for each in structures:
        only = [torch.ones(other.units, dtype=torch.bool) for other in structures]
        only[structures.index(each)][0] = False
        assert scale(network, structures, only) == pytest.approx(1 - each.parameters / total)


def test_unit_sizes_by_hand():
    structures = find_structures(vit())
    head, neuron = structures[0], structures[1]
    assert (head.kind, head.units, head.width) == ("head", 3, 8)
    assert head.parameters == 3 * 8 * (24 + 1) + 8 * 24  # queries, keys, values with biases, and the output's columns
    assert neuron.parameters == 24 + 1 + 24
    with pytest.raises(CoterieError, match="how to prune"):
        find_structures(torch.nn.Sequential(torch.nn.Linear(3, 4)))


def test_the_lightest_go_first_and_candidates_are_nested():
    network = tiny_cifar(num_classes=5)
    structures = find_structures(network)
    with torch.no_grad():
        network.get_submodule(structures[0].reader).weight[:, 2] = 0
    few, many = keep_masks(network, structures, 0.05), keep_masks(network, structures, 0.6)
    assert not few[0][2]
    for small, large in zip(many, few, strict=True):
        assert not (small & ~large).any()
    assert sum(int((~mask).sum()) for mask in many) == round(0.6 * sum(each.units for each in structures))


def make(**options) -> Assistants:
    torch.manual_seed(0)
    teacher = Teacher(tiny_cifar(num_classes=5), EXAMPLE)
    group = branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE)
    return Assistants(group, teachers=Teachers([teacher]), **options)


def test_candidates_start_from_the_teacher_and_share_parameters(reaches):
    method = make(sparsities=[0.3, 0.6]).eval()
    images, targets = torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])
    predictions = method.predict(images)
    assert predictions.logits.shape == (3, 6, 5)
    torch.testing.assert_close(predictions.logits[0], method.teachers[0](images).logits)
    assert not torch.allclose(predictions.logits[2], predictions.logits[0])
    assert method.scales[0] == 1
    assert method.scales == sorted(method.scales, reverse=True)
    losses = method(images, targets)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_selection_by_hand():
    method = make(sparsities=[0.2, 0.4, 0.6])
    s = method.scales
    accuracies = [0.9, 0.89, 0.88, 0.5]
    npsd = [-(0.9 - accuracies[k]) / (1 - s[k]) for k in (1, 2, 3)]
    assert method.choose(accuracies) == 1 + npsd.index(max(npsd))
    method = make(sparsities=[0.2, 0.4, 0.6], selection="tradeoff", tradeoff=10.0)
    assert method.choose(accuracies) == 3  # size is everything
    assert make(sparsities=[0.2, 0.4, 0.6], selection=0.4).choose(accuracies) == 2
    with pytest.raises(CoterieError, match=r"selection=0\.5: expected npsd"):
        make(sparsities=[0.2, 0.4, 0.6], selection=0.5)


def test_the_chosen_one_is_the_teachers_network_with_zeros():
    method = make(sparsities=[0.5]).eval()
    method.deployed_student = 1
    images = torch.randn(3, 3, 16, 16)
    student = method.student().eval()
    torch.testing.assert_close(student(images), method.predict(images).deployed)
    tiny_cifar(num_classes=5).load_state_dict(student.state_dict(), strict=True)
    # The shared parameters themselves are as they were.
    torch.testing.assert_close(method.predict(images).logits[0], method.teachers[0](images).logits)


def test_every_candidate_keeps_batch_norms_statistics_of_its_own():
    """As a network of its own would keep them, which has the same weights and sees the same batches."""
    method = make(sparsities=[0.5]).train()
    alone = []
    for candidate in (0, 1):
        method.deployed_student = candidate
        alone.append(method.student().train())
    for _ in range(3):
        images = 2 + torch.randn(8, 3, 16, 16)
        method(images, torch.arange(8) % 5)
        for network in alone:
            network(images)
    method.eval()
    for candidate in (0, 1):
        method.deployed_student = candidate
        student = method.student()
        for (name, own), expected in zip(student.named_buffers(), alone[candidate].buffers(), strict=True):
            torch.testing.assert_close(own, expected, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(student.eval()(images), method.predict(images).logits[candidate])
    first, second = ([*each.buffers()] for each in alone)
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_leaves_no_choice_is_refused_before_training():
    with pytest.raises(CoterieError, match=r"candidates have 1\.00 of the teacher's parameters"):
        make(sparsities=[0.0001])
    method = make(sparsities=[0.2, 0.9])
    accuracies = [0.9, 0.1, 0.9]
    assert method.choose(accuracies) == 2
    assert make(sparsities=[0.2, 0.9], smallest=method.scales[2]).choose(accuracies) == 1
    with pytest.raises(CoterieError, match="above the student's 0"):
        make(sparsities=[0.2, 0.9], smallest=0.99)
    data, near, far = (Statistics((mean,) * 3, (0.25,) * 3) for mean in (0.5, 0.505, 0.6))
    for changes, refused in (
        ({"size": (32, 32)}, True),
        ({"statistics": far, "student_statistics": data}, True),
        ({"statistics": near, "student_statistics": data}, False),
    ):
        teachers = Teachers([Teacher(tiny_cifar(num_classes=5), EXAMPLE, **changes)])
        group = branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE)
        with pytest.raises(CoterieError, match="another size or normalisation") if refused else nullcontext():
            Assistants(group, teachers=teachers)


@pytest.mark.slow
def test_the_choice_needs_a_validation_split_and_the_students_size(tmp_path):
    small = {"data": {"name": "digits", "train_limit": 200}, "training": {"epochs": 1, "device": "cpu"}}
    coterie.train(small, method="baseline", network="resnet8_cifar", output=tmp_path / "teacher", quiet=True)
    settings = {**small, "method": "amd", "network": "tiny_cifar", "teacher": str(tmp_path / "teacher")}
    with pytest.raises(CoterieError, match="learns from a validation split"):
        coterie.train(settings, overrides=["data.validation=0"], output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    stage = first_stage(load_recipe(settings))
    networks = [timm.create_model(name, num_classes=10, in_chans=1) for name in ("tiny_cifar", "resnet8_cifar")]
    counts = [sum(each.numel() for each in network.parameters()) for network in networks]
    assert stage.method.options["smallest"] == pytest.approx(counts[0] / counts[1], abs=1e-4)


def test_another_architecture_is_refused():
    teacher = Teacher(timm.create_model("resnet8_cifar", num_classes=5), EXAMPLE)
    group = branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE)
    with pytest.raises(CoterieError, match="need its architecture"):
        Assistants(group, teachers=Teachers([teacher]))


@pytest.mark.slow
def test_two_stages_by_one_command_and_a_resume(tmp_path):
    small = {
        "data": {"name": "digits", "train_limit": 200},
        "training": {"epochs": 1, "batch_size": 32, "device": "cpu"},
    }
    coterie.train(small, method="baseline", network="resnet8_cifar", output=tmp_path / "teacher", quiet=True)
    method = {"name": "amd", "sparsities": [0.5]}
    settings = {**small, "method": method, "network": "tiny_cifar", "teacher": str(tmp_path / "teacher")}
    run = coterie.train(settings, output=tmp_path / "run", quiet=True)
    first = json.loads((tmp_path / "run" / "assistant" / "summary.json").read_text())
    assert first["status"] == "finished"
    assert first["deployed"]["student"] == 1
    assert 0 < first["statistics"]["scale"][1] < 1
    (note,) = run.summary["teachers"]
    assert note["top1"] == pytest.approx(first["deployed"]["top1"], abs=1e-6)
    # A stop between the stages: the first is kept, the second is trained.
    for name in ("summary.json", "student.json", "student.safetensors"):
        (tmp_path / "run" / name).unlink()
    before = (tmp_path / "run" / "assistant" / "summary.json").stat().st_mtime_ns
    again = coterie.train(output=tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run" / "assistant" / "summary.json").stat().st_mtime_ns == before
    assert again.summary["students"] == run.summary["students"]
