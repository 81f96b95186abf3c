from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from coterie.errors import CoterieError
from coterie.methods import find_method
from coterie.methods.speech.ekd import EnsembleKD, chosen_layers
from coterie.methods.speech.encoder import EncoderTeachers

AGGREGATIONS = ("heads", "average", "concatenation")


@pytest.fixture
def method(encoder, teachers):
    """``method(*seeds of teachers, **options)``; the student and the heads always begin alike."""

    def build(*seeds, values=None, **options):
        student, taught = encoder(seed=99, num_hidden_layers=1), teachers(*seeds, **(values or {}))
        torch.manual_seed(5)
        return EnsembleKD(student, teachers=taught, **options).eval()

    return build


def s3prl(method, clips, weight=1.0):
    """DistilHuBERT's loss as its code has it: tensors [B, N, T, D], nothing masked, the cosine over features."""
    student = method.encoder(**clips).states[-1]
    teacher = method.encoders.each()[0](**clips).states
    (heads,) = method.heads
    batch, length, width = student.shape
    inner = F.gelu(student @ heads.inner.weight.T + heads.inner.bias).reshape(batch, length, heads.count, width)
    predicted = torch.stack([inner[:, :, n] @ heads.weight[n] + heads.bias[n, 0, 0] for n in range(heads.count)], 1)
    target = torch.stack([teacher[layer] for layer in method.layers[0]], 1)
    distance = F.l1_loss(predicted, target, reduction="none").mean()
    similarity = -F.logsigmoid(F.cosine_similarity(predicted, target, dim=-1)).mean()
    return distance + weight * similarity


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_one_teacher_gives_distilhuberts_loss(method, clips, aggregation):
    found = method(1, aggregation=aggregation, ignore_padding=False, cosine_weight=0.7)
    torch.testing.assert_close(found(clips)["distillation"], s3prl(found, clips, 0.7))


@pytest.mark.parametrize("aggregation", ["heads", "average"])
def test_identical_teachers_are_one(method, clips, aggregation):
    one, two = method(1, aggregation="average"), method(1, 1, aggregation=aggregation)
    for heads in two.heads:
        heads.load_state_dict(one.heads[0].state_dict())
    torch.testing.assert_close(two(clips), one(clips))


def test_an_average_does_not_know_an_order(method, clips):
    first, second = method(1, 2, aggregation="average"), method(2, 1, aggregation="average")
    torch.testing.assert_close(first(clips), second(clips))
    weighted = [method(*seeds, aggregation="average", teacher_weights=w) for seeds, w in (((1, 2), [3, 1]), ((2, 1), [1, 3]))]  # fmt: skip
    torch.testing.assert_close(weighted[0](clips), weighted[1](clips))
    assert abs(weighted[0](clips)["distillation"] - first(clips)["distillation"]) > 1e-5
    heads = method(1, 2), method(2, 1)
    heads[1].heads[0].load_state_dict(heads[0].heads[1].state_dict())
    heads[1].heads[1].load_state_dict(heads[0].heads[0].state_dict())
    torch.testing.assert_close(heads[0](clips), heads[1](clips))


def test_heads_are_as_many_as_teachers_and_layers(method, clips):
    several = method(1, 2, 3, layers=[1, 3])
    assert [each.count for each in several.heads] == [2, 2, 2]
    average = method(1, 2, 3, layers=[1, 3], aggregation="average")
    assert [(each.count, each.weight.shape[2]) for each in average.heads] == [(2, 16)]
    joined = method(1, 2, 3, layers=[1, 3], aggregation="concatenation")
    assert [(each.count, each.weight.shape[2]) for each in joined.heads] == [(2, 48)]
    own = method(1, 2, layers=[[1], [0, 2, 3]])
    assert [each.count for each in own.heads] == [1, 3]
    compared, valid = own.compare(clips)
    assert [(each.teacher, each.layer) for each in compared] == [(0, 1), (1, 0), (1, 2), (1, 3)]
    assert valid.sum(1).tolist() == [24, 17, 9]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_teachers_get_no_gradient_and_the_student_does(method, clips, aggregation):
    found = method(1, 2, aggregation=aggregation)
    sum_ = sum(found(clips).values())
    sum_.backward()
    assert all(each.grad is None and not each.requires_grad for each in found.encoders.parameters())
    assert all(each.grad is not None for each in found.heads.parameters())
    assert found.encoder.network.feature_extractor.conv_layers[0].conv.weight.grad.abs().sum() > 0
    assert not any(name.startswith("_teachers") for name in found.state_dict())
    assert copy.deepcopy(found).encoders is found.encoders


@pytest.mark.parametrize("values", [{}, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}])
def test_padding_and_company_change_nothing(method, clips, values):
    found = method(1, 2, values=values)
    together = found(clips)["distillation"]
    frames = torch.tensor([24, 17, 9])
    alone = []
    for row, length in enumerate(clips["lengths"].tolist()):
        one = {"waveforms": clips["waveforms"][row : row + 1, :length], "lengths": clips["lengths"][row : row + 1]}
        alone.append(found(one)["distillation"])
    torch.testing.assert_close(together, (torch.stack(alone) * frames).sum() / frames.sum(), atol=1e-5, rtol=1e-5)
    wider = {**clips, "waveforms": F.pad(clips["waveforms"], (0, 1600), value=3.0)}
    torch.testing.assert_close(found(wider)["distillation"], together, atol=1e-5, rtol=1e-5)
    counted = method(1, 2, values=values, ignore_padding=False)
    assert abs(counted(wider)["distillation"] - counted(clips)["distillation"]) > 1e-4


def test_teachers_hear_what_is_clean(method, clips):
    found = method(1, 2)
    noisy = {**clips, "distorted": clips["waveforms"] + 0.3}
    compared, _ = found.compare(noisy)
    clean, _ = found.compare(clips)
    assert all(torch.equal(each.target, other.target) for each, other in zip(compared, clean, strict=True))
    assert not torch.allclose(compared[0].predicted, clean[0].predicted)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_what_is_compared_is_what_is_learnt(method, clips, aggregation):
    """Of heads the loss is the mean of what is measured; averages and concatenations are taken apart."""
    found = method(1, 2, aggregation=aggregation, cosine_weight=0.0)
    compared, valid = found.compare(clips)
    distances = torch.stack([(each.predicted - each.target).abs().mean(-1)[valid].mean() for each in compared])
    if aggregation == "average":
        assert torch.equal(compared[0].predicted, compared[3].predicted)
        assert distances.mean() >= found(clips)["distillation"]  # by Jensen's inequality
    else:
        torch.testing.assert_close(distances.mean(), found(clips)["distillation"])


def test_residual_heads_say_how_the_teachers_differ(method, clips):
    found = method(1, 2, 3, aggregation="average", residual_weight=0.5, teacher_weights=[1, 2, 1])
    losses = found(clips)
    assert set(losses) == {"distillation", "residual"}
    assert found.residual_heads.count == 6
    compared, _ = found.compare(clips)
    parts = [torch.stack([each.predicted for each in compared if each.teacher == number]) for number in range(3)]
    mean = found.heads[0](found.encoder(**clips).states[-1])
    torch.testing.assert_close((parts[0] + 2 * parts[1] + parts[2]) / 4, mean, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(parts[0], parts[1])


def test_frames_can_be_normalised(method, clips):
    found = method(1, normalize="frame")
    compared, _ = found.compare(clips)
    for each in compared:
        torch.testing.assert_close(each.target.mean(-1), torch.zeros(3, 24), atol=1e-5, rtol=0)
        torch.testing.assert_close(each.target.var(-1, unbiased=False), torch.ones(3, 24), atol=1e-2, rtol=0)


def test_a_frame_less_is_cut(encoder, clips):
    """A last convolution that is wider; a teacher of another rate is refused."""
    wider = EncoderTeachers([encoder(conv_kernel=[10, 3, 3, 3, 3, 2, 4])])
    found = EnsembleKD(encoder(seed=3), teachers=wider)
    (first, *_), valid = found.compare(clips)
    assert first.predicted.shape == first.target.shape == (3, 23, 16)
    assert valid.shape == (3, 23)
    assert torch.isfinite(found(clips)["distillation"])
    with pytest.raises(CoterieError, match="'hubert 0' has a frame every 160 samples, the student every 320"):
        EnsembleKD(encoder(), teachers=EncoderTeachers([encoder(conv_stride=[5, 2, 2, 2, 2, 2, 1])]))


def test_layers_by_default(encoder):
    def of(*depths, aligned=False):
        return chosen_layers([encoder(num_hidden_layers=depth) for depth in depths], None, aligned)

    assert of(12, 24, 3, 2, 1) == [[4, 8, 12], [8, 16, 24], [1, 2, 3], [1, 2], [1]]
    assert of(12, 2, aligned=True) == [[8, 12], [1, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [4]}, "'hubert 1' has the hidden states 0 to 3"),
        ({"layers": [1, 1]}, "expected different numbers"),
        ({"layers": []}, "expected different numbers"),
        ({"layers": [[1], [2], [3]]}, "there are 2 teachers"),
        ({"layers": [[1], [2, 3]], "aggregation": "average"}, "equally many layers"),
        ({"teacher_weights": [1.0]}, "there are 2 teachers"),
        (
            {"teacher_weights": [1.0, 2.0], "aggregation": "concatenation"},
            "no effect with method.aggregation=concatenation",
        ),
        ({"residual_weight": 1.0}, "with method.aggregation=average and several teachers only"),
    ],
)
def test_settings_that_do_not_fit(method, options, message):
    with pytest.raises(CoterieError, match=message):
        method(1, 2, **options)


def test_widths_that_differ_are_no_matter_for_heads(encoder, clips):
    unequal = EncoderTeachers([encoder(), encoder(hidden_size=24, seed=1)])
    student = encoder(seed=2)
    assert torch.isfinite(EnsembleKD(student, teachers=unequal)(clips)["distillation"])
    joined = EnsembleKD(student, teachers=unequal, aggregation="concatenation")
    assert torch.isfinite(joined(clips)["distillation"])
    assert [each.predicted.shape[-1] for each in joined.compare(clips)[0]] == [16, 16, 16, 24, 24, 24]
    with pytest.raises(CoterieError, match=r"\[16, 24\] features; use heads or concatenation"):
        EnsembleKD(student, teachers=unequal, aggregation="average")


@pytest.mark.slow
def test_training_brings_the_student_to_its_teachers(method, clips):
    found = method(1, 2).train()
    optimizer = torch.optim.AdamW(found.parameters(), 3e-3)
    before = found(clips)["distillation"].item()
    for _ in range(12):
        sum(found(clips).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert found(clips)["distillation"].item() < 0.9 * before


def test_what_is_deployed_is_the_plain_encoder(method):
    found = method(1)
    assert type(found.student()).__name__ == "HubertModel"
    assert found.num_students == 1
    with pytest.raises(CoterieError, match="ekd needs teachers"):
        EnsembleKD(found.encoder)
    assert find_method("coterie.methods.speech.ekd:EnsembleKD") is EnsembleKD
