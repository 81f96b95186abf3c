"""Dual encoders of sentence-transformers: loads, builds, cuts, projects, describes and rebuilds them.

An encoder is a :class:`sentence_transformers.SentenceTransformer` of the modules Transformer, Pooling, Dense and Normalize. Code that comes with weights is never run.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.networks.blocks import config_with, cut_state, kept_layers
from coterie.networks.hugging_face import config_of, describe_config, quiet_transformers, require_place, short_reason
from coterie.randomness import derive_seed, seeded
from coterie.tasks.retrieval.library import module_class, quiet_sentence_transformers
from coterie.tasks.retrieval.tokenizers import placeholder_tokenizer

MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
LONGEST = 256  # tokens per text if a network does not say
ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "GELU": nn.GELU, "ReLU": nn.ReLU}


def load_encoder(name: str, *, pooling: str = "mean", max_length: int | None = None) -> Any:
    """Load an encoder with its weights, on the CPU in float32.

    Args:
        name: a folder saved by sentence-transformers or transformers, or a name on the Hub.
        pooling: ``mean`` or ``cls``; used only for a plain network of transformers.
        max_length: largest number of tokens per text; None: what the folder says, else at most 256.

    Raises:
        CoterieError: it does not exist, has its weights in pickles only, or is no text encoder.
    """
    path = Path(name).expanduser()
    whole = not path.is_dir() or (path / "modules.json").is_file()
    place = str(path) if path.is_dir() and whole else require_place(name, "an encoder")
    if path.is_dir() and not any(path.rglob("*.safetensors")):
        raise CoterieError(f"{name!r} holds no weights in safetensors, the only format that is read")
    with quiet_sentence_transformers() as library:
        try:
            encoder = library.SentenceTransformer(
                place,
                device="cpu",
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except Exception as error:  # files, network, formats: the library raises many kinds
            raise CoterieError(f"{name!r} is no encoder that can be read: {short_reason(error)}") from None
    names = [type(each).__name__ for each in encoder]
    if pooling != "mean" and not whole and "Pooling" in names:
        encoder[names.index("Pooling")].pooling_mode = pooling
    set_length(encoder, max_length)
    return encoder.eval()


def build_encoder(
    config: Any, tokenizer: Any, *, pooling: str = "mean", seed: int = 0, max_length: int | None = None
) -> Any:
    """Build an encoder with initial weights from a configuration of transformers and a tokenizer.

    Args:
        config: values of the configuration.
        tokenizer: a tokenizer of transformers.
        pooling: ``mean`` or ``cls``.
        seed: seed of the weights.
        max_length: largest number of tokens per text; None: 256, or the number of positions if that is smaller.

    Raises:
        CoterieError: the configuration has no text network.
    """
    with quiet_sentence_transformers() as library:
        transformer = _transformer(config, tokenizer, seed)
        pool = module_class("Pooling")(transformer.get_embedding_dimension(), pooling)
        encoder = library.SentenceTransformer(modules=[transformer, pool], device="cpu")
    room = getattr(config, "max_position_embeddings", None) or LONGEST
    set_length(encoder, max_length or min(LONGEST, room))
    return encoder.eval()


def _transformer(config: Any, tokenizer: Any, seed: int) -> Any:
    """Build the module Transformer with a new network, via a temporary folder, since the library only reads folders."""
    with quiet_transformers() as transformers, tempfile.TemporaryDirectory() as folder:
        try:
            with seeded(derive_seed(seed, "network")):
                network = transformers.AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made = module_class("Transformer")(folder)
        except Exception as error:
            raise CoterieError(f"the configuration gives no encoder of texts: {short_reason(error)}") from None
    for each in (made.model, made.model.config, made.tokenizer):
        for key in ("name_or_path", "_name_or_path"):
            if getattr(each, key, None):  # a folder that no longer exists
                with contextlib.suppress(AttributeError):
                    setattr(each, key, "")
    return made


def set_length(encoder: Any, max_length: int | None) -> None:
    """Set the number of tokens to truncate texts to; None: what the encoder says, else 256 or its number of positions.

    Raises:
        CoterieError: there are fewer positions.
    """
    room = getattr(encoder[0].model.config, "max_position_embeddings", None) if hasattr(encoder[0], "model") else None
    said = encoder.max_seq_length
    length = max_length or min(said if said is not None and said < 10**6 else LONGEST, room or LONGEST)
    if room is not None and length > room:
        raise CoterieError(f"network.max_length={length} is above the network's {room} positions")
    if said != length:
        encoder.max_seq_length = length


def require_plain(encoder: Any, name: str) -> None:
    """Check that an encoder can be a student: only supported modules, and pooling that includes prompts.

    Raises:
        CoterieError: it has other modules, or its pooling excludes prompts.
    """
    for module in encoder:
        if type(module).__name__ not in MODULES:
            raise CoterieError(
                f"{name!r} holds a module {type(module).__name__}; a student is made of {', '.join(MODULES)}"
            )
        if not getattr(module, "include_prompt", True):
            raise CoterieError(f"{name!r} leaves its prompt out of the pooling, which is not supported for a student")


def cut_encoder(encoder: Any, layers: Sequence[int]) -> Any:
    """Return a copy with some of the transformer's layers.

    Args:
        encoder: the encoder; it is not changed.
        layers: indices of the layers to keep, see :func:`coterie.networks.blocks.kept_layers`.

    Raises:
        CoterieError: indices are out of bounds, or the blocks of the architecture are not found.
    """
    network = encoder[0].model
    kept = kept_layers(int(network.config.num_hidden_layers), layers=layers)
    state = cut_state(network, kept)
    with quiet_transformers() as transformers:
        cut = transformers.AutoModel.from_config(
            config_with(network.config, kept), trust_remote_code=False, dtype=torch.float32
        )
    try:
        cut.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CoterieError(
            f"{type(network).__name__} cannot be cut to {len(kept)} layers: {short_reason(error)}"
        ) from None
    result = copy.deepcopy(encoder)
    result[0].model = cut
    return result.eval()


def width_of(encoder: Any) -> int:
    """Return the width of the vectors."""
    return int(encoder.get_embedding_dimension())


def is_normalized(encoder: Any) -> bool:
    """Return whether vectors are compared by cosine: the encoder normalises them to length 1, or declares cosine similarity."""
    return type(encoder[-1]).__name__ == "Normalize" or encoder.similarity_fn_name == "cosine"


def projected(encoder: Any, width: int | None, normalize: bool, seed: int) -> Any:
    """Append ψ, a linear layer without bias to another width, and normalisation to length 1.

    Args:
        encoder: the encoder; the result owns it.
        width: output width of ψ; None: no ψ.
        normalize: whether to normalise vectors to length 1.
        seed: seed of ψ's initial weights; with equal widths, ψ starts as the identity.
    """
    kept = [each for each in encoder if type(each).__name__ != "Normalize"]
    added: list[nn.Module] = []
    if width is not None:
        with seeded(derive_seed(seed, "projection")):
            dense = module_class("Dense")(width_of(encoder), width, bias=False, activation_function=nn.Identity())
        if dense.in_features == width:
            nn.init.eye_(dense.linear.weight)
        added.append(dense)
    if normalize:
        added.append(module_class("Normalize")())
    with quiet_sentence_transformers() as library:
        made = library.SentenceTransformer(
            modules=[*kept, *added],
            device="cpu",
            prompts=dict(encoder.prompts),
            default_prompt_name=encoder.default_prompt_name,
            similarity_fn_name="cosine" if normalize else "dot",
        )
    return made.eval()


def describe_encoder(encoder: Any) -> dict[str, Any]:
    """Return JSON values from which :func:`rebuild_encoder` builds the same modules, without weights and tokenizer."""
    modules = []
    for module in encoder:
        kind = type(module).__name__
        if kind == "Transformer":
            modules.append({"type": kind, "config": describe_config(module.model.config)})
        else:
            values = json.loads(json.dumps(module.get_config_dict() if hasattr(module, "get_config_dict") else {}))
            modules.append({"type": kind, **values})
    return {
        "modules": modules,
        "max_length": encoder.max_seq_length,
        "prompts": dict(encoder.prompts),
        "default_prompt": encoder.default_prompt_name,
        "similarity": encoder.similarity_fn_name,
    }


def rebuild_encoder(description: dict[str, Any], tokenizer: Any = None) -> Any:
    """Build the described encoder, with arbitrary weights.

    Args:
        description: output of :func:`describe_encoder`.
        tokenizer: its tokenizer; None: a placeholder without words, for an encoder that only gets tokens.

    Raises:
        CoterieError: the values describe no encoder.
    """
    modules: list[nn.Module] = []
    with quiet_sentence_transformers() as library:
        try:
            for each in description["modules"]:
                values = {key: value for key, value in each.items() if key != "type"}
                if each["type"] == "Transformer":
                    config = config_of(values["config"])
                    modules.append(_transformer(config, tokenizer or placeholder_tokenizer(), 0))
                    continue
                if "activation_function" in values:
                    values["activation_function"] = ACTIVATIONS[values["activation_function"].rpartition(".")[2]]()
                modules.append(module_class(each["type"])(**values))
            encoder = library.SentenceTransformer(
                modules=modules,
                device="cpu",
                prompts=description["prompts"],
                default_prompt_name=description["default_prompt"],
                similarity_fn_name=description["similarity"],
            )
            encoder.max_seq_length = description["max_length"]
        except (KeyError, TypeError, ValueError) as error:
            raise CoterieError(f"the description gives no encoder: {short_reason(error)}") from None
    return encoder.eval()


def encoder_digest(encoder: Any) -> str:
    """Return a digest that changes with any weight, and with anything else that affects the vector of a text."""
    whole = hashlib.blake2b(digest_size=16)
    said = [
        repr(module) if type(module).__name__ != "Transformer" else describe_config(module.model.config)
        for module in encoder
    ]
    known = json.dumps(
        [said, encoder.prompts, encoder.default_prompt_name, encoder.max_seq_length], sort_keys=True, default=str
    )
    whole.update(known.encode())
    tokenizer = getattr(encoder.tokenizer, "backend_tokenizer", None)
    if tokenizer is not None:
        whole.update(tokenizer.to_str().encode())
    for name, tensor in encoder.state_dict().items():
        whole.update(name.encode())
        whole.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return whole.hexdigest()
