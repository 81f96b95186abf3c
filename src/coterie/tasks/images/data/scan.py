"""Scans every image file before training: whether it can be decoded, a digest of its pixels, and unusual contents."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from coterie.data.cache import digest as digest_of
from coterie.data.cache import remembered
from coterie.data.decoding import COMMON, deep_peak, largest_image, open_image, reason_of, upright
from coterie.errors import CoterieError, RunError
from coterie.tasks.images.data.headers import HEAD, plain_size
from coterie.tasks.images.data.processes import by_processes
from coterie.tasks.images.data.raw import Files
from coterie.tasks.images.data.stored import Stored
from coterie.tasks.images.settings import ImageData

DECODE_AT_MOST = 20_000  # number of files above which only headers are read
CHUNK = 5_000  # files whose headers a worker process reads at a time
TWELVE_BITS = 4_095
GRID = 5  # side in pixels of the grid that distinguishes most images


class Look(NamedTuple):
    """Result for one file: why it cannot be decoded or "", digest of its pixels, peak of 16-bit values, whether it has several frames."""

    problem: str
    digest: int | None = None
    peak: int | None = None
    several: bool = False


Looks = dict[int, Look]  # by index; files with nothing to report are missing
NOTHING = Look("")


def check_images(parts: dict[str, Files], recipe: ImageData) -> tuple[dict[str, Files], int, list[str]]:
    """Scan the files of all splits.

    Returns:
        The files that can be decoded, with digests of their pixels; the number of files that cannot; and notes for the user, in sentences.

    Raises:
        CoterieError: files cannot be decoded and the recipe does not skip them, or 16-bit images use only a few of their bits.
    """
    count = sum(map(len, parts.values()))
    whole = count <= DECODE_AT_MOST
    found = _looks(list(parts.values()), whole, recipe.workers)
    bad = [(part, number, look.problem) for part, looks in found for number, look in looks.items() if look.problem]
    if bad and not recipe.skip_bad_images:
        (part, number, reason), more = bad[0], f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CoterieError(
            f"cannot decode {part.stored.name(number)!r}{more}: {reason}\nrepair or remove, or leave out with data.skip_bad_images=true"
        )
    every = [look for _, looks in found for look in looks.values()]
    peaks = [look.peak for look in every if look.peak is not None]
    if peaks and max(peaks) <= TWELVE_BITS:
        raise CoterieError(
            f"the 16-bit images in {found[0][0].stored.place!r} hold values up to {max(peaks)} of 65,535, and would be nearly black: convert them to 8 bits"
        )
    scanned = {split: _with_digests(part, looks, whole) for split, (part, looks) in zip(parts, found, strict=True)}
    notes = []
    if bad:
        notes.append(f"left out {len(bad)} image{'s' * (len(bad) > 1)} that cannot be decoded (data.skip_bad_images)")
    several = sum(look.several for look in every)
    if several:
        notes.append(f"of {several} file{'s' * (several > 1)} with several frames or pages, the first one is read")
    return scanned, len(bad), notes


def _with_digests(part: Files, looks: Looks, whole: bool) -> Files:
    """Returns the files that can be decoded, with digests of their pixels if these were read."""
    bad = [number for number, look in looks.items() if look.problem]
    if whole:
        digests = np.array([looks[number].digest or 0 for number in range(len(part))], dtype=np.uint64)
        part = Files(part.stored, part.labels, digests)
    return part.take(np.setdiff1d(np.arange(len(part)), bad)) if bad else part


def _looks(parts: list[Files], whole: bool, workers: int | None) -> list[tuple[Files, Looks]]:
    """Scans every file of each part. Results are cached while sizes and modification times of the files stay the same."""

    def scan() -> list[Any]:
        looks = [_look_wholly(part.stored) if whole else _read_headers(part.stored, workers) for part in parts]
        if whole:
            _compare_twins(parts, looks)
        return [[[number, *look] for number, look in sorted(each.items())] for each in looks]

    states = [part.stored.state() for part in parts]
    key = digest_of(f"look 3, decode={whole}, pixels={largest_image()}", *states)
    found = remembered("scans", key, scan)
    return [(part, {number: Look(*look) for number, *look in each}) for part, each in zip(parts, found, strict=True)]


def _look_wholly(stored: Stored) -> Looks:
    """Decodes every file, in threads: decoders release Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(enumerate(pool.map(lambda number: _look(stored, number, True), range(len(stored)))))


def _compare_twins(parts: list[Files], looks: list[Looks]) -> None:
    """Replaces equal checksums by digests of all pixels."""
    counts = Counter(look.digest for each in looks for look in each.values())
    for part, each in zip(parts, looks, strict=True):
        twins = [number for number, look in each.items() if look.digest is not None and counts[look.digest] > 1]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, digest in zip(twins, pool.map(lambda n: _digest(part, n), twins), strict=True):  # noqa: B023
                each[number] = each[number]._replace(digest=digest)


def _read_headers(stored: Stored, workers: int | None) -> Looks:
    """Reads headers in processes, because this is mostly Python code."""
    chunks = by_processes(partial(_headers, stored), -(-len(stored) // CHUNK), workers)
    return {number: look for looks in chunks for number, look in looks.items()}


def _headers(stored: Stored, chunk: int) -> Looks:
    """Scans the headers of a chunk of files."""
    numbers = range(chunk * CHUNK, min(len(stored), (chunk + 1) * CHUNK))
    looks = ((number, _look(stored, number, False)) for number in numbers)
    return {number: look for number, look in looks if look != NOTHING}


def _look(stored: Stored, number: int, whole: bool) -> Look:
    """Scans a file. It is decoded if ``whole``, or if its header is unusual.

    Raises:
        CoterieError: there is no permission to read the file.
    """
    several = False
    try:
        if not whole:
            size = plain_size(stored.head(number, HEAD))
            if size is not None and size[0] * size[1] <= largest_image():
                return NOTHING
        with stored.open(number) as file:
            opened = open_image(file)
            if not whole and opened.mode in COMMON:
                return NOTHING
            image = upright(opened)
            peak = deep_peak(opened)
            if opened.format not in {"JPEG", "MPO"}:  # in which cameras store a preview as another frame
                with contextlib.suppress(Exception):  # the first frame is intact, and no other is read
                    several = bool(getattr(opened, "is_animated", False))
        return Look("", _checksum(image) if whole else None, peak, several)
    except PermissionError as error:
        raise CoterieError(f"cannot read {stored.name(number)!r}: {error.strerror}") from None
    except Exception as error:  # decoders raise many types on broken files
        return Look(reason_of(error, stored.name(number)))


def _checksum(image: Image.Image) -> int:
    """Returns a 63-bit checksum of the size and a grid of pixels; its cost is negligible compared with decoding."""
    pixels = image.load()
    assert pixels is not None
    columns, rows = ([(2 * n + 1) * side // (2 * GRID) for n in range(GRID)] for side in image.size)
    return hash((image.size, *[pixels[x, y] for x in columns for y in rows])) % 2**63  # reproducible for ints


def _digest(part: Files, number: int) -> int:
    """Returns a 63-bit digest of size and pixels."""
    try:
        pixels = part.pixels(number)
    except RunError:  # it was readable before
        return 0
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{(width, height)}".encode() + pixels.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
