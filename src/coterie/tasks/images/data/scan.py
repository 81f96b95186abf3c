"""One look at every image file before training: whether it can be decoded, and what its pixels tell."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from coterie.data.cache import fingerprint, remembered
from coterie.errors import CoterieError
from coterie.tasks.images.data.decoding import (
    COMMON,
    deep_peak,
    largest_image,
    open_file,
    open_image,
    read_image,
    reason_of,
    upright,
)
from coterie.tasks.images.data.raw import Files
from coterie.tasks.images.settings import ImageData

DECODE_AT_MOST = 20_000  # files; beyond that only headers are read
TWELVE_BITS = 4_095
GRID = 5  # pixels a side that tell most images apart


class Look(NamedTuple):
    """What one file tells: why it cannot be decoded or "", digest of its pixels, peak of 16-bit values, whether it has several frames."""

    problem: str
    digest: int | None = None
    peak: int | None = None
    several: bool = False


def check_images(parts: dict[str, Files], recipe: ImageData) -> tuple[dict[str, Files], int, list[str]]:
    """Look at the files of all splits.

    Returns:
        The files that can be decoded, with digests of their pixels; how many cannot; and what was found, in sentences for the user.

    Raises:
        CoterieError: some cannot, and the recipe does not leave them out; or 16-bit pictures that use a few of their bits only.
    """
    paths = [path for part in parts.values() for path in part.paths]
    looks = _looks(paths)
    bad = [(path, look.problem) for path, look in zip(paths, looks, strict=True) if look.problem]
    if bad and not recipe.skip_bad_images:
        (path, reason), more = bad[0], f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CoterieError(
            f"cannot decode {str(path)!r}{more}: {reason}\nrepair or remove, or leave out with data.skip_bad_images=true"
        )
    peaks = [look.peak for look in looks if look.peak is not None]
    if peaks and max(peaks) <= TWELVE_BITS:
        raise CoterieError(
            f"the 16-bit images in {str(paths[0].parent)!r} hold values up to {max(peaks)} of 65,535, and would be nearly black: convert them to 8 bits"
        )
    scanned: dict[str, Files] = {}
    start = 0
    for split, part in parts.items():
        own = looks[start : start + len(part)]
        start += len(part)
        keep = np.array([number for number, look in enumerate(own) if not look.problem], dtype=np.int64)
        digests = None
        if all(look.digest is not None for look in own if not look.problem):
            digests = np.array([look.digest or 0 for look in own], dtype=np.uint64)
        scanned[split] = Files(part.paths, part.labels, digests).take(keep)
    notes = []
    if bad:
        notes.append(f"left out {len(bad)} image{'s' * (len(bad) > 1)} that cannot be decoded (data.skip_bad_images)")
    several = sum(look.several for look in looks)
    if several:
        notes.append(f"of {several} file{'s' * (several > 1)} with several frames or pages, the first one is read")
    return scanned, len(bad), notes


def _looks(paths: Sequence[Path]) -> list[Look]:
    """One look at every file. It is kept for files whose size and time of change stay the same."""
    whole = len(paths) <= DECODE_AT_MOST

    def scan() -> list[Any]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            looks = list(pool.map(lambda path: _look(path, whole), paths))
            # Where checksums agree, all pixels are compared by a digest.
            counts = Counter(look.digest for look in looks)
            twins = [number for number, look in enumerate(looks) if look.digest is not None and counts[look.digest] > 1]
            for number, digest in zip(twins, pool.map(lambda number: _digest(paths[number]), twins), strict=True):
                looks[number] = looks[number]._replace(digest=digest)
        return looks

    key = fingerprint(paths, f"look 2, decode={whole}, pixels={largest_image()}")
    return [Look(*look) for look in remembered("scans", key, scan)]


def _look(path: Path, whole: bool) -> Look:
    """Whether a file can be decoded; where the header leaves no doubt, very many files are not.

    Raises:
        CoterieError: the file may not be read, which is no damage of the image.
    """
    several = False
    try:
        with open_file(path) as file:
            opened = open_image(file)
            if not whole and opened.mode in COMMON:
                return Look("")
            image = upright(opened)
            peak = deep_peak(opened)
            if opened.format not in {"JPEG", "MPO"}:  # a camera adds a preview
                with contextlib.suppress(Exception):  # the first frame is whole, and no other is read
                    several = bool(getattr(opened, "is_animated", False))
        return Look("", _checksum(image) if whole else None, peak, several)
    except PermissionError as error:
        raise CoterieError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except Exception as error:  # decoders raise what they like on broken files
        return Look(reason_of(error, path))


def _checksum(image: Image.Image) -> int:
    """Of size and a grid of pixels, 63 bits: what costs next to nothing beside decoding."""
    pixels = image.load()
    assert pixels is not None
    columns, rows = ([(2 * n + 1) * side // (2 * GRID) for n in range(GRID)] for side in image.size)
    return hash((image.size, *[pixels[x, y] for x in columns for y in rows])) % 2**63  # always the same: whole numbers


def _digest(path: Path) -> int:
    """Of size and pixels, 63 bits."""
    try:
        image = read_image(path)
    except Exception:  # it could be read a moment ago
        return 0
    digest = hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
