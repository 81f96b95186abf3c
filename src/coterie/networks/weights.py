"""Loads a network's weights from other programs' files: finds them under wrappers, loads strictly, executes no code."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks.initialization import restart_classifier

# Keys under which training programs keep a network's weights in a checkpoint. The first match is taken: averaged weights before raw ones, as in timm.
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


def load_weights(network: nn.Module, path: Path, setting: str, name: str, *, classifier: str | None = None) -> str:
    """Loads a file's weights into a network, strictly.

    Args:
        network: the network to load into.
        path: a .safetensors file, or a file of ``torch.save`` with a state dict or a checkpoint that contains one.
        setting: name of the setting in messages, such as ``teacher.weights``.
        name: name of the network in messages.
        classifier: path of a last layer that may have another number of classes and then keeps its initial values; None: it must fit.

    Returns:
        The part of the file that was taken, such as ``state_dict_ema``; empty if it holds nothing else.

    Raises:
        CoterieError: no file, one that cannot be read without executing code, or weights that do not fit.
    """
    where = f"{setting}={str(path)!r}"
    state, part, others = read_weights(path, where)
    if others:
        warnings.warn(f"{where} holds several weights: took {part}, not {', '.join(others)}", stacklevel=2)
    own = network.state_dict()
    state = _without_prefixes(state, own.keys())
    if classifier is not None:
        other = [
            key
            for key in own
            if key.startswith(f"{classifier}.") and key in state and state[key].shape != own[key].shape
        ]
        if other:
            warnings.warn(
                f"{where} has a classifier of {len(state[other[0]])} classes, the data have {len(own[other[0]])}: {classifier} starts anew",
                stacklevel=2,
            )
            restart_classifier(network, classifier)  # its values are in ``own``
            state = {**state, **{key: own[key] for key in own if key.startswith(f"{classifier}.")}}
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError) as error:
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        reason = str(error).splitlines()[-1].strip()[:160]
        if missing or unexpected:
            reason = "; ".join(
                f"{len(names)} {kind} ({names[0]}{', ...' if len(names) > 1 else ''})"
                for kind, names in (("missing", missing), ("unknown", unexpected))
                if names
            )[:200]
        raise CoterieError(f"{where} does not fit {name!r}: {reason}") from None
    return part


def read_weights(path: Path, where: str) -> tuple[dict[str, Tensor], str, list[str]]:
    """Returns a file's named tensors, the part of the file they come from, and other parts that hold weights.

    Raises:
        CoterieError: no file, or one that holds no weights, or that cannot be read without executing code.
    """
    if not path.is_file():
        raise CoterieError(f"{where} is not a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path), "", []
        # timm's checkpoints contain their arguments; a namespace is only filled with values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CoterieError(
            f"{where} cannot be read as weights without executing code from it; save network.state_dict() instead"
        ) from None
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        OSError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        UnicodeDecodeError,
    ) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CoterieError(f"{where} cannot be read as weights: {first}") from None
    found = _state_dicts(loaded)
    if not found:
        held = ", ".join(map(str, list(loaded)[:5])) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise CoterieError(
            f"{where} cannot be read as weights: it holds no named tensors under any of {', '.join(WRAPPERS[:7])}, only {held}"
        )
    (part, state), *others = found
    return state, part, [name for name, _ in others]


def _state_dicts(loaded: Any, path: str = "") -> list[tuple[str, dict[str, Tensor]]]:
    """Returns the state dicts in a checkpoint with their keys, the preferred one first."""
    if not isinstance(loaded, Mapping) or not loaded:
        return []
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()):
        return [(path, dict(loaded))]
    found = []
    for key in WRAPPERS:
        found += _state_dicts(loaded.get(key), f"{path}.{key}" if path else key)
    return found


def _without_prefixes(state: dict[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Strips the prefixes that DataParallel, torch.compile, averaging and training programs add to names."""
    if "n_averaged" not in expected:  # torch's AveragedModel
        state = {key: value for key, value in state.items() if key != "n_averaged"}
    for part in ("_orig_mod.", "module."):  # may also wrap parts of the network
        if not any(part in key for key in expected):
            state = {key.replace(part, ""): value for key, value in state.items()}
    while not set(state) & set(expected):
        prefix = next((each for each in PREFIXES if state and all(key.startswith(each) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
