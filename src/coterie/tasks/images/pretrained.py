"""Checks within seconds whether timm's pretrained weights of a network are available: in the cache, or from their source."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.networks.hub import PATIENCE, why_no_answer, why_not_on_the_hub
from coterie.networks.papers.registration import register

FILES = ("model.safetensors", "pytorch_model.bin")  # in timm's order


def why_not_at_hand(name: str) -> str | None:
    """Returns why the weights of a timm network are not available now; None if they are.

    Only the headers of the file are requested. No request is sent if a cache holds the file or the Hub is disabled (HF_HUB_OFFLINE).
    """
    import timm

    register()
    config: Any = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None or not (config.hf_hub_id or config.url or config.file):
        return "timm has no weights of it"
    if config.file:
        return None if Path(config.file).is_file() else f"there is no file {config.file!r}"
    if config.hf_hub_id:
        return why_not_on_the_hub(config.hf_hub_id, (config.hf_hub_filename,) if config.hf_hub_filename else FILES)
    from torch.hub import get_dir

    if (Path(get_dir()) / "checkpoints" / config.url.rpartition("/")[2]).is_file():
        return None
    request = urllib.request.Request(config.url, method="HEAD")
    return why_no_answer(lambda: urllib.request.urlopen(request, timeout=PATIENCE).close())


def require_at_hand(name: str, setting: str) -> None:
    """Refuse weights that are not available, within seconds rather than after a library's retries.

    Raises:
        CoterieError: the weights are not available; the message says why.
    """
    reason = why_not_at_hand(name)
    if reason is not None:
        raise CoterieError(f"{setting}=true: the pretrained weights of {name!r} are not to be had: {reason}")
