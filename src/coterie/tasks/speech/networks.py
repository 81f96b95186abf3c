"""Encoders of speech of transformers: where their configurations and weights come from, and how they hear clips."""

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
from coterie.networks.hugging_face import config_of, quiet_transformers, read_config, require_place, short_reason
from coterie.randomness import derive_seed, seeded

PLAIN = {
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}  # frames are compared one by one: none is masked, no layer left out


class Hearing(NamedTuple):
    """How a network's feature extractor prepares clips.

    Attributes:
        normalize: to mean 0 and variance 1.
        rate: samples a second.
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


def shown_name(source: str) -> str:
    """A name without the place on this machine where a folder lies."""
    path = Path(source).expanduser()
    return path.resolve().name if path.exists() else source


def is_configuration(source: str) -> bool:
    """Whether a source is a file of a configuration's values, and has no weights."""
    return source.endswith(".json")


def read_values(source: str) -> dict[str, Any]:
    """A configuration's values: of a .json file, a folder or a name of the Hub.

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
    return values


def build_encoder(values: dict[str, Any], seed: int = 0) -> nn.Module:
    """An encoder with initial weights, without SpecAugment and layer drop.

    Args:
        values: of its configuration.
        seed: of the weights.

    Raises:
        CoterieError: no such kind of network, or values that it does not take.
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
    """An encoder with its weights, without SpecAugment and layer drop. Heads that the weights were trained with are left out.

    Weights are read from safetensors, never from pickles, and code that comes with them is not run.

    Args:
        source: a folder as ``save_pretrained`` writes it, or a name of the Hub.
        dtype: of the parameters.
        layers: transformer layers that are kept, from the first on; None: all.

    Raises:
        CoterieError: no encoder, or no weights.
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
    """How a network's own feature extractor prepares clips.

    Args:
        source: of the network.
        normalize: as it is set; ``auto``: as the extractor says. Of a configuration alone: yes, which is the extractors' default.
        setting: what it is called.
        rate: of the data.

    Raises:
        CoterieError: there is no extractor, and nothing is set; or it wants another rate.
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
    """SHA-256 of a network's weights; None: they are not here, but on the Hub, or there are none."""
    files = sorted(Path(source).expanduser().glob("*.safetensors")) if not is_configuration(source) else []
    if len(files) < 2:
        return digest(files[0]) if files else None
    return hashlib.sha256("".join(digest(each) for each in files).encode()).hexdigest()


@torch.no_grad()
def copy_weights(network: nn.Module, sources: Sequence[nn.Module]) -> list[str]:
    """Give a network the weights of the same names of others: of one, or the mean of several. Their later layers have no place in it.

    Args:
        network: is changed.
        sources: at least one.

    Returns:
        Names of the weights that the others do not have, which stay as they are.

    Raises:
        CoterieError: a weight of another shape.
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
