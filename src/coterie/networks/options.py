"""Which arguments of ``timm.create_model`` a recipe or a run's ``student.json`` may set: those of the architecture, nothing that loads, fetches or writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coterie.errors import CoterieError

# Arguments of timm's builders that are not the architecture's: where weights come from, where they are kept, how code is compiled.
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
# By words, so that an argument of a later timm that fetches is refused as well.
REFUSED_WORDS = {"pretrained", "checkpoint", "cache", "url", "urls", "uri", "hf", "hub", "file", "filename", "dir", "folder", "repo", "weights"}  # fmt: skip
PLACE = re.compile(r"[/\\:]|\.(?:pth?|bin|ckpt|npz?|pkl|safetensors)$", re.IGNORECASE)
LARGEST_DEPTH = 8


def require_harmless_options(options: Mapping[str, Any], where: str) -> None:
    """Refuse options that would make timm load, fetch or write anything, at any depth.

    Args:
        options: as a recipe's ``network.options`` or a run's ``student.json`` has them.
        where: what the message calls them.

    Raises:
        CoterieError: an option by such a name, or a value that is a place (a path, a URL) or no plain value.
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
    """Refuse ``hf-hub:``, ``hf_hub:``, ``local-dir:`` and paths: a name is an architecture of timm's registry.

    Raises:
        CoterieError: the name says where something lies.
    """
    if PLACE.search(name):
        raise CoterieError(
            f"network {name[:80]!r} names a place: expected a name of timm.list_models(); weights of your own go to network.weights=FILE"
        )
