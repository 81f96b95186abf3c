"""Whether something on the network is to be had: asked within seconds, where libraries try for minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

PATIENCE = 3.0  # seconds for an answer from the network
DEADLINE = 8.0  # seconds for all of it: names that are looked up know no time-out


def why_not_on_the_hub(repository: str, files: Sequence[str]) -> str | None:
    """Why none of these files of a Hub repository can be had now; None where one can.

    Asks for the headers of the first one only. Where a cache holds one, or the Hub is switched off (HF_HUB_OFFLINE), nothing is asked.
    """
    import huggingface_hub

    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, each), str) for each in files):
        return None
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "they are not in the cache, and HF_HUB_OFFLINE is set"
    address = huggingface_hub.hf_hub_url(repository, files[0])
    return why_no_answer(lambda: huggingface_hub.get_hf_file_metadata(address, timeout=PATIENCE))


def why_no_answer(ask: Callable[[], object]) -> str | None:
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
