"""An export's folder on the Hugging Face Hub, by huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError, RunError

TIMEOUT = 5  # seconds in which the Hub must answer, before anything is exported


def require_hub(name: str) -> Any:
    """What talks to the Hub, after a look at what would be in its way.

    Args:
        name: the repository, ``user/name``.

    Raises:
        CoterieError: a name that the Hub does not take, no package, no token, or no connection.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise CoterieError(f"--push {name!r}: expected user/name, of letters, digits, '-', '_' and '.'")
    try:
        import huggingface_hub
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, validate_repo_id
    except ImportError as error:
        raise CoterieError(f"--push needs huggingface_hub ({error}): pip install huggingface_hub") from None
    try:
        validate_repo_id(name)
    except ValueError as error:
        raise CoterieError(f"--push {name!r}: {_line(error)}") from None
    if constants.HF_HUB_OFFLINE:
        raise CoterieError("--push needs the Hub, and HF_HUB_OFFLINE forbids it; unset that")
    if huggingface_hub.get_token() is None:
        raise CoterieError("--push needs a token of the Hub that may write: `hf auth login`, or HF_TOKEN")
    api = huggingface_hub.HfApi()
    try:
        get_session().head(api.endpoint, timeout=TIMEOUT)
    except Exception as error:  # of requests or httpx, by the package's version
        raise CoterieError(f"--push cannot reach {api.endpoint}: {_line(error)}") from None
    return api


def push(api: Any, folder: Path, name: str, private: bool) -> None:
    """Upload an export's folder, as it is, to a repository that is made where there is none.

    Args:
        api: from :func:`require_hub`.
        folder: what is uploaded.
        name: ``user/name``.
        private: of a new repository; one that is there stays as it is.

    Raises:
        RunError: the Hub refuses; the folder stays.
    """
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by coterie export")
    except Exception as error:  # many kinds, of two packages
        raise RunError(
            f"{str(folder)!r} is written, but was not pushed to {api.endpoint}/{name}: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
