from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.methods.speech.encoder import EncoderTeachers, MaskedGroupNorm, SpeechEncoder, normalised

KINDS = [
    ("hubert", {}),
    ("hubert", {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}),
    ("wavlm", {}),
    ("wav2vec2", {}),
    ("data2vec-audio", {}),
]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=[f"{kind} {number}" for number, (kind, _) in enumerate(KINDS)])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_padded_clip_is_encoded_as_it_is_alone(encoder, network, clips, kind, values, normalize):
    found = encoder(kind, normalize=normalize, **values)
    states, valid = found(**clips)
    assert len(states) == 4
    assert valid.sum(1).tolist() == [24, 17, 9]
    for row, length in enumerate(clips["lengths"].tolist()):
        alone = clips["waveforms"][row : row + 1, :length]
        if normalize:
            alone = (alone - alone.mean()) / (alone.var(unbiased=False) + 1e-7).sqrt()
        expected = network(kind, **values)(alone, output_hidden_states=True).hidden_states
        for state, other in zip(states, expected, strict=True):
            torch.testing.assert_close(state[row, valid[row]], other[0], atol=2e-5, rtol=1e-4)


def test_gradients_through_the_norm_that_ignores_padding():
    layer = nn.GroupNorm(6, 6)
    with torch.no_grad():
        layer.weight.normal_(1.0, 0.3), layer.bias.normal_()
    layer.double()
    lengths = SimpleNamespace(samples=torch.tensor([100, 57, 9]))  # 19, 10 and no frames
    masked = MaskedGroupNorm(layer, lengths, (10,), (5,))
    masked.weight, masked.bias = layer.weight, layer.bias
    values = torch.randn(3, 6, 19, dtype=torch.double, requires_grad=True)
    weights = torch.randn(3, 6, 19, dtype=torch.double)
    gradients = []
    for row, count in ((0, 19), (1, 10)):
        alone = layer(values[row : row + 1, :, :count])
        torch.testing.assert_close(masked(values)[row, :, :count], alone[0], atol=1e-6, rtol=1e-6)
        of = (values, layer.weight, layer.bias)
        expected = torch.autograd.grad((alone * weights[row, :, :count]).sum(), of)
        found = torch.autograd.grad((masked(values)[row, :, :count] * weights[row, :, :count]).sum(), of)
        for each, other in zip(found, expected, strict=True):
            torch.testing.assert_close(each, other, atol=1e-5, rtol=1e-5)
        gradients.append(found[0])
    assert gradients[1][1, :, 10:].count_nonzero() == 0  # nothing flows into padding
    assert masked(values)[2].isfinite().all()


def test_the_extractor_of_transformers_normalises_alike(clips):
    from transformers import Wav2Vec2FeatureExtractor

    rows = [row[:length].numpy() for row, length in zip(clips["waveforms"], clips["lengths"], strict=True)]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    expected = extractor(rows, sampling_rate=16000, padding=True, return_tensors="pt").input_values
    torch.testing.assert_close(normalised(**clips), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "values"), KINDS[:1] + KINDS[4:])
def test_the_plain_network_is_transformers_own(encoder, network, clips, kind, values):
    found, own = encoder(kind, **values), network(kind, **values)
    plain = found.plain()
    assert [type(each).__name__ for each in plain.modules()] == [type(each).__name__ for each in own.modules()]
    assert plain.state_dict().keys() == own.state_dict().keys()
    assert not any(each._forward_hooks for each in plain.modules())
    assert torch.equal(plain(clips["waveforms"])[0], own(clips["waveforms"])[0])
    assert any(each._forward_hooks for each in found.network.modules())


def test_the_gradient_of_the_convolutions_is_scaled(network, clips):
    found = {}
    for factor in (1.0, 0.1, 0.0):
        encoder = SpeechEncoder(network(), False, cnn_gradient=factor)
        encoder(**clips).states[-1].square().sum().backward()
        found[factor] = [each.grad for each in encoder.parameters()]
        early = [each.grad for each in encoder.network.feature_extractor.parameters()]
        assert all(each is None for each in early) if factor == 0 else all(each.abs().sum() > 0 for each in early)
    names = [name for name, _ in encoder.network.named_parameters()]
    assert not any(each.requires_grad for each in encoder.network.feature_extractor.parameters())
    assert encoder.network.feature_projection.projection.weight.requires_grad
    for name, whole, scaled in zip(names, found[1.0], found[0.1], strict=True):
        factor = 0.1 if name.startswith("feature_extractor.") else 1.0
        if whole is not None:
            torch.testing.assert_close(scaled, factor * whole, atol=1e-6, rtol=1e-4)


def test_teachers_stay_as_they_are(encoder, clips):
    teachers = EncoderTeachers([encoder(hidden_dropout=0.5), encoder(seed=1)])
    teachers.train()
    first, second = (teachers(**clips, layers=[[1], [0, 3]]) for _ in range(2))
    assert [len(each.states) for each in first] == [1, 2]
    assert all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x.states, y.states, strict=True)
    )
    assert not first[0].states[0].requires_grad
    assert copy.deepcopy(teachers) is teachers


def test_a_frames_reach_and_stride(encoder):
    found = encoder()
    assert (found.stride, found.reach) == (320, 400)


def test_another_kind_of_network_is_refused():
    with pytest.raises(CoterieError, match="'Linear' is Linear; expected an encoder of speech such as HubertModel"):
        SpeechEncoder(nn.Linear(2, 2), False)
