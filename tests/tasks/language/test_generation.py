from __future__ import annotations

import copy

import pytest
import torch

from coterie.errors import CoterieError
from coterie.tasks.language.generation import continue_prompts, end_tokens
from coterie.tasks.language.lora import save_memory

PROMPTS = ["the cat", "a dog ran in the park and", "x"]


def step_by_step(network, tokenizer, prompt, new):
    """The likeliest token of the whole text so far, again and again."""
    tokens = tokenizer(prompt)["input_ids"]
    start = len(tokens)
    for _ in range(new):
        with torch.no_grad():
            token = int(network(torch.tensor([tokens])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        tokens.append(token)
    return tokenizer.decode(tokens[start:], skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_greedy_text_is_that_of_single_steps(tiny_lm, tokenizer, kind, batch_size):
    network = tiny_lm(kind)
    expected = [step_by_step(network, tokenizer, prompt, 10) for prompt in PROMPTS]
    assert continue_prompts(network, tokenizer, PROMPTS, max_new_tokens=10, batch_size=batch_size) == expected
    assert len(set(expected)) == 3


def test_a_text_ends_with_its_end(tiny_lm, tokenizer):
    network = tiny_lm()
    network.generation_config.eos_token_id = 2  # of another tokenizer
    assert end_tokens(network, tokenizer) == [tokenizer.eos_token_id]
    with torch.no_grad():
        network.lm_head.weight[tokenizer.eos_token_id] = 0
    texts = continue_prompts(network, tokenizer, PROMPTS, max_new_tokens=12)
    head = network.lm_head.weight
    with torch.no_grad():  # the end as likely as what came first
        end = tokenizer(texts[0])["input_ids"][2]
        head[tokenizer.eos_token_id] = head[end] * 1.001 if head[end].sum() > 0 else head[end]
    (shorter,) = continue_prompts(network, tokenizer, PROMPTS[:1], max_new_tokens=12)
    assert shorter == step_by_step(network, tokenizer, PROMPTS[0], 12)
    assert "<|endoftext|>" not in shorter


def test_several_ends_of_a_network_are_kept(tiny_lm, tokenizer):
    network = tiny_lm()
    network.generation_config.eos_token_id = [tokenizer.eos_token_id, 7]
    assert end_tokens(network, tokenizer) == [tokenizer.eos_token_id, 7]


def test_drawn_text_depends_on_the_seed_alone(tiny_lm, tokenizer):
    def drawn(**options):
        torch.randn(3)
        return continue_prompts(tiny_lm(), tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, **options)

    state = torch.get_rng_state()
    continue_prompts(tiny_lm(), tokenizer, PROMPTS, max_new_tokens=2, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    assert drawn(top_p=1e-6) == continue_prompts(tiny_lm(), tokenizer, PROMPTS, max_new_tokens=8)


def test_the_networks_own_settings_have_no_say_and_stay(tiny_lm, tokenizer):
    network = tiny_lm()
    expected = continue_prompts(network, tokenizer, PROMPTS, max_new_tokens=8)
    network.generation_config.update(do_sample=True, repetition_penalty=9.0, temperature=2.0)
    own = copy.deepcopy(network.generation_config)
    network.train()
    assert continue_prompts(network, tokenizer, PROMPTS, max_new_tokens=8) == expected
    assert network.generation_config == own
    assert network.training


def test_a_network_that_saves_memory_continues_too(tiny_lm, tokenizer):
    network = tiny_lm()
    expected = continue_prompts(network, tokenizer, PROMPTS, max_new_tokens=8)
    save_memory(network)
    assert continue_prompts(network.train(), tokenizer, PROMPTS, max_new_tokens=8) == expected
    assert network.is_gradient_checkpointing


def test_an_empty_prompt_starts_a_text(tiny_lm, tokenizer):
    (text,) = continue_prompts(tiny_lm(), tokenizer, [""], max_new_tokens=4)
    assert text
    assert continue_prompts(tiny_lm(), tokenizer, [], max_new_tokens=4) == []
    tokenizer.eos_token = None
    with pytest.raises(CoterieError, match="the prompt is empty"):
        continue_prompts(tiny_lm(), tokenizer, [""])


def test_what_cannot_be_done_is_refused(tiny_lm, tokenizer):
    with pytest.raises(CoterieError, match="and 64 new ones exceed the network's 64 positions"):
        continue_prompts(tiny_lm("gpt2"), tokenizer, PROMPTS)
    for name, value in {"max_new_tokens": 0, "temperature": -1.0, "top_p": 0.0, "batch_size": 0}.items():
        with pytest.raises(CoterieError, match=f"{name}={value}"):
            continue_prompts(tiny_lm(), tokenizer, PROMPTS, **{name: value})
