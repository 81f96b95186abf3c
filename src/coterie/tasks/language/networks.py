"""Loads causal language models of transformers, and finds the vocabulary that students and teachers share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.networks.hugging_face import (
    config_of,
    quiet_transformers,
    read_config,
    require_known_values,
    require_place,
    short_reason,
)
from coterie.randomness import derive_seed, seeded
from coterie.tasks.language.tokenizer import load_tokenizer, num_tokens

Source = str | Path | Mapping[str, Any]


def load_causal_lm(
    source: Source, *, seed: int = 0, pretrained: bool | Literal["auto"] = "auto", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Load a causal language model with its weights, or build one with initial weights.

    Weights are read from safetensors or GGUF, never from pickles, and code that comes with them is not run.

    Args:
        source: a folder as ``save_pretrained`` writes it, a name on the Hub, a GGUF file (``.gguf``; its weights are de-quantised), or a configuration without weights:
            a JSON file or a mapping of its values, including ``model_type``.
        seed: seed of initial weights. Each tensor is a function of the seed and its module's name, so a network with more layers starts with the same first layers.
        pretrained: whether to load weights. ``auto``: if there are any.
        dtype: dtype of the parameters.

    Raises:
        CoterieError: the source does not exist, is no causal language model or lacks the requested weights, or the Hub does not answer (one line, within seconds).
    """
    if isinstance(source, Mapping):
        _require_no_weights_wanted(pretrained, "a configuration's values")
        require_known_values(source, "network")
        return build_causal_lm(config_of(dict(source)), seed=seed, dtype=dtype)
    name, path = str(source), Path(source).expanduser()
    if path.suffix == ".gguf":
        return _load_gguf(path, pretrained, dtype)
    if path.suffix == ".json":
        _require_no_weights_wanted(pretrained, name)
        return build_causal_lm(config_of(read_values(path)), seed=seed, dtype=dtype)
    config = read_config(name)
    loads = has_safetensors(name) if pretrained == "auto" else pretrained
    if not loads:
        return build_causal_lm(config, seed=seed, dtype=dtype)
    return _load(name, config, dtype)


def build_causal_lm(config: Any, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a network with initial weights, by transformers' own rules for its architecture.

    Each module is initialised with its own generator, seeded by ``seed`` and the module's name.

    Args:
        config: a configuration of transformers.
        seed: seed of the weights.
        dtype: dtype of the parameters.

    Raises:
        CoterieError: the configuration has no causal language model.
    """
    with quiet_transformers() as transformers:
        try:
            with seeded(derive_seed(seed, "network")):  # for random values that constructors draw themselves
                network: Any = transformers.AutoModelForCausalLM.from_config(
                    config, trust_remote_code=False, dtype=torch.float32
                )
        except Exception as error:
            raise CoterieError(f"the configuration gives no causal language model: {short_reason(error)}") from None
        _initialize(network, seed)
    for parameter in network.parameters():  # not the buffers: transformers keeps position tables in float32
        parameter.data = parameter.data.to(dtype)
    model: nn.Module = network
    return model


@torch.no_grad()
def _initialize(network: Any, seed: int) -> None:
    """Initialise all weights again like ``initialize_weights`` of transformers, but module by module: children first, and a sub-model by its own rules."""
    for tensor in [*network.parameters(), *network.buffers()]:
        if hasattr(tensor, "_is_hf_initialized"):
            del tensor._is_hf_initialized  # transformers skips tensors with this mark

    def visit(module: nn.Module, name: str, owner: Any) -> None:
        owner = module if hasattr(module, "_init_weights") else owner
        for child, each in module.named_children():
            visit(each, f"{name}.{child}" if name else child, owner)
        with seeded(derive_seed(seed, name)):
            owner._init_weights(module)

    visit(network, "", network)


def has_safetensors(name: str) -> bool:
    """Return whether a folder holds safetensors weights; for a name on the Hub this is assumed."""
    path = Path(name).expanduser()
    return not path.is_dir() or any(path.glob("*.safetensors"))


def read_tokenizer(source: str | Path) -> Any:
    """Load the tokenizer from a network's folder, the Hub, or a GGUF file.

    Raises:
        CoterieError: there is none.
    """
    path = Path(source).expanduser()
    if path.suffix != ".gguf":
        if not path.is_dir():
            require_place(str(source), "a language model")  # waits for the Hub for seconds, not minutes
        return load_tokenizer(source)
    _require_gguf(path)
    with quiet_transformers() as transformers:
        try:
            return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except Exception as error:
            raise CoterieError(f"{str(path)!r} has no tokenizer that can be read: {short_reason(error)}") from None


def read_values(path: Path) -> dict[str, Any]:
    """Read a configuration's values from a JSON file.

    Raises:
        CoterieError: the file cannot be read, is no configuration, or holds a key that the architecture does not have.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CoterieError(f"{str(path)!r} is no JSON file of a configuration: {short_reason(error)}") from None
    if not isinstance(values, dict) or "model_type" not in values:
        raise CoterieError(f"{str(path)!r} names no model_type; expected a configuration's values, such as llama's")
    if not isinstance(size := values.get("vocab_size", 0), int):
        raise CoterieError(f"{str(path)!r}: vocab_size={size!r}, expected a whole number")
    require_known_values(values, repr(str(path)))
    return values


def _require_no_weights_wanted(pretrained: bool | str, name: str) -> None:
    if pretrained is True:
        raise CoterieError(f"pretrained=true, and {name} holds sizes but no weights; name a folder or the Hub")


def _load(name: str, config: Any, dtype: torch.dtype) -> nn.Module:
    if not has_safetensors(name):
        raise CoterieError(f"{name!r} holds no weights in safetensors, the only format that is read besides GGUF")
    with quiet_transformers() as transformers:
        try:
            network, found = transformers.AutoModelForCausalLM.from_pretrained(
                require_place(name),
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
            )
        except Exception as error:
            raise CoterieError(f"the weights of {name!r} cannot be loaded: {short_reason(error)}") from None
    missing = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if missing:
        raise CoterieError(f"{name!r} is no trained causal language model: {missing[0]} does not fit or is not there")
    model: nn.Module = network
    return model


def _require_gguf(path: Path) -> None:
    if not path.is_file():
        raise CoterieError(f"there is no file {str(path)!r}")
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise CoterieError("a GGUF file needs the package gguf: pip install gguf") from None


def _load_gguf(path: Path, pretrained: bool | str, dtype: torch.dtype) -> nn.Module:
    _require_gguf(path)
    if pretrained is False:
        raise CoterieError(f"pretrained=false, and {str(path)!r} is a file of weights; name a configuration instead")
    with quiet_transformers() as transformers:
        kept_packed = getattr(
            transformers, "GgufConfig", None
        )  # releases that have it may leave weights in GGUF's blocks
        options = {} if kept_packed is None else {"quantization_config": kept_packed(dequantize=True)}
        try:
            network, found = transformers.AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=dtype, output_loading_info=True, **options
            )
        except Exception as error:
            raise CoterieError(f"{str(path)!r} cannot be loaded: {short_reason(error)}") from None
    if found["missing_keys"]:
        raise CoterieError(f"{str(path)!r} is not whole: {min(found['missing_keys'])} is not there")
    network.hf_quantizer = None  # its weights are plain ones now, but with it transformers would refuse to save them
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    model: nn.Module = network
    return model


class Vocabulary(NamedTuple):
    """The vocabulary that networks with the same tokenizer share.

    Attributes:
        size: number of logits to compare, counted from the first; None: all, since the networks have equally many.
        note: what was left out, for the user; None: nothing.
    """

    size: int | None
    note: str | None


def shared_vocabulary(tokenizer: Any, networks: Mapping[str, nn.Module]) -> Vocabulary:
    """Find how many logits networks have in common. Rows beyond the tokenizer's tokens are padding, which may differ between networks.

    Args:
        tokenizer: the tokenizer of the data.
        networks: students and teachers by their names.

    Raises:
        CoterieError: a network has fewer rows than there are tokens.
    """
    tokens = num_tokens(tokenizer)
    rows = {name: vocabulary_size(network) for name, network in networks.items()}
    for name, count in rows.items():
        if count < tokens:
            raise CoterieError(
                f"{name!r} has {count} logits, and the tokenizer {tokens} tokens; student and teacher need one vocabulary"
            )
    if len(set(rows.values())) == 1:
        return Vocabulary(None, None)
    cut = ", ".join(f"{name} {count}" for name, count in rows.items())
    return Vocabulary(tokens, f"logits are cut to the tokenizer's {tokens} tokens, since networks have more: {cut}")


def vocabulary_size(network: nn.Module) -> int:
    """Return the number of logits of a network.

    Raises:
        CoterieError: the network has no output embedding.
    """
    head = network.get_output_embeddings()  # type: ignore[operator]
    weight = getattr(head, "weight", None)
    if weight is None:
        raise CoterieError(f"{type(network).__name__} has no output embedding that can be read")
    return int(weight.shape[0])


def named(sources: Sequence[Source]) -> list[str]:
    """Return display names, without the local paths of folders."""
    return [_shown(each) for each in sources]


def _shown(source: Source) -> str:
    if isinstance(source, Mapping):
        return str(source.get("model_type", "network"))
    path = Path(source).expanduser()
    return path.resolve().name if path.exists() else str(source)
