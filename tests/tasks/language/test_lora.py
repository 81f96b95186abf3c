from __future__ import annotations

import copy
import sys

import pytest
import torch

from coterie.errors import CoterieError
from coterie.tasks.language.causal_lm import CausalLM, LanguageGroup
from coterie.tasks.language.data.rows import label_positions
from coterie.tasks.language.lora import add_lora, has_lora, merged, save_memory

pytest.importorskip("peft")
TOKENS = torch.arange(18).view(2, 9)
BATCH = {"input_ids": TOKENS, "positions": label_positions(TOKENS)}


def moved(network):
    """With a second matrix that is not zero, as after training."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return network


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_merged_weights_say_what_lora_says(tiny_lm, kind, targets, recwarn):
    network = tiny_lm(kind, scale=1.0)
    before = network(TOKENS).logits
    keys = network.state_dict().keys()
    student = add_lora(network, rank=4, targets=targets)
    assert torch.equal(student.eval()(TOKENS).logits, before)  # nothing is changed at the start
    moved(student)
    logits = student(TOKENS).logits
    assert (logits - before).abs().max() > 0.05
    plain = merged(student)
    assert plain.state_dict().keys() == keys
    assert type(plain) is type(tiny_lm(kind))
    assert all(parameter.requires_grad for parameter in plain.parameters())
    torch.testing.assert_close(plain(TOKENS).logits, logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(student(TOKENS).logits, logits, atol=0, rtol=0)  # it is not changed by that
    assert not [each for each in recwarn if "fan_in_fan_out" in str(each.message)]


def test_lora_alone_is_trained(tiny_lm):
    student = CausalLM(add_lora(tiny_lm(), rank=4))
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    student(BATCH)[0].square().mean().backward()
    for name, parameter in student.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
    assert not student.slices


def test_a_groups_student_has_its_lora_in_its_weights(tiny_lm):
    group = LanguageGroup([CausalLM(moved(add_lora(tiny_lm())))]).eval()
    student = group.student(0)
    assert not has_lora(student)
    assert student.state_dict().keys() == tiny_lm().state_dict().keys()
    torch.testing.assert_close(student(TOKENS).logits[BATCH["positions"]], group(BATCH).logits[0], atol=1e-5, rtol=1e-4)


def test_lora_of_the_output_embedding_is_added_to_its_weights(tiny_lm):
    group = LanguageGroup([CausalLM(moved(add_lora(tiny_lm(), targets=["lm_head"])))]).eval()
    student = group.student(0)
    assert not has_lora(student)
    torch.testing.assert_close(student(TOKENS).logits[BATCH["positions"]], group(BATCH).logits[0], atol=1e-5, rtol=1e-4)


def test_initial_values_depend_on_seed_and_name_alone(tiny_lm):
    def values(seed, **sizes):
        torch.randn(3)
        return {
            key: each for key, each in add_lora(tiny_lm(**sizes), seed=seed).state_dict().items() if "lora_A" in key
        }

    first, again, other, deeper = values(1), values(1), values(2), values(1, num_hidden_layers=3)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)
    assert all(torch.equal(first[key], deeper[key]) for key in first)


def test_dropout_is_on_in_training_only(tiny_lm):
    student = moved(add_lora(tiny_lm(), dropout=0.5))
    assert not torch.equal(student.train()(TOKENS).logits, student(TOKENS).logits)
    assert torch.equal(student.eval()(TOKENS).logits, student(TOKENS).logits)


def test_a_copy_of_a_network_without_lora_is_whole(tiny_lm):
    network = tiny_lm()
    plain = merged(network)
    assert plain is not network
    assert torch.equal(plain(TOKENS).logits, network(TOKENS).logits)


def test_settings_out_of_bounds_and_unknown_layers_are_refused(tiny_lm, monkeypatch):
    for wrong in ({"rank": 0}, {"alpha": 0}, {"dropout": 1.0}):
        with pytest.raises(CoterieError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
            add_lora(tiny_lm(), **wrong)
    with pytest.raises(CoterieError, match=r"network.lora.targets: no layer is called 'no_such_layer'; .*o_proj"):
        add_lora(tiny_lm(), targets=["no_such_layer"])
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CoterieError, match="needs the package peft"):
        add_lora(tiny_lm())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_layer_is_a_target_by_its_name_and_none_by_a_misspelt_one(tiny_lm, kind):
    names = {"llama": ["q_proj", "down_proj", "embed_tokens"], "gpt2": ["c_attn", "c_fc", "wte"]}[kind]
    for name in names:
        wrong = name[:1] + name[2:]
        for targets in (wrong, [wrong], f"{names[0]},{wrong}"):
            with pytest.raises(CoterieError, match=rf"no layer is called '{wrong}' \(did you mean '{name}'\?\)"):
                add_lora(tiny_lm(kind), targets=targets)
        adapted = add_lora(tiny_lm(kind), targets=name)
        assert all(f".{name}.lora_" in key for key, value in adapted.named_parameters() if value.requires_grad)
    both = add_lora(tiny_lm(kind), targets=", ".join(names[:2]))
    assert {name for name in names[:2] if any(f".{name}.lora_" in key for key, _ in both.named_parameters())} == set(
        names[:2]
    )
    with pytest.raises(CoterieError, match="did you mean 'all-linear'"):
        add_lora(tiny_lm(kind), targets="all-linaer")
    container = {"llama": "mlp", "gpt2": "attn"}[kind]
    with pytest.raises(CoterieError, match=f"'{container}' is no layer with a matrix"):
        add_lora(tiny_lm(kind), targets=[container])


@pytest.mark.parametrize("lora", [False, True])
def test_saving_memory_changes_no_gradient(tiny_lm, lora):
    network = moved(add_lora(tiny_lm())) if lora else tiny_lm()
    saving = copy.deepcopy(network)
    save_memory(saving)
    runs = []
    for block in saving.get_base_model().model.layers if lora else saving.model.layers:
        block.self_attn.register_forward_hook(lambda *_: runs.append(1))
    results = []
    for each in (network, saving):
        student = CausalLM(each.train())
        runs.clear()
        student(BATCH)[0].square().mean().backward()
        results.append([parameter.grad for parameter in student.parameters() if parameter.grad is not None])
    assert len(runs) == 4  # each of two blocks twice
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)
    save_memory(saving, False)
    assert saving.config.use_cache
