from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from coterie.errors import CoterieError
from coterie.methods import create_method
from coterie.networks.teacher import Teacher, Teachers
from coterie.tasks.language.causal_lm import CausalLM, LanguageGroup, example_batch
from coterie.tasks.language.data.rows import label_positions, label_targets
from coterie.tasks.language.networks import load_causal_lm

WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
# What each does to its logits stands beside it: nothing, a cap, a scale.
KINDS = {
    "llama": WIDTH,
    "qwen2": {**WIDTH, "num_key_value_heads": 2},
    "gemma2": {**WIDTH, "num_key_value_heads": 2, "final_logit_softcapping": 0.05},
    "granite": {**WIDTH, "logits_scaling": 4.0},
    "cohere": {**WIDTH, "logit_scale": 0.1, "pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "gpt_neox": WIDTH,
    "opt": {
        "ffn_dim": 64,
        **{key: value for key, value in WIDTH.items() if key != "intermediate_size"},
        "word_embed_proj_dim": 32,
    },
}


def network_of(kind, seed=0, **changes):
    return load_causal_lm({"model_type": kind, "vocab_size": 50, **KINDS[kind], **changes}, seed=seed).eval()


def batch_of(rows=3, length=9, ignored=4):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 50, (rows, length), generator=generator)
    labels = tokens.clone()
    labels[0, :ignored] = -100
    return {"input_ids": tokens, "positions": label_positions(labels)}, labels


@pytest.mark.parametrize("kind", list(KINDS))
def test_logits_are_the_networks_own_at_the_positions_that_count(kind):
    network = network_of(kind)
    plain = copy.deepcopy(network)
    batch, labels = batch_of()
    logits, embedding, feature_map = CausalLM(network).eval()(batch)
    with torch.no_grad():
        output = plain(batch["input_ids"], labels=labels, output_hidden_states=True)
    expected = output.logits[:, :-1][labels[:, 1:] != -100]
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(embedding, output.hidden_states[-1][batch["positions"]])
    assert torch.equal(feature_map, embedding.unsqueeze(1))
    places = {**batch, "positions": batch["positions"].flatten().nonzero().squeeze(1)}
    assert torch.equal(CausalLM(copy.deepcopy(plain)).eval()(places)[0], logits)
    torch.testing.assert_close(cross_entropy(logits, label_targets(labels)), output.loss)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_gradients_are_the_networks_own(kind):
    network = network_of(kind)
    plain = copy.deepcopy(network)
    batch, labels = batch_of()
    cross_entropy(CausalLM(network)(batch)[0], label_targets(labels)).backward()
    plain(batch["input_ids"], labels=labels).loss.backward()
    for (name, ours), expected in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, msg=name)


def test_the_output_embedding_sees_no_other_position():
    network = network_of("llama")
    student = CausalLM(network)
    seen = []
    network.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    batch, _ = batch_of()
    student(batch)
    assert not student.slices
    assert seen == [(int(batch["positions"].sum()), 50)]


def test_padding_changes_nothing():
    student = CausalLM(network_of("gpt2")).eval()
    batch, _ = batch_of(ignored=1)
    padded = {
        "input_ids": torch.cat([batch["input_ids"], torch.zeros(3, 2, dtype=torch.int64)], 1),
        "attention_mask": torch.cat([torch.ones(3, 9, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)], 1),
        "positions": torch.cat([batch["positions"], torch.zeros(3, 2, dtype=torch.bool)], 1),
    }
    torch.testing.assert_close(student(padded)[0], student(batch)[0])


def test_a_head_that_does_more_than_gathering_allows_is_sliced():
    """Its logits depend on how long the row is, so that gathering before it would change them."""

    class Centred(torch.nn.Linear):
        def forward(self, hidden):
            logits = super().forward(hidden)
            return logits - logits.mean(dim=-2, keepdim=True) * 0 + hidden.shape[-2]

    network = network_of("llama")
    head = Centred(32, 50, bias=False)
    head.load_state_dict(network.lm_head.state_dict())
    network.set_output_embeddings(head)
    student = CausalLM(network).eval()
    batch, _ = batch_of()
    assert student.slices
    torch.testing.assert_close(student(batch)[0], student.plain()(batch["input_ids"]).logits[batch["positions"]])


def test_what_looks_at_later_tokens_is_refused():
    config = {"model_type": "bert", "vocab_size": 50, **WIDTH}
    del config["head_dim"]
    with pytest.raises(CoterieError, match="BertLMHeadModel is no causal language model"):
        CausalLM(load_causal_lm(config))
    CausalLM(load_causal_lm({**config, "is_decoder": True}))


def test_rows_beyond_the_vocabulary_are_left_out():
    network = network_of("llama")
    batch, _ = batch_of()
    whole = CausalLM(copy.deepcopy(network)).eval()(batch)[0]
    assert torch.equal(CausalLM(network, vocabulary=47).eval()(batch)[0], whole[:, :47])


def test_a_group_gives_plain_students_that_share_nothing_with_it():
    group = LanguageGroup([CausalLM(network_of("llama", seed)) for seed in range(2)])
    assert (group.num_classes, group.embedding_dims, group.feature_shapes) == (50, (32, 32), ((1, 32), (1, 32)))
    assert [each.out_features for each in group.classifiers] == [50, 50]
    batch, _ = batch_of()
    output = group(batch)
    positions = int(batch["positions"].sum())
    assert output.logits.shape == (2, positions, 50)
    assert [each.shape for each in output.embeddings] == [(positions, 32)] * 2
    views = group([batch, batch])
    assert torch.equal(views.logits, output.logits)
    student = group.eval().student(1)
    assert type(student).__name__ == "LlamaForCausalLM"
    assert not student.lm_head._forward_pre_hooks
    torch.testing.assert_close(student(batch["input_ids"]).logits[batch["positions"]], group(batch).logits[1])
    with torch.no_grad():
        group.classifiers[1].weight.add_(1)
    assert not torch.equal(student.lm_head.weight, group.classifiers[1].weight)
    with pytest.raises(CoterieError, match="no student 2"):
        group.student(2)


def test_a_copy_of_a_group_runs_by_itself():
    group = LanguageGroup([CausalLM(network_of("llama"))]).eval()
    batch, _ = batch_of()
    twin = copy.deepcopy(group)
    expected = group(batch).logits
    with torch.no_grad():
        group.branches[0].network.model.norm.weight.mul_(2)
    assert torch.equal(twin(batch).logits, expected)
    assert not torch.equal(group(batch).logits, expected)


@pytest.mark.parametrize("name", ["rlkd", "kd"])
def test_methods_of_logits_teach_language_models_unchanged(name):
    student, teacher = CausalLM(network_of("gpt2", 1)), CausalLM(network_of("llama", 2))
    taught = Teachers([Teacher(teacher, example_batch(), name="teacher", in_parts=True)])
    method = create_method(name, LanguageGroup([student]), teachers=taught)
    batch, labels = batch_of()
    losses = method(batch, label_targets(labels))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_peers_teach_one_another():
    group = LanguageGroup([CausalLM(network_of("llama", seed)) for seed in range(2)])
    batch, labels = batch_of()
    method = create_method("dml", group)
    sum(method(batch, label_targets(labels)).values()).backward()
    assert all(parameter.grad is not None for parameter in group.parameters())
    assert method.eval().predict(batch).logits.shape == (2, int(batch["positions"].sum()), 50)


def test_a_tied_embedding_stays_tied():
    group = LanguageGroup([CausalLM(network_of("llama", tie_word_embeddings=True))])
    student = group.student(0)
    assert student.lm_head.weight is student.model.embed_tokens.weight
    keys = list(group.state_dict())
    assert "branches.0.network.lm_head.weight" in keys
