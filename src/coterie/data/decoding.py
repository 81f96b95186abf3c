"""The one place that opens image files: which formats are read, how a picture becomes 8-bit pixels, and what is refused.

Training, evaluation and `predict` all read pictures here, so that a picture looks the same to each of them.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# Formats of pictures that Pillow decodes by itself. Not among them: PostScript and PDF, for which it starts another program, and
# containers that are no pictures. The list is passed to every open, since Pillow looks at the content and not at the extension.
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "PPM",
    "MPO",
    "AVIF",
    "JPEG2000",
    "QOI",
    "TGA",
)  # frequent ones first
DEEP = {"I;16", "I;16L", "I;16B", "I;16N"}  # Pillow's modes of 16-bit grey
DEEP_FORMATS = {"PNG", "PPM"}  # 16-bit grey that Pillow widens to 32 bits
ORIENTATION = 0x0112  # EXIF
SIXTEEN_BITS = 65_535
LEAST_LIMIT, LARGEST_LIMIT = 64_000_000, 178_956_970  # pixels; the latter is where Pillow itself refuses
BYTES_A_PIXEL = 16  # a decoded picture, its conversion and its copy as an array


class UnreadableImage(ValueError):
    """A picture that cannot be read, or whose pixels have no certain meaning; the message says why."""


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this machine's Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def readable_extensions() -> frozenset[str]:
    """Extensions, in lower case and with their dot, of the formats that are read."""
    return frozenset(end for end, name in Image.registered_extensions().items() if name in readable_formats())


@functools.cache
def memory_size() -> int:
    """Bytes of this machine's memory; 8 GiB where the system does not say."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 * 2**30


@functools.cache
def largest_image() -> int:
    """Pixels above which a picture is refused: every core may hold one at a time, and all must fit into the memory."""
    return min(LARGEST_LIMIT, max(LEAST_LIMIT, memory_size() // (BYTES_A_PIXEL * (os.cpu_count() or 1))))


def _open(path: Path | str) -> Image.Image:
    image = Image.open(path, formats=readable_formats())
    if image.width * image.height > largest_image():
        image.close()
        raise UnreadableImage(
            f"it has {image.width} x {image.height} pixels, more than the {largest_image():,} that fit"
        )
    return image


def image_size(path: Path | str) -> tuple[int, int]:
    """Height and width as they are stored; only the header is read.

    Raises:
        Exception: whatever Pillow raises on a file that it cannot read.
    """
    with _open(path) as image:
        return image.height, image.width


def read_image(path: Path | str, grey: bool = False) -> Image.Image:
    """Decode a file: upright as its EXIF orientation says, 8 bits, RGB or grey.

    Raises:
        UnreadableImage: too many pixels, or pixels of no certain range.
        Exception: whatever Pillow raises on a file that it cannot read.
    """
    with _open(path) as image:
        return upright(image, grey)


def upright(image: Image.Image, grey: bool = False) -> Image.Image:
    """A picture that was opened, as :func:`read_image` gives it."""
    if image.getexif().get(ORIENTATION, 1) == 1:  # most pictures; transposing copies them
        return _eight_bits(image, grey, image.format)
    return _eight_bits(ImageOps.exif_transpose(image), grey, image.format)  # the transposed one has no format


def _eight_bits(image: Image.Image, grey: bool, format: str | None) -> Image.Image:
    """A picture of any mode as 8-bit RGB or grey; transparency is dropped, as torchvision and timm do it.

    16-bit grey is scaled by its depth (Pillow's own conversion cuts it off at 255, which leaves white).

    Raises:
        UnreadableImage: floating-point or 32-bit pixels, whose range the file does not say.
    """
    if image.mode in DEEP or (image.mode == "I" and format in DEEP_FORMATS):
        image = Image.fromarray((_deep(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise UnreadableImage(f"it has {kind} pixels of unknown range; convert it to 8 or 16 bits")
    wanted = "L" if grey else "RGB"
    if image.mode == wanted:
        image.load()  # the file is closed soon
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(wanted)


def _deep(image: Image.Image) -> Any:
    return np.clip(np.asarray(image).astype(np.int64), 0, SIXTEEN_BITS)


def deep_peak(path: Path | str) -> int | None:
    """Largest value of a 16-bit grey picture; None for any other."""
    with _open(path) as image:
        if image.mode in DEEP or (image.mode == "I" and image.format in DEEP_FORMATS):
            return int(_deep(image).max(initial=0))
    return None


def reason_of(error: BaseException, path: Path | str) -> str:
    """Why a picture cannot be decoded, in at most 120 characters and without its name."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no picture of a format that is read"
    text = " ".join(str(error).replace(repr(str(path)), "it").split())
    return (text or type(error).__name__)[:120]
