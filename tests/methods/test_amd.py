from __future__ import annotations

import json

import pytest
import timm
import torch

import coterie
from coterie.errors import CoterieError
from coterie.methods.amd import Assistants
from coterie.networks.branching import branch
from coterie.networks.pruning import apply_masks, column_masks, find_structures, keep_masks, scale
from coterie.networks.registration import register
from coterie.networks.teacher import Teacher, Teachers
from coterie.networks.tiny import tiny_cifar

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


def test_another_architecture_is_refused():
    teacher = Teacher(timm.create_model("resnet8_cifar", num_classes=5), EXAMPLE)
    group = branch(lambda: tiny_cifar(num_classes=5), 1, None, example=EXAMPLE)
    with pytest.raises(CoterieError, match="need its architecture"):
        Assistants(group, teachers=Teachers([teacher]))


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
