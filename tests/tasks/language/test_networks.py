from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest
import torch

from coterie.errors import CoterieError
from coterie.networks import hub
from coterie.networks.hugging_face import describe_config, require_known_values
from coterie.tasks.language.layers import cut_layers
from coterie.tasks.language.networks import (
    build_causal_lm,
    load_causal_lm,
    named,
    read_tokenizer,
    shared_vocabulary,
)

TINY = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
TINY_GPT = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16}


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_initial_weights_depend_on_seed_and_name_alone():
    first = load_causal_lm(TINY, seed=1)
    torch.randn(7)  # what the global generator holds has no part in it
    assert same(first, load_causal_lm(TINY, seed=1))
    assert not same(first, load_causal_lm(TINY, seed=2))
    deeper = load_causal_lm({**TINY, "num_hidden_layers": 3}, seed=1).state_dict()
    assert all(torch.equal(deeper[key], value) for key, value in first.state_dict().items())
    blocks = [deeper[f"model.layers.{number}.self_attn.q_proj.weight"] for number in range(3)]
    assert not torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks[1], blocks[2])


@pytest.mark.parametrize("values", [TINY, TINY_GPT])
def test_initial_weights_follow_the_architectures_own_rules(values):
    """Each tensor's spread, against what transformers draws itself (GPT-2 scales its residual layers by the number of blocks)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    expected = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).state_dict()
    for key, value in load_causal_lm(values).state_dict().items():
        if expected[key].numel() > 1000:
            assert value.std().item() == pytest.approx(expected[key].std().item(), rel=0.15), key
        elif expected[key].std() == 0:
            assert torch.equal(value, expected[key]), key


def test_a_building_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    load_causal_lm(TINY)
    assert torch.equal(torch.randn(3), expected)


def test_weights_come_from_a_folder_where_there_are_some(tmp_path):
    network = load_causal_lm(TINY, seed=1)
    network.save_pretrained(tmp_path / "whole")
    network.config.save_pretrained(tmp_path / "sizes")
    assert same(load_causal_lm(tmp_path / "whole", seed=5), network)
    assert same(load_causal_lm(str(tmp_path / "whole"), pretrained=False, seed=5), load_causal_lm(TINY, seed=5))
    assert same(load_causal_lm(tmp_path / "sizes", seed=5), load_causal_lm(TINY, seed=5))
    values = tmp_path / "tiny.json"
    values.write_text(json.dumps(TINY))
    assert same(load_causal_lm(values, seed=1), network)
    assert load_causal_lm(tmp_path / "whole", dtype=torch.bfloat16).dtype == torch.bfloat16
    assert named([tmp_path / "whole", TINY, "user/name"]) == ["whole", "llama", "user/name"]


def test_what_holds_no_weights_that_are_read_is_refused(tmp_path):
    network = load_causal_lm(TINY)
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CoterieError, match="holds no weights in safetensors"):
        load_causal_lm(tmp_path, pretrained=True)
    with pytest.raises(CoterieError, match="holds sizes but no weights"):
        load_causal_lm(TINY, pretrained=True)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(CoterieError, match="names no model_type"):
        load_causal_lm(tmp_path / "other.json")
    with pytest.raises(CoterieError, match="no JSON file of a configuration"):
        load_causal_lm(tmp_path / "missing.json")
    with pytest.raises(CoterieError, match="gives no causal language model"):
        load_causal_lm({"model_type": "vit"})
    with pytest.raises(CoterieError, match="model_type='no_such_thing' is no network of transformers"):
        load_causal_lm({"model_type": "no_such_thing"})


KINDS = ["llama", "gpt2", "qwen2", "mistral", "gpt_neox", "opt", "bloom", "phi3", "gemma3_text", "mamba", "deepseek_v3"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_misspelt_key_of_a_configuration_is_named_with_the_right_one(kind):
    """Every key that a kind writes itself is taken, and none with two letters changed places."""
    from transformers import CONFIG_MAPPING

    own = describe_config(CONFIG_MAPPING[kind]())
    require_known_values(own, "here")
    for key in sorted(each for each in own if each[0] != "_" and each != "model_type")[::4]:
        wrong = key[:2] + key[3:4] + key[2:3] + key[4:] if key[2:3] != key[3:4] else f"{key}_"
        values = {name: value for name, value in own.items() if name != key} | {wrong: own[key]}
        with pytest.raises(CoterieError, match=rf"here: \w+ knows no '{wrong}' \(did you mean '\w+'\?\)") as caught:
            require_known_values(values, "here")
        assert f"'{key}'" in str(caught.value)


def test_keys_that_are_read_without_being_fields_are_taken():
    require_known_values({**TINY, "rope_theta": 5e5, "torch_dtype": "float32", "transformers_version": "4.40"}, "here")
    require_known_values({"model_type": "gpt2", "hidden_size": 32, "num_hidden_layers": 1}, "here")  # other names
    require_known_values({"model_type": "gpt_neox", "rotary_pct": 0.5}, "here")
    require_known_values({"model_type": "qwen2", "head_dim": 8}, "here")  # which the network's own code asks for
    with pytest.raises(CoterieError, match="OPTConfig knows no 'intermediate_size'"):  # it is ffn_dim there
        require_known_values({"model_type": "opt", "intermediate_size": 8}, "here")


def test_misspelt_keys_of_files_and_of_networks_within_networks(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({**TINY, "num_hiden_layers": 7}))
    with pytest.raises(CoterieError, match=r"tiny.json.: LlamaConfig knows no .*did you mean 'num_hidden_layers'"):
        load_causal_lm(path)
    path.write_text(json.dumps({**TINY, "model_type": "lama"}))
    with pytest.raises(CoterieError, match=r"model_type='lama' is no network of transformers \(did you mean 'llama'"):
        load_causal_lm(path)
    with pytest.raises(CoterieError, match=r"here, text_config: .*did you mean 'hidden_size'"):
        require_known_values({"model_type": "gemma3", "text_config": {"hiden_size": 8}}, "here")


def test_weights_that_are_not_all_there_are_refused(tmp_path):
    from transformers import LlamaModel

    bare = load_causal_lm(TINY)
    LlamaModel(bare.config).save_pretrained(tmp_path)
    with pytest.raises(CoterieError, match=r"no trained causal language model: lm_head\.weight"):
        load_causal_lm(tmp_path)


def test_a_name_without_a_network_is_given_up_on_within_seconds(monkeypatch):
    import huggingface_hub

    start = time.perf_counter()
    with pytest.raises(CoterieError, match=r"there is no folder 'user/no-such-model', and .* HF_HUB_OFFLINE") as error:
        load_causal_lm("user/no-such-model")
    assert "\n" not in str(error.value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "DEADLINE", 0.1)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda address, timeout: time.sleep(2))
    with pytest.raises(CoterieError, match=r"no answer within 0\.1 s"):
        load_causal_lm("user/no-such-model")
    assert time.perf_counter() - start < 5


def test_code_beside_weights_is_not_run(tmp_path):
    load_causal_lm(TINY).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values |= {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}, "model_type": "own"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(CoterieError, match="no configuration that can be read"):
        load_causal_lm(tmp_path)
    assert not (tmp_path / "ran").exists()


def write_gguf(path, network, tokens):
    """A Llama as llama.cpp writes it: other names, rotary halves interleaved, numbers beside."""
    import gguf

    config, state = network.config, {key: value.numpy() for key, value in network.state_dict().items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    def interleaved(weight, heads):
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))

    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for key, value in state.items():
        if key.startswith("model.layers."):
            _, _, number, rest = key.split(".", 3)
            heads = config.num_attention_heads
            value = interleaved(value, heads) if rest.startswith(("self_attn.q", "self_attn.k")) else value
            writer.add_tensor(f"blk.{number}.{names[rest.removesuffix('.weight')]}.weight", value)
        else:
            outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            writer.add_tensor(f"{outer[key.removesuffix('.weight')]}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_read(tmp_path):
    pytest.importorskip("gguf")
    network = load_causal_lm(TINY, seed=3).eval()
    tokens = ["<end>", "a", "b", "ab", *(f"word{number}" for number in range(46))]
    path = tmp_path / "tiny.gguf"
    write_gguf(path, network, tokens)
    found = load_causal_lm(path).eval()
    batch = torch.randint(50, (2, 9))
    torch.testing.assert_close(found(batch).logits, network(batch).logits)
    assert read_tokenizer(path)("ab")["input_ids"][-1] == 3
    for name, each in {"whole": found, "cut": cut_layers(found, [0])}.items():  # plain networks, which can be saved
        each.save_pretrained(tmp_path / name)
        again = load_causal_lm(tmp_path / name).eval()
        torch.testing.assert_close(again(batch).logits, each.eval()(batch).logits)
        again.save_pretrained(tmp_path / f"{name}_again")
        assert "quantization" not in (tmp_path / name / "config.json").read_text()
    with pytest.raises(CoterieError, match="there is no file"):
        load_causal_lm(tmp_path / "other.gguf")
    with pytest.raises(CoterieError, match="is a file of weights"):
        load_causal_lm(path, pretrained=False)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(CoterieError, match=r"broken\.gguf' cannot be loaded"):
        load_causal_lm(tmp_path / "broken.gguf")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(CoterieError, match="needs the package gguf: pip install gguf"):
        load_causal_lm(tmp_path / "tiny.gguf")


def test_rows_that_are_padding_are_cut_and_said(tokenizer):
    tokens = len(tokenizer)
    student = load_causal_lm({**TINY, "vocab_size": tokens})
    teacher = load_causal_lm({**TINY, "vocab_size": tokens + 5})
    assert shared_vocabulary(tokenizer, {"student": teacher, "teacher": teacher}) == (None, None)
    found = shared_vocabulary(tokenizer, {"student": student, "teacher": teacher})
    assert found.size == tokens
    assert f"student {tokens}, teacher {tokens + 5}" in found.note
    with pytest.raises(CoterieError, match=f"'small' has 50 logits, and the tokenizer {tokens} tokens"):
        shared_vocabulary(tokenizer, {"small": load_causal_lm(TINY), "teacher": teacher})


def test_the_type_of_parameters():
    from transformers import AutoConfig

    assert build_causal_lm(AutoConfig.for_model(**TINY), dtype=torch.bfloat16).lm_head.weight.dtype == torch.bfloat16
