from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from coterie.errors import CoterieError, RunError
from coterie.tasks.language.export import write_folder
from coterie.tasks.language.generation import continue_prompts
from coterie.tasks.language.lora import add_lora, save_memory
from coterie.tasks.language.networks import load_causal_lm

PROMPTS = ["the cat", "a dog ran in the park and", "x"]


def by_pipeline(folder):
    from transformers import pipeline

    generate = pipeline("text-generation", model=str(folder), device="cpu")
    return [generate(each, max_new_tokens=10, return_full_text=False)[0]["generated_text"] for each in PROMPTS]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_pipeline_continues_as_we_do(tiny_lm, tokenizer, tmp_path, kind):
    network = tiny_lm(kind)
    said = write_folder(network, tokenizer, tmp_path)
    assert "at most 0.0e+00" in said
    assert by_pipeline(tmp_path) == continue_prompts(network, tokenizer, PROMPTS, max_new_tokens=10)
    loaded = load_causal_lm(tmp_path, pretrained=True)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in network.state_dict().items())
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".py")) for name in names)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id


def test_lora_is_added_to_the_weights(tiny_lm, tokenizer, tmp_path):
    pytest.importorskip("peft")
    network = add_lora(tiny_lm())
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.05)
    save_memory(network)
    keys = set(network.state_dict())
    said = write_folder(network.train(), tokenizer, tmp_path)
    assert said.startswith("with LoRA added to its weights")
    assert float(said.split("at most ")[1].split()[0]) < 1e-5
    assert set(network.state_dict()) == keys
    assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is True
    assert by_pipeline(tmp_path) == continue_prompts(network, tokenizer, PROMPTS, max_new_tokens=10)


def test_settings_that_draw_tokens_are_not_handed_on(tiny_lm, tokenizer, tmp_path):
    network = tiny_lm()
    network.generation_config.update(do_sample=True, temperature=5.0)
    write_folder(network, tokenizer, tmp_path)
    assert network.generation_config.do_sample  # the network itself is not changed
    assert by_pipeline(tmp_path) == continue_prompts(network, tokenizer, PROMPTS, max_new_tokens=10)


def test_the_type_of_the_weights_stays(tiny_lm, tokenizer, tmp_path):
    network = tiny_lm(dtype=torch.bfloat16)
    write_folder(network, tokenizer, tmp_path)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded(torch.arange(9)[None]).logits, network(torch.arange(9)[None]).logits)


def test_a_folder_that_computes_something_else_is_refused(tiny_lm, tokenizer, tmp_path):
    network = tiny_lm()
    network.lm_head.register_forward_hook(lambda module, inputs, logits: logits.flip(-1))  # which no folder holds
    with pytest.raises(RunError, match="computes something else than LlamaForCausalLM"):
        write_folder(network, tokenizer, tmp_path)


def test_a_tokenizer_that_does_not_fit_is_refused(tiny_lm, tokenizer, tmp_path):
    with pytest.raises(CoterieError, match="the embedding of 'LlamaForCausalLM' has 50 rows"):
        write_folder(tiny_lm(vocab_size=50), tokenizer, tmp_path)


@pytest.mark.slow
def test_another_program_loads_the_folder(tiny_lm, tokenizer, tmp_path):
    """One that does not know coterie."""
    network = tiny_lm()
    write_folder(network, tokenizer, tmp_path)
    program = (
        "import sys; from transformers import pipeline; "
        "print(repr(pipeline('text-generation', model=sys.argv[1], device='cpu')(sys.argv[2], max_new_tokens=10, return_full_text=False)[0]['generated_text']))"
        "; assert 'coterie' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), PROMPTS[0]], capture_output=True, text=True, check=True
    )
    (expected,) = continue_prompts(network, tokenizer, PROMPTS[:1], max_new_tokens=10)
    assert done.stdout.strip().splitlines()[-1] == repr(expected)
