"""Uploads the folder of an export to the Hugging Face Hub with huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError, RunError

TIMEOUT = 5  # seconds; the Hub must answer before anything is exported


def require_hub(name: str) -> Any:
    """Checks that an upload is possible, and returns the client of the Hub.

    Args:
        name: the repository, ``user/name``.

    Raises:
        CoterieError: the name is invalid, or there is no package, token or connection.
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
    except Exception as error:  # of requests or httpx, depending on the package's version
        raise CoterieError(f"--push cannot reach {api.endpoint}: {_line(error)}") from None
    return api


def push(api: Any, folder: Path, name: str, private: bool) -> None:
    """Upload an export's folder to a repository, which is created if it does not exist.

    Args:
        api: from :func:`require_hub`.
        folder: the folder to upload.
        name: ``user/name``.
        private: whether a new repository is private; an existing one is not changed.

    Raises:
        RunError: the Hub refuses the upload; the folder is kept.
    """
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by coterie export")
    except Exception as error:  # many types, of two packages
        raise RunError(
            f"{str(folder)!r} is written, but was not pushed to {api.endpoint}/{name}: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
