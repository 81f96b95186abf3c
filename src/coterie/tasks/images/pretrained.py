"""Whether timm's pretrained weights of a network are to be had: in the cache, or from where timm keeps them, within seconds."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.networks.hub import PATIENCE, why_no_answer, why_not_on_the_hub
from coterie.networks.papers.registration import register

FILES = ("model.safetensors", "pytorch_model.bin")  # as timm looks for them


def why_not_at_hand(name: str) -> str | None:
    """Why the weights of a timm network cannot be had now; None where they can.

    Asks for the headers of the file only. Where a cache holds it, or the Hub is switched off (HF_HUB_OFFLINE), nothing is asked.
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
    """Refuse weights that cannot be had, in seconds rather than after a library's retries.

    Raises:
        CoterieError: they cannot, and why.
    """
    reason = why_not_at_hand(name)
    if reason is not None:
        raise CoterieError(f"{setting}=true: the pretrained weights of {name!r} are not to be had: {reason}")
