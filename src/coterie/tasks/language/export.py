"""Export of a language model as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from coterie.errors import RunError
from coterie.networks.hugging_face import quiet_transformers, require_embedded
from coterie.networks.tracing import quiet_eval
from coterie.tasks.exporting import Subject
from coterie.tasks.language.generation import end_tokens, padding_token
from coterie.tasks.language.lora import has_lora, merged, save_memory
from coterie.tasks.language.tokenizer import load_tokenizer

PROBE = (2, 8)  # rows and tokens on which the export is compared


def write_transformers(subject: Subject, folder: Path, gallery: Path) -> str:
    """See :class:`coterie.tasks.formats.Format`."""
    assert subject.tokenizer is not None
    check = write_folder(subject.network, load_tokenizer(subject.tokenizer), folder)
    return f"{check[:1].lower()}{check[1:]}."


def write_folder(network: nn.Module, tokenizer: Any, folder: Path) -> str:
    """Write configuration, safetensors weights, tokenizer and generation settings into an existing folder, load it and compare the outputs.

    LoRA is merged into the weights. ``pipeline("text-generation", model=FOLDER)`` loads the folder and by default decodes greedily, as
    :func:`~coterie.tasks.language.generation.continue_prompts` does.

    Args:
        network: a network of transformers, with or without LoRA; it is not changed.
        tokenizer: its tokenizer.
        folder: folder to write to.

    Returns:
        What was compared, in words.

    Raises:
        CoterieError: the tokenizer has more tokens than the network.
        RunError: the loaded network computes something else.
    """
    require_embedded(network, tokenizer, type(network).__name__)
    plain: Any = merged(network).to("cpu").eval()
    _settle(plain, tokenizer)
    with quiet_transformers() as transformers:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=next(plain.parameters()).dtype
        )
    rows, length = PROBE
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(len(tokenizer), (rows, length), generator=generator)
    device = next(network.parameters()).device
    with quiet_eval(loaded), quiet_eval(network):
        found = loaded(input_ids=tokens).logits
        expected = network(input_ids=tokens.to(device)).logits.to("cpu")
    difference = ((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
    kept = all(torch.equal(value, loaded.state_dict()[name]) for name, value in plain.state_dict().items())
    if not kept or not difference <= torch.finfo(found.dtype).eps ** 0.5:
        raise RunError(
            f"the folder's network computes something else than {type(plain).__name__}: its logits differ by {difference:.1e} of the largest"
        )
    how = "with LoRA added to its weights, " if has_lora(network) else ""
    return f"{how}the folder's logits differ from the trained network's by at most {difference:.1e} of the largest, on {rows} x {length} tokens"


def _settle(network: Any, tokenizer: Any) -> None:
    """Set the generation defaults that users expect: greedy decoding, the tokenizer's end tokens, and a key-value cache."""
    from transformers import GenerationConfig

    ends = end_tokens(network, tokenizer)
    end = ends if len(ends) > 1 else next(iter(ends), None)
    start = tokenizer.bos_token_id
    network.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=start, eos_token_id=end, pad_token_id=padding_token(tokenizer, ends)
    )
    network.config.bos_token_id, network.config.eos_token_id = start, end
    if any(getattr(each, "gradient_checkpointing", False) for each in network.modules()):
        save_memory(network, False)
