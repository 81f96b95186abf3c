"""The folder of an export: which folders may be replaced, and how they are filled so that a failure changes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from coterie.errors import CoterieError, RunError
from coterie.files import reason_of, usual_mode

# Marks a model card, and with it its folder, as written by `coterie export`.
MARK = "<!-- Written by `coterie export`, which replaces this folder's files when it is run again. -->"

STAGING = ".export.tmp"
# All files of an export: a folder with any other file is not replaced.
FILES = {"README.md", "config.json", "model.safetensors", "model.onnx", "model.onnx.data", "model.pt2"}
FILES |= {"generation_config.json", "preprocessor_config.json", "student.json", "recipe.yaml", "int8.json", STAGING}
FILES |= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
FILES |= {"vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja"}


def require_free(target: Path) -> None:
    """Checks that the folder is new, empty, or a previous export without other files."""
    if target.exists() and not target.is_dir():
        raise CoterieError(f"{str(target)!r} is a file; an export is a folder: choose another --output")
    present = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if not present - {STAGING}:
        return
    card = target / "README.md"
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise CoterieError(f"{str(target)!r} is not empty and holds no export; choose another --output")
    if foreign := sorted(present - FILES):
        raise CoterieError(
            f"{str(target)!r} holds an export and {foreign[0]!r}; move that away or choose another --output"
        )


def fill(target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder inside ``target``, then move its files to ``target``; a failure of ``write`` changes nothing.

    Raises:
        CoterieError: the folder cannot be created.
        RunError: the disk is full.
    """
    made = [parent for parent in [target, *target.parents] if not parent.exists()]
    staging = target / STAGING
    try:
        target.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        mode = usual_mode(staging)
    except OSError as error:
        _remove_empty(made)
        raise CoterieError(f"cannot write to {str(target)!r}: {error.strerror}") from None
    try:
        write(staging)
        for path in staging.iterdir():
            path.chmod(mode)  # some libraries write files that only their owner can read
        # The card is moved first: it marks the folder as an export in case the process ends between two moves.
        written = sorted((path.name for path in staging.iterdir()), key=lambda name: name != "README.md")
        for name in written:
            os.replace(staging / name, target / name)
        for stale in FILES - {STAGING, *written}:
            (target / stale).unlink(missing_ok=True)
    except Exception as error:  # libraries write here, and each raises its own errors
        reason = reason_of(error, staging)
        if reason is None:
            raise
        raise RunError(f"cannot write {str(target)!r}: {reason}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
