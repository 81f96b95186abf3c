"""Checks within seconds whether files can be downloaded, where libraries retry for minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

PATIENCE = 3.0  # seconds for a response
DEADLINE = 8.0  # seconds in total, since DNS look-ups have no timeout


def why_not_on_the_hub(repository: str, files: Sequence[str]) -> str | None:
    """Returns why none of these files of a Hub repository is available; None if one is.

    Requests the headers of the first file only. No request is sent if a file is in the cache or the Hub is disabled (HF_HUB_OFFLINE).
    """
    import huggingface_hub

    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, each), str) for each in files):
        return None
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "they are not in the cache, and HF_HUB_OFFLINE is set"
    address = huggingface_hub.hf_hub_url(repository, files[0])
    return why_no_answer(lambda: huggingface_hub.get_hf_file_metadata(address, timeout=PATIENCE))


def why_no_answer(ask: Callable[[], object]) -> str | None:
    """Returns why a request fails or times out; None if it succeeds."""
    outcome: list[str | None] = []

    def work() -> None:
        try:
            ask()
            outcome.append(None)
        except Exception as error:  # clients raise their own exception types
            outcome.append(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return outcome[0] if outcome else f"no answer within {DEADLINE:g} s"
