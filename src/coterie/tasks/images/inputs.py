"""Finds images named on a command line. Nothing heavy is imported."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from coterie.errors import CoterieError, did_you_mean
from coterie.run_folder import RunFolder
from coterie.tasks.images.data.layout import Found, Walk


def find_samples(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[Path]:
    """Returns the image files of paths, folders (recursively, in order of their names), patterns, and ``-`` (a list of paths on standard input).

    Paths in the list need not exist: missing files are reported when they are read.

    Raises:
        CoterieError: a path or pattern on the command line does not exist, or holds no images.
    """
    found: list[Path] = []
    for each in inputs:
        path = Path(each).expanduser()
        if each == "-":
            found += [Path(line) for line in lines()]
        elif path.is_dir():
            below = _pictures_below(path)
            if not below:
                raise CoterieError(f"the folder {each!r} holds no images")
            found += below
        elif path.exists():
            found.append(path)
        elif glob.has_magic(each):
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            files = [file for match in matches for file in (_pictures_below(match) if match.is_dir() else [match])]
            if not files:
                raise CoterieError(f"no image matches {each!r}")
            found += files
        else:
            near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
            raise CoterieError(f"no image {each!r}{near}")
    return found


def _pictures_below(folder: Path) -> list[Path]:
    found = Found()
    Walk(folder, []).images(folder, found)
    paths = found.files.paths()
    return [Path(paths.name(number)) for number in range(len(paths))]
