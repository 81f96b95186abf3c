"""Restricts the arguments of ``timm.create_model`` in a recipe or a run's ``student.json`` to those of the architecture; none may load, download or write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coterie.errors import CoterieError

# Arguments of timm's builders that do not concern the architecture: sources and caches of weights, compilation.
REFUSED = {
    *(
        "checkpoint_path",
        "cache_dir",
        "scriptable",
        "exportable",
        "no_jit",
        "kwargs_filter",
        "model_cfg",
        "feature_cfg",
    ),
    *("features_only", "out_indices", "feature_cls", "pruned", "num_classes", "device", "dtype"),
}
# By words, so that downloading arguments of later timm versions are refused too.
REFUSED_WORDS = {"pretrained", "checkpoint", "cache", "url", "urls", "uri", "hf", "hub", "file", "filename", "dir", "folder", "repo", "weights"}  # fmt: skip
PLACE = re.compile(r"[/\\:]|\.(?:pth?|bin|ckpt|npz?|pkl|safetensors)$", re.IGNORECASE)
LARGEST_DEPTH = 8


def require_harmless_options(options: Mapping[str, Any], where: str) -> None:
    """Rejects options that would make timm load, download or write anything, at any depth.

    Args:
        options: from a recipe's ``network.options`` or a run's ``student.json``.
        where: their name in the message.

    Raises:
        CoterieError: an option of such a name, or a value that is a location (a path, a URL) or not a plain value.
    """
    _check(options, where, 0)


def _check(value: object, where: str, depth: int) -> None:
    if depth > LARGEST_DEPTH:
        raise CoterieError(f"{where} is nested too deeply: expected numbers, words and lists of them")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise CoterieError(f"{where} has the key {str(key)[:40]!r}: expected names of arguments")
            words = set(key.casefold().split("_"))
            if key in REFUSED or words & REFUSED_WORDS:
                raise CoterieError(
                    f"{where} sets {key[:60]!r}, which is refused: options describe an architecture; they do not load, fetch or write anything"
                )
            _check(inner, f"{where}.{key[:60]}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check(inner, where, depth + 1)
    elif isinstance(value, str):
        if PLACE.search(value):
            raise CoterieError(f"{where}={value[:60]!r} is refused: options name no path and no address")
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise CoterieError(f"{where} is {type(value).__name__}: expected numbers, words and lists of them")


def require_plain_name(name: str) -> None:
    """Rejects ``hf-hub:``, ``hf_hub:``, ``local-dir:`` and paths: a name must be an architecture in timm's registry.

    Raises:
        CoterieError: the name contains a location.
    """
    if PLACE.search(name):
        raise CoterieError(
            f"network {name[:80]!r} names a place: expected a name of timm.list_models(); weights of your own go to network.weights=FILE"
        )
