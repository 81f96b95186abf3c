"""Fingerprints of images: digests of their pixels, or of the content of their files."""

from __future__ import annotations

import numpy as np

from coterie.data.decoding import UnreadableImage
from coterie.data.fingerprint import digest
from coterie.errors import RunError
from coterie.tasks.images.data.raw import Arrays, Files, Objects, Samples
from coterie.tasks.images.data.stored import Stored

READ_WHOLE = 256 * 2**20  # total bytes up to which files are read; above that, only names and sizes are compared
READ_OBJECTS = 32  # number of samples of a custom data set that are read


def sample_digests(samples: Samples) -> list[bytes]:
    """Returns each sample's digest; empty if its content is not read."""
    if isinstance(samples, Arrays):
        return [digest(image.shape, np.ascontiguousarray(image)) for image in samples.images]
    if isinstance(samples, Files):
        return _file_digests(samples.stored)
    return _object_digests(samples)


def _file_digests(stored: Stored) -> list[bytes]:
    """Returns digests of names and sizes, and of the content if the total size is small enough; independent of the folder's path."""
    sizes = stored.sizes
    read = int(sizes.sum()) <= READ_WHOLE

    def content(number: int) -> bytes:
        try:
            with stored.open(number) as file:
                return file.read()
        except (OSError, UnreadableImage):  # reported when the image is used
            return b""

    return [
        digest((size,), stored.base_name(number) + b"\0" + (content(number) if read else b""))
        for number, size in enumerate(sizes.tolist())
    ]


def _object_digests(samples: Objects) -> list[bytes]:
    """Returns digests of a few evenly spaced samples; of none if a random transform makes readings differ."""
    digests = [b""] * len(samples)
    if not samples.varies:
        for number in range(0, len(samples), -(-len(samples) // READ_OBJECTS)):
            try:
                pixels = samples.pixels(number)
            except RunError:  # reported when the sample is used
                continue
            digests[number] = digest(pixels.shape, np.ascontiguousarray(pixels))
    return digests
