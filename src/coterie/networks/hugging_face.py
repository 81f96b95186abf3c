"""Sources and configurations of transformers models, shared by all tasks.

The package is imported only when a network is needed. Code that comes with weights is never executed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from coterie.errors import CoterieError, did_you_mean
from coterie.networks.hub import why_not_on_the_hub

# Configuration keys that make transformers load code, kernels or weights from elsewhere.
FOREIGN = {"auto_map", "trust_remote_code", "_name_or_path", "name_or_path", "custom_pipelines", "quantization_config"}
FOREIGN |= {"attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"}
# Keys that are read when a configuration is created, but are not fields of it.
READ_TOO = {"rope_theta", "rope_scaling", "torch_dtype", "num_labels"}


@contextlib.contextmanager
def quiet_transformers() -> Iterator[Any]:
    """Yields the package with its output silenced. What it would print while loading is raised as an error or is irrelevant.

    Raises:
        CoterieError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise CoterieError("text needs the package transformers: pip install 'coterie[text]'") from None
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(transformers.logging.FATAL)
    transformers.logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


def short_reason(error: Exception) -> str:
    """Returns a library's error in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def require_place(name: str, kind: str = "a text network") -> str:
    """Checks that the name is a local folder with config.json, or a reachable repository on the Hub.

    Args:
        name: the folder or the Hub name.
        kind: what is expected, for the message.

    Raises:
        CoterieError: a folder without config.json, no such folder, or a Hub that cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CoterieError(
                f"{name!r} has no config.json: expected a folder as transformers' save_pretrained writes it"
            )
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CoterieError(f"there is no folder {name!r}; {kind} is a folder with config.json, or a name of the Hub")
    reason = why_not_on_the_hub(name, ("config.json",))
    if reason is not None:
        raise CoterieError(f"there is no folder {name!r}, and of the Hub's files of that name: {reason}")
    return name


def has_weights(name: str) -> bool:
    """Whether a network comes with weights: a folder that contains some, or a Hub name."""
    path = Path(name).expanduser()
    return not path.is_dir() or any(any(path.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin"))


def read_config(name: str) -> Any:
    """Reads the configuration from a folder or the Hub.

    Raises:
        CoterieError: there is none, or it is not from transformers.
    """
    place = require_place(name)
    with quiet_transformers() as transformers:
        try:
            return transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        except Exception as error:  # files, network, formats: the library raises many exception types
            raise CoterieError(
                f"network {name!r} has no configuration that can be read: {short_reason(error)}"
            ) from None


def require_known_values(values: Mapping[str, Any], where: str) -> None:
    """Rejects user-written configuration values that no network would read, since transformers accepts and keeps any key.

    Args:
        values: the values, including ``model_type``.
        where: where the values come from, for the message.

    Raises:
        CoterieError: an unknown ``model_type``, a value that it does not accept, or a key that it does not know.
    """
    with quiet_transformers() as transformers:
        kinds = transformers.CONFIG_MAPPING
        if (kind := values.get("model_type")) not in kinds:
            near = did_you_mean(str(kind), list(kinds))
            raise CoterieError(f"{where}: model_type={kind!r} is no network of transformers{near}")
        _require_read(values, config_of(dict(values)), where)


def _require_read(values: Mapping[str, Any], config: Any, where: str) -> None:
    """Keys that are neither fields nor read on creation end up as attributes of the configuration; networks read some of those too (``head_dim``)."""
    kind = type(config)
    fields = {*getattr(kind, "__dataclass_fields__", {}), *config.attribute_map, *inspect.signature(kind).parameters}
    with contextlib.suppress(Exception):  # a class that cannot be created without values
        fields |= vars(kind()).keys()
    for key in values:
        is_extra = key in vars(config) and key not in fields | FOREIGN and not hasattr(kind, key)
        if is_extra and not re.search(rf"\b{re.escape(key)}\b", _code_of(kind.__module__)):
            near = did_you_mean(key, [each for each in fields | READ_TOO if not each.startswith("_")])
            raise CoterieError(f"{where}: {kind.__name__} knows no {key!r}{near}; nothing would read it")
    for key in config.sub_configs:
        if isinstance(values.get(key), Mapping):
            _require_read(values[key], getattr(config, key), f"{where}, {key}")


@cache
def _code_of(module: str) -> str:
    """Returns the source of a configuration's module, its modeling module and shared modeling code, as text; nothing is imported."""
    own = [module, module.replace(".configuration_", ".modeling_")]
    shared = [f"transformers.{name}" for name in ("modeling_utils", "modeling_rope_utils", "masking_utils")]
    texts = []
    for name in (*own, *shared):
        with contextlib.suppress(ImportError, OSError, ValueError):
            if (found := importlib.util.find_spec(name)) is not None and found.origin is not None:
                texts.append(Path(found.origin).read_text(encoding="utf-8"))
    return "\n".join(texts)


def describe_config(config: Any) -> dict[str, Any]:
    """Returns a configuration as JSON values, from which the same network can be built; without local paths."""
    described: dict[str, Any] = json.loads(config.to_json_string())
    return {key: value for key, value in described.items() if key not in FOREIGN | {"transformers_version"}}


def config_of(values: dict[str, Any]) -> Any:
    """Builds the configuration from the output of :func:`describe_config`; keys that point to code or other places are ignored.

    Raises:
        CoterieError: an unknown ``model_type``, or values that it does not accept.
    """
    with quiet_transformers() as transformers:
        try:
            return transformers.AutoConfig.for_model(
                **{key: each for key, each in values.items() if key not in FOREIGN}
            )
        except Exception as error:
            raise CoterieError(f"no configuration of transformers: {short_reason(error)}") from None


def require_embedded(network: nn.Module, tokenizer: Any, name: str) -> None:
    """Checks that the embedding has a row for every token.

    Raises:
        CoterieError: the tokenizer has more tokens.
    """
    rows = int(network.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    tokens = 1 + max(tokenizer.get_vocab().values())
    if tokens > rows:
        raise CoterieError(
            f"the tokenizer gives tokens up to {tokens - 1}, and the embedding of {name!r} has {rows} rows; "
            "take the network's own tokenizer, or enlarge the network by resize_token_embeddings and save it again"
        )
