"""Audio files given on the command line. This module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from coterie.errors import CoterieError
from coterie.run_folder import RunFolder
from coterie.tasks.speech.suffixes import SUFFIXES


def find_samples(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[Path]:
    """Return the named files, the audio files of named folders (recursively), and, for ``-``, those listed on standard input.

    Raises:
        CoterieError: a file does not exist, or a folder has no audio.
    """
    found: list[Path] = []
    for name in (each for word in inputs for each in (lines() if word == "-" else [word])):
        path = Path(name)
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and each.suffix.lower() in SUFFIXES)
            if not inside:
                raise CoterieError(f"{name!r} holds no audio; expected files such as .wav, .flac, .ogg or .mp3")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise CoterieError(f"there is no file {name!r}")
    return found
