from __future__ import annotations

import pytest
import torch

from coterie.errors import CoterieError
from coterie.tasks.language.layers import cut_layers, kept_layers
from coterie.tasks.language.networks import load_causal_lm

TOKENS = torch.arange(18).view(2, 9)
PLAIN = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4}
GROUPED = {**PLAIN, "num_key_value_heads": 2}
KINDS = {
    "llama": {**GROUPED, "head_dim": 16},
    "qwen2": GROUPED,
    "gemma2": {**GROUPED, "head_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 16},
    "gpt_neox": PLAIN,
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 2,
        "window_size": 3,
        "attention_types": [[["global", "local"], 2]],
    },
}


def network_of(kind, **changes):
    return load_causal_lm({"model_type": kind, "vocab_size": 50, **KINDS[kind], **changes}, seed=1).eval()


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_cut_with_all_layers_is_the_same_bit_by_bit(kind):
    network = network_of(kind)
    whole = cut_layers(network, [0, 1, 2, 3])
    assert torch.equal(whole(TOKENS).logits, network(TOKENS).logits)
    with torch.no_grad():
        next(network.parameters()).zero_()
    assert not torch.equal(whole(TOKENS).logits, network(TOKENS).logits)  # it shares nothing


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_layers_between_are_skipped(kind, tmp_path):
    """Against the network itself, two of whose blocks hand on what they get."""
    network = network_of(kind)
    cut = cut_layers(network, [0, 2])
    assert cut.config.num_hidden_layers == 2
    lists = [each for each in network.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == 4]
    for number in (1, 3):
        lists[0][number].forward = lambda hidden, *_, **__: (hidden,) if kind == "gpt_neo" else hidden
    torch.testing.assert_close(cut(TOKENS).logits, network(TOKENS).logits)
    cut.save_pretrained(tmp_path)
    assert torch.equal(load_causal_lm(tmp_path).eval()(TOKENS).logits, cut(TOKENS).logits)


def test_settings_of_single_layers_go_with_them():
    network = network_of("gemma2", sliding_window=3)
    assert network.config.layer_types == ["sliding_attention", "full_attention"] * 2
    cut = cut_layers(network, [1, 3])
    assert cut.config.layer_types == ["full_attention"] * 2


def test_type_and_tying_stay():
    network = network_of("llama", tie_word_embeddings=True).to(torch.bfloat16)
    cut = cut_layers(network, [3])
    assert cut.lm_head.weight is cut.model.embed_tokens.weight
    assert cut.dtype == torch.bfloat16


def test_numbers_that_make_no_sense_are_refused():
    assert kept_layers(12, every=4) == [0, 4, 8]
    assert kept_layers(12, layers=[0, 11]) == [0, 11]
    for layers in ([], [1, 0], [0, 0], [0, 12], [-1, 2]):
        with pytest.raises(CoterieError, match="rising numbers from 0 to 11, the network has 12 layers"):
            kept_layers(12, layers=layers)
    with pytest.raises(CoterieError, match="every=0"):
        kept_layers(12, every=0)
    for both in ({}, {"layers": [0], "every": 2}):
        with pytest.raises(CoterieError, match="one of them"):
            kept_layers(12, **both)


def test_what_shows_no_list_of_blocks_is_refused():
    network = network_of("llama")
    network.config.num_hidden_layers = 7
    with pytest.raises(CoterieError, match="shows none where one list of 7 blocks was expected"):
        cut_layers(network, [0])
