"""Checkpoints: one file each, replaced atomically, and read without executing code from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from coterie.errors import CoterieError
from coterie.files import write_stream

FORMAT = 1
UNTRAINED = "untrained.pt"  # next to the checkpoints: weights that training never changes


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts to ``path``.

    Raises:
        RunError: the disk is full, or the folder does not exist; the previous checkpoint is kept.
    """
    write_stream(path, lambda stream: torch.save({"format": FORMAT, **state}, stream))  # type: ignore[arg-type]


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Context in which a checkpoint's state is loaded; errors in it are raised as errors of the checkpoint.

    Raises:
        CoterieError: a part of the state is missing, or has another type or shape.
    """
    try:
        yield
    except CoterieError:
        raise
    except KeyError as error:
        raise CoterieError(f"the checkpoint {str(path)!r} is damaged: it lacks {str(error)[:80]}") from None
    # Raised by modules and optimizers for a state that does not fit them.
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:160]
        raise CoterieError(f"the checkpoint {str(path)!r} is damaged, or of another run: {reason}") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU, with the untrained weights stored next to it; no code in it is executed.

    Raises:
        CoterieError: the checkpoint is missing, damaged, or of another format.
    """
    if not path.is_file():
        raise CoterieError(f"no checkpoint {str(path)!r}: the run ended before its first one; train it anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and storage readers raise many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise CoterieError(f"the checkpoint {str(path)!r} is damaged: {reason}") from None
    found = state.get("format") if isinstance(state, dict) else None
    if type(found) is not int or found != FORMAT:  # the type first: comparing a tensor gives no bool
        raise CoterieError(f"{str(path)!r} is not a checkpoint of this version of coterie")
    if state.get("without_untrained") is True:
        others = load_checkpoint(path.with_name(UNTRAINED))
        with restoring(path):
            state["method"] = {**others["method"], **state["method"]}
    return state
