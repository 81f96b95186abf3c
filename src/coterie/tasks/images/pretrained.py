"""Whether timm's pretrained weights of a network are to be had: in the cache, or from where timm keeps them, within seconds."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.networks.papers.registration import register

PATIENCE = 3.0  # seconds for an answer from the network
DEADLINE = 8.0  # seconds for all of it: names that are looked up know no time-out
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
        return _on_the_hub(config.hf_hub_id, config.hf_hub_filename)
    from torch.hub import get_dir

    if (Path(get_dir()) / "checkpoints" / config.url.rpartition("/")[2]).is_file():
        return None
    request = urllib.request.Request(config.url, method="HEAD")
    return _reason_of(lambda: urllib.request.urlopen(request, timeout=PATIENCE).close())


def require_at_hand(name: str, setting: str) -> None:
    """Refuse weights that cannot be had, in seconds rather than after a library's retries.

    Raises:
        CoterieError: they cannot, and why.
    """
    reason = why_not_at_hand(name)
    if reason is not None:
        raise CoterieError(f"{setting}=true: the pretrained weights of {name!r} are not to be had: {reason}")


def _on_the_hub(repository: str, file: str | None) -> str | None:
    import huggingface_hub

    files = (file,) if file else FILES
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, each), str) for each in files):
        return None
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "they are not in the cache, and HF_HUB_OFFLINE is set"
    address = huggingface_hub.hf_hub_url(repository, files[0])
    return _reason_of(lambda: huggingface_hub.get_hf_file_metadata(address, timeout=PATIENCE))


def _reason_of(ask: Callable[[], object]) -> str | None:
    """Why a question to the network fails, or gets no answer in time; None where it is answered."""
    outcome: list[str | None] = []

    def work() -> None:
        try:
            ask()
            outcome.append(None)
        except Exception as error:  # clients raise their own kinds
            outcome.append(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return outcome[0] if outcome else f"no answer within {DEADLINE:g} s"
