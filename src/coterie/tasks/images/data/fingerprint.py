"""What identifies images: their pixels, or the content of their files."""

from __future__ import annotations

import numpy as np

from coterie.data.fingerprint import digest
from coterie.errors import RunError
from coterie.tasks.images.data.decoding import UnreadableImage
from coterie.tasks.images.data.raw import Arrays, Files, Objects, Samples
from coterie.tasks.images.data.stored import Stored

READ_WHOLE = 256 * 2**20  # bytes of files up to which all are read; of more, names and sizes are compared
READ_OBJECTS = 32  # samples of a data set of the user's that are read


def sample_digests(samples: Samples) -> list[bytes]:
    """Each sample's digest; empty where its content is not read."""
    if isinstance(samples, Arrays):
        return [digest(image.shape, np.ascontiguousarray(image)) for image in samples.images]
    if isinstance(samples, Files):
        return _file_digests(samples.stored)
    return _object_digests(samples)


def _file_digests(stored: Stored) -> list[bytes]:
    """Of names and sizes, and of the content where the files are few enough to be read; not of where their folder lies."""
    sizes = stored.sizes
    read = int(sizes.sum()) <= READ_WHOLE

    def content(number: int) -> bytes:
        try:
            with stored.open(number) as file:
                return file.read()
        except (OSError, UnreadableImage):  # named when it is needed
            return b""

    return [
        digest((size,), stored.base_name(number) + b"\0" + (content(number) if read else b""))
        for number, size in enumerate(sizes.tolist())
    ]


def _object_digests(samples: Objects) -> list[bytes]:
    """Of a few samples, evenly spread; of none where they read differently each time, by a random transform."""
    digests = [b""] * len(samples)
    if not samples.varies:
        for number in range(0, len(samples), -(-len(samples) // READ_OBJECTS)):
            try:
                pixels = samples.pixels(number)
            except RunError:  # named when it is needed
                continue
            digests[number] = digest(pixels.shape, np.ascontiguousarray(pixels))
    return digests
