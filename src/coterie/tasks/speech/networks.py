"""Loads speech encoders of transformers: configurations, weights, and the preprocessing of clips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.files import digest
from coterie.networks.hugging_face import (
    config_of,
    quiet_transformers,
    read_config,
    require_known_values,
    require_place,
    short_reason,
)
from coterie.randomness import derive_seed, seeded

PLAIN = {
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}  # frames are compared individually, so none is masked and no layer is dropped


class Hearing(NamedTuple):
    """Preprocessing of clips by a network's feature extractor.

    Attributes:
        normalize: whether clips are normalised to mean 0 and variance 1.
        rate: samples per second.
    """

    normalize: bool
    rate: int


def require_transformers() -> None:
    """Raises:
    CoterieError: the package is missing.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise CoterieError("speech needs the package transformers: pip install 'coterie[speech]'") from None


def display_name(source: str) -> str:
    """Return a display name, without the local path of a folder."""
    path = Path(source).expanduser()
    return path.resolve().name if path.exists() else source


def is_configuration(source: str) -> bool:
    """Return whether a source is a configuration file, without weights."""
    return source.endswith(".json")


def read_values(source: str) -> dict[str, Any]:
    """Read a configuration's values from a .json file, a folder or the Hub.

    Raises:
        CoterieError: there are none.
    """
    require_transformers()
    if not is_configuration(source):
        found: dict[str, Any] = json.loads(read_config(source).to_json_string())
        return found
    try:
        values = json.loads(Path(source).expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CoterieError(f"{source!r} is no JSON file of a configuration: {short_reason(error)}") from None
    if not isinstance(values, dict) or "model_type" not in values:
        raise CoterieError(f"{source!r} names no model_type; expected a configuration's values, such as hubert's")
    require_known_values(values, repr(source))
    return values


def build_encoder(values: dict[str, Any], seed: int = 0) -> nn.Module:
    """Build an encoder with initial weights, without SpecAugment and layer drop.

    Args:
        values: values of its configuration.
        seed: seed of the weights.

    Raises:
        CoterieError: there is no such architecture, or it does not accept the values.
    """
    require_transformers()
    config = config_of({**values, **PLAIN})
    with quiet_transformers() as transformers, seeded(derive_seed(seed, "network")):
        try:
            network: nn.Module = transformers.AutoModel.from_config(
                config, trust_remote_code=False, dtype=torch.float32
            )
        except Exception as error:  # whatever an architecture raises
            raise CoterieError(f"the configuration gives no encoder: {short_reason(error)}") from None
    return network


def load_encoder(source: str, dtype: torch.dtype = torch.float32, layers: int | None = None) -> nn.Module:
    """Load an encoder with its weights, without SpecAugment, layer drop and any head.

    Weights are read from safetensors, never from pickles, and code that comes with them is not run.

    Args:
        source: a folder as ``save_pretrained`` writes it, or a name on the Hub.
        dtype: dtype of the parameters.
        layers: number of transformer layers to keep, from the first on; None: all.

    Raises:
        CoterieError: it is not an encoder, or has no weights.
    """
    require_transformers()
    place = require_place(source, "an encoder of speech")
    if Path(place).is_dir() and not any(Path(place).glob("*.safetensors")):
        raise CoterieError(f"{source!r} holds no weights in safetensors, the only format that is read")
    config: Any = read_config(source)
    for key, value in PLAIN.items():
        setattr(config, key, value)
    if layers is not None:
        config.num_hidden_layers = layers
    with quiet_transformers() as transformers:
        try:
            network, found = transformers.AutoModel.from_pretrained(
                place,
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
            )
        except Exception as error:
            raise CoterieError(f"the weights of {source!r} cannot be loaded: {short_reason(error)}") from None
    missing = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])} - {"masked_spec_embed"}
    if missing:
        raise CoterieError(f"{source!r} is no trained encoder of speech: {min(missing)} does not fit or is not there")
    encoder: nn.Module = network
    return encoder


def read_hearing(source: str, normalize: bool | str, setting: str, rate: int) -> Hearing:
    """Read how a network's own feature extractor preprocesses clips.

    Args:
        source: source of the network.
        normalize: the setting; ``auto``: as the extractor says, and true for a configuration alone, which is the extractors' default.
        setting: name of the setting, for messages.
        rate: sample rate of the data.

    Raises:
        CoterieError: there is no extractor and ``normalize`` is not set, or the extractor needs another rate.
    """
    if is_configuration(source):
        return Hearing(normalize is not False, rate)
    place = require_place(source, "an encoder of speech")
    with quiet_transformers() as transformers:
        try:
            found = transformers.AutoFeatureExtractor.from_pretrained(place, trust_remote_code=False)
            own = Hearing(bool(getattr(found, "do_normalize", False)), int(found.sampling_rate))
        except Exception:  # none there, or of another kind
            if isinstance(normalize, str):
                raise CoterieError(
                    f"{source!r} has no feature extractor (preprocessor_config.json): set {setting} to true or false, as it was trained"
                ) from None
            return Hearing(normalize, rate)
    if own.rate != rate:
        raise CoterieError(f"{source!r} hears {own.rate:,} samples a second, and data.sample_rate={rate}")
    return own if isinstance(normalize, str) else own._replace(normalize=normalize)


def digest_of_weights(source: str) -> str | None:
    """Return the SHA-256 of a network's weights; None: they are on the Hub, not in a local folder, or there are none."""
    files = sorted(Path(source).expanduser().glob("*.safetensors")) if not is_configuration(source) else []
    if len(files) < 2:
        return digest(files[0]) if files else None
    return hashlib.sha256("".join(digest(each) for each in files).encode()).hexdigest()


@torch.no_grad()
def copy_weights(network: nn.Module, sources: Sequence[nn.Module]) -> list[str]:
    """Copy weights by name from one network, or the mean of several, into another. Layers that it does not have are ignored.

    Args:
        network: the network to change.
        sources: at least one network.

    Returns:
        Names of the weights that the sources do not have; these are not changed.

    Raises:
        CoterieError: a weight has another shape.
    """
    tables = [each.state_dict() for each in sources]
    left = []
    for name, value in network.state_dict().items():
        if not all(name in table for table in tables):
            left.append(name)
            continue
        for table in tables:
            if table[name].shape != value.shape:
                raise CoterieError(
                    f"the student cannot start from these weights: {name} is {list(value.shape)}, the teacher's {list(table[name].shape)}; set network.initialize=fresh"
                )
        value.copy_(torch.stack([table[name].to(value.dtype) for table in tables]).mean(0))
    return left
