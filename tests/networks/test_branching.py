from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save
from torch import nn

from coterie.errors import CoterieError
from coterie.networks import register
from coterie.networks.branching import branch
from coterie.networks.group import StudentGroup
from coterie.networks.operations import split_candidates
from coterie.randomness import derive_seed, seeded

register()

# Kinds of architecture, cheap ones: name, arguments, image side.
ARCHITECTURES = [
    ("resnet10t", {}, 64), ("resnet32_cifar", {}, 32), ("densenet40_12_cifar", {}, 32), ("vgg16_cifar", {}, 32),
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 6}, 32), ("cait_xxs24_224", {"img_size": 32, "depth": 4}, 32),
    ("swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 24, "depths": (1, 1, 2, 1), "window_size": 2}, 64),
    ("convnext_atto", {}, 64), ("levit_128s", {"distilled": False}, 224), ("mixer_s32_224", {"img_size": 64}, 64),
    ("resmlp_12_224", {"img_size": 32}, 32), ("gmlp_ti16_224", {"img_size": 32}, 32),
    ("hrnet_w18_small", {}, 64), ("efficientnet_b0", {}, 64), ("mobilenetv3_small_050", {}, 64), ("mobilenetv4_conv_small", {}, 64),
    ("regnetx_002", {}, 64), ("ghostnet_050", {}, 64), ("edgenext_xx_small", {}, 64), ("mobilevit_xxs", {}, 64),
    ("xcit_nano_12_p16_224", {"img_size": 64}, 64), ("dla46_c", {}, 64), ("nf_regnet_b0", {}, 64), ("repvgg_a0", {}, 64),
    ("coat_lite_tiny", {"img_size": 64}, 64), ("pvt_v2_b0", {}, 64), ("inception_next_atto", {}, 64),
]  # fmt: skip
# Slow to build or to trace, and of a kind that another one stands for.
SLOW = {"vgg16_cifar", "resnet10t", "edgenext_xx_small", "cait_xxs24_224", "repvgg_a0", "resmlp_12_224", "gmlp_ti16_224", "efficientnet_b0", "mobilenetv3_small_050", "ghostnet_050",
    "nf_regnet_b0", "dla46_c", "inception_next_atto", "mobilevit_xxs", "pvt_v2_b0"}  # fmt: skip
TORCHVISION = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_0"]


def network(name, options=None):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=7, **(options or {}))


def images(side, count=3, channels=3):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def assert_is_the_plain_network(plain, group, inputs):
    """Trunk and branch 0 equal the plain network bit for bit, in eval mode and in train mode under one seed."""
    with torch.no_grad():
        output = group.eval()(inputs)
        assert torch.equal(output.logits[0], plain.eval()(inputs))
        for number in range(group.num_students):
            student = group.student(number)
            assert type(student) is type(plain)
            copy.deepcopy(plain).load_state_dict(student.state_dict(), strict=True)
            assert torch.equal(student(inputs), output.logits[number])
        torch.manual_seed(2)
        expected = plain.train()(inputs)
        torch.manual_seed(2)
        assert torch.equal(group.train()(inputs).logits[0], expected)
    # The statistics of BatchNorm have moved alike.
    moved = group.student(0).state_dict()
    for key, value in plain.state_dict().items():
        assert torch.equal(moved[key], value), key


@pytest.mark.fast_for(
    "convnext_atto",
    "cait_xxs24_224",
    "edgenext_xx_small",
    "vit_tiny_patch16_224",
    "resnet32_cifar",
    "densenet40_12_cifar",
    "resnet10t",
)
@pytest.mark.parametrize(
    ("name", "options", "side"),
    [pytest.param(*each, id=each[0], marks=pytest.mark.slow if each[0] in SLOW else ()) for each in ARCHITECTURES],
)
def test_every_kind_of_architecture(name, options, side):
    plain = network(name, options)
    before = copy.deepcopy(plain.state_dict())
    group = branch(copy.deepcopy(plain), branches=2, at="auto", example=torch.zeros(2, 3, side, side))
    # Building a group moves no BatchNorm statistic and no weight of branch 0.
    for key, value in group.student(0).state_dict().items():
        assert torch.equal(value, before[key]), key
    assert_is_the_plain_network(plain, group, images(side))
    output = group(images(side, 2))
    output.logits.square().sum().backward()
    reached = {key for key, parameter in plain.named_parameters() if _gradient(plain, images(side, 2), parameter)}
    for number in range(2):
        for key, parameter in _student_parameters(group, number).items():
            assert parameter.grad is not None or key not in reached, key
    ids = [{id(p) for p in each.parameters()} for each in group.branches]
    assert not ids[0] & ids[1]
    for embedding, feature_map, dim, shape in zip(
        output.embeddings, output.feature_maps, group.embedding_dims, group.feature_shapes, strict=True
    ):
        assert embedding.shape == (2, dim)
        assert tuple(feature_map.shape[1:]) == shape


def _gradient(plain, inputs, parameter):
    if parameter.grad is None and not getattr(plain, "_measured", False):
        plain.train()(inputs).square().sum().backward()
        plain._measured = True
    return parameter.grad is not None


def _student_parameters(group, number):
    found = {}
    for part in (group.trunk, group.branches[number]):
        if part is not None:
            body = getattr(part, "body", part)
            found.update(body.named_parameters())
    return found


@pytest.mark.fast_for("squeezenet1_0")
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_networks(name):
    torch.manual_seed(0)
    plain = torchvision.models.get_model(name, num_classes=7)
    if name == "squeezenet1_0":  # its classifier is a convolution followed by pooling, and it has no linear layer
        with pytest.raises(CoterieError, match="no linear layer"):
            branch(plain, branches=2, example=torch.zeros(2, 3, 64, 64))
        return
    group = branch(copy.deepcopy(plain), branches=2, at="auto", example=torch.zeros(2, 3, 64, 64))
    assert_is_the_plain_network(plain, group, images(64))


def test_other_batch_and_image_sizes_than_the_traced_one():
    plain = network("resnet10t").eval()
    group = branch(copy.deepcopy(plain), branches=2, at="layer3", example=torch.zeros(2, 3, 64, 64)).eval()
    with torch.no_grad():
        for side, count in ((64, 1), (96, 5), (33, 2)):
            assert torch.equal(group(images(side, count)).logits[0], plain(images(side, count)))


@pytest.mark.parametrize(
    ("name", "options", "side", "shape"),
    [
        ("resnet32_cifar", {}, 32, (64, 8, 8)),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 24, "depths": (1, 1, 2, 1), "window_size": 2}, 64, (192, 2, 2)),
        ("convnext_atto", {}, 64, (320, 2, 2)),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 3}, 32, (5, 192)),
        ("levit_128s", {"distilled": False}, 224, (16, 384)),
        ("mobilenetv3_small_050", {}, 64, (288, 2, 2)),
        ("pit_ti_224", {}, 224, (1, 256)),
    ],
)  # fmt: skip
def test_feature_maps_have_canonical_axes(name, options, side, shape):
    group = branch(network(name, options), branches=1, at=None, example=torch.zeros(2, 3, side, side))
    assert group.feature_shapes == (shape,)


def test_a_network_without_positions_gives_one_token():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    group = branch(plain, branches=2, at="2", example=torch.zeros(2, 3, 2, 2))
    assert group.feature_shapes == ((1, 8), (1, 8))


@pytest.mark.parametrize(
    ("name", "options", "side", "expected"),
    [("resnet32_cifar", {}, 32, "layer3"), ("vit_tiny_patch16_224", {"img_size": 64}, 64, "blocks.8")],
)
def test_the_split_nearest_one_third_of_the_operations(name, options, side, expected):
    assert split_candidates(network(name, options), torch.zeros(1, 3, side, side))[0] == expected


def test_a_suggested_split_is_taken():
    plain = network("tiny_cifar")
    plain.suggested_split = "layer2"
    assert branch(plain, branches=2, example=torch.zeros(2, 3, 8, 8)).split_point == "layer2"


@pytest.mark.slow
def test_fresh_branches_of_an_instance_have_the_same_distribution_and_other_values():
    group = branch(network("resnet10t"), branches=3, at="layer4", example=torch.zeros(2, 3, 64, 64))
    first, *others = (dict(each.named_parameters()) for each in group.branches)
    for other in others:
        for key, parameter in first.items():
            assert torch.equal(parameter.flatten().sort().values, other[key].flatten().sort().values), key
            if parameter.ndim > 1:
                assert not torch.equal(parameter, other[key]), key
    assert not torch.equal(others[0]["fc.weight"], others[1]["fc.weight"])


def test_a_callable_builds_every_branch_and_student_0_is_the_lone_network():
    def build():
        return timm.create_model("resnet10t", num_classes=7)

    group = branch(build, branches=3, at="layer4", seed=5, example=torch.zeros(2, 3, 64, 64))
    with seeded(derive_seed(5, "student", 0)):
        lone = build().state_dict()
    assert all(torch.equal(value, lone[key]) for key, value in group.student(0).state_dict().items())
    weights = [each.get_submodule("fc").weight for each in group.branches]
    assert not torch.equal(weights[0], weights[1])
    assert weights[1].std().item() == pytest.approx(weights[0].std().item(), rel=0.1)


def test_copies_differ_slightly_and_grow_apart():
    plain = network("resnet32_cifar")
    group = branch(plain, branches=2, at="layer3", init="copy", example=torch.zeros(2, 3, 32, 32))
    first, second = (dict(each.named_parameters()) for each in group.branches)
    weight, other = first["layer3.0.conv1.weight"], second["layer3.0.conv1.weight"]
    assert 0.005 < ((weight - other).std() / weight.std()).item() < 0.02
    optimizer = torch.optim.SGD(group.parameters(), lr=0.1)
    distances = []
    for _ in range(3):
        distances.append((weight - other).norm().item())
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(group(images(32, 8)).logits.flatten(0, 1), torch.arange(16) % 7).backward()
        optimizer.step()
    assert distances[2] > distances[1] > distances[0]


def test_peers_share_nothing():
    group = branch(lambda: network("tiny_cifar"), branches=2, at=None, example=torch.zeros(2, 3, 8, 8))
    assert group.trunk is None
    assert group.split_point is None
    assert_is_the_plain_network(network("tiny_cifar"), branch(network("tiny_cifar"), 2, None), images(32))


def test_peers_of_different_architectures():
    plains = [network("tiny_cifar").eval(), network("resnet8_cifar").eval()]
    group = StudentGroup.of([copy.deepcopy(each) for each in plains]).eval()
    with torch.no_grad():
        for logits, plain in zip(group(images(32)).logits, plains, strict=True):
            assert torch.equal(logits, plain(images(32)))
    assert type(group.student(1)) is type(plains[1])
    with pytest.raises(CoterieError, match="same classes"):
        StudentGroup.of([network("tiny_cifar"), timm.create_model("tiny_cifar", num_classes=4)])


@pytest.mark.slow
def test_deepcopy_compile_channels_last_and_saving():
    group = branch(network("ghostnet_050"), branches=2, at="auto", example=torch.zeros(2, 3, 64, 64)).eval()
    clone = copy.deepcopy(group)
    inputs = images(64)
    with torch.no_grad():
        expected = group(inputs).logits
        assert torch.equal(clone(inputs).logits, expected)
        for parameter in clone.parameters():
            parameter.add_(1.0)
        assert torch.equal(group(inputs).logits, expected)
        clone.train()(inputs)  # its train graph works on its own modules
        clone.eval()
        compiled = torch.compile(group, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(inputs).logits, expected)
        moved = copy.deepcopy(group).to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            moved(inputs.contiguous(memory_format=torch.channels_last)).logits, expected, atol=1e-4, rtol=1e-4
        )
    assert save({key: value.contiguous() for key, value in group.state_dict().items()})  # refuses shared memory


def test_the_train_graph_of_a_copy_uses_the_copys_weights():
    group = branch(network("ghostnet_050"), branches=2, at="auto", example=torch.zeros(2, 3, 64, 64))
    clone = copy.deepcopy(group).train()
    clone(images(64)).logits.sum().backward()
    assert all(parameter.grad is None for parameter in group.parameters())
    assert all(parameter.grad is not None for parameter in clone.parameters())


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_gradients_at_the_split(mode):
    torch.manual_seed(0)
    group = branch(
        network("tiny_cifar"), branches=3, at="layer3", trunk_gradient=mode, example=torch.zeros(2, 3, 8, 8)
    ).eval()
    inputs = images(8)
    total = [torch.autograd.grad(group(inputs).logits[i].sum(), list(group.trunk.parameters())) for i in range(3)]
    both = torch.autograd.grad(group(inputs).logits.sum(), list(group.trunk.parameters()))
    for *each, together in zip(*total, both, strict=True):
        torch.testing.assert_close(sum(each), together, atol=1e-5, rtol=1e-4)
    plain = group.student(0)
    alone = torch.autograd.grad(
        plain(inputs).sum(), [dict(plain.named_parameters())[k] for k, _ in group.trunk.named_parameters()]
    )
    for mine, reference in zip(total[0], alone, strict=True):
        torch.testing.assert_close(mine, reference / (3 if mode == "mean" else 1), atol=1e-5, rtol=1e-4)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1))
        self.unused = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        x = self.block(x)
        return self.fc(x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)))


class Unused(Untraceable):
    def forward(self, x):
        return self.fc(self.block(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "at", "message"),
    [
        (lambda: network("tiny_cifar"), "layr3", "did you mean 'layer3'"),
        (lambda: network("tiny_cifar"), "stem", "nothing would be shared"),
        (Tied, "second", "'first.weight' of Tied is used before and after"),
        (Untraceable, "block", r"cannot be traced in .*\nsplit it by hand"),
        (Unused, "unused", "is never called"),
        (Unused, "fc", "after the last feature map"),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224", img_size=32), "auto", "several classifiers"),
    ],
)
def test_what_cannot_be_split_is_said(build, at, message):
    with pytest.raises(CoterieError, match=message) as caught:
        branch(build(), branches=2, at=at, example=torch.zeros(2, 3, 32, 32))
    assert len(str(caught.value).splitlines()) <= 2
