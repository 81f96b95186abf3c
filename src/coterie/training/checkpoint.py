"""Checkpoints: one file each, replaced in one move, read without executing code from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from coterie.errors import CoterieError
from coterie.files import write_stream

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts to ``path``.

    Raises:
        RunError: the disk is full, or the folder is not there; the previous checkpoint is kept.
    """
    write_stream(path, lambda stream: torch.save({"format": FORMAT, **state}, stream))  # type: ignore[arg-type]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; nothing in it is executed.

    Raises:
        CoterieError: no checkpoint, a damaged one, or one of another format.
    """
    if not path.is_file():
        raise CoterieError(f"no checkpoint {str(path)!r}: the run ended before its first one; train it anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and storage readers raise many kinds
        raise CoterieError(f"the checkpoint {str(path)!r} is damaged: {str(error).splitlines()[0][:120]}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CoterieError(f"{str(path)!r} is not a checkpoint of this version of coterie")
    return state
