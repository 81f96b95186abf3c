"""Small images that are named on a command line. Nothing heavy is imported."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from coterie.errors import CoterieError, did_you_mean
from coterie.run_folder import RunFolder

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


def find_samples(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[Path]:
    """Image files of paths, folders (those directly in them, by name), patterns, and ``-``: a list on standard input.

    Raises:
        CoterieError: what was typed is not there, or holds no images.
    """
    found: list[Path] = []
    for each in inputs:
        path = Path(each).expanduser()
        if each == "-":
            found += [Path(line) for line in lines()]
        elif path.is_dir():
            below = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS)
            if not below:
                raise CoterieError(f"the folder {each!r} holds no images")
            found += below
        elif path.exists():
            found.append(path)
        elif glob.has_magic(each) and (matches := sorted(glob.glob(str(path), recursive=True))):
            found += [Path(match) for match in matches]
        else:
            near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
            raise CoterieError(f"no image {each!r}{near}")
    return found
