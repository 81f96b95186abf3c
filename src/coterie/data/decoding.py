"""Opens and decodes all image files: accepted formats, conversion to 8-bit pixels, and refused images.

Training, evaluation and `predict` all use this module, so that they get the same pixels.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import stat
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, features

# Image formats that Pillow decodes by itself. PostScript and PDF, for which it starts another program, and containers that are not images
# are excluded. The list is passed to every open, because Pillow identifies files by content, not by extension.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO", "DIB", "TGA", "QOI")
OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # formats that are optional in builds of Pillow
# Pillow's modules for these formats; without the list, it would import all of its sixty.
PLUGINS = ("Avif", "Bmp", "Gif", "Jpeg", "Jpeg2K", "Mpo", "Png", "Ppm", "Qoi", "Tga", "Tiff", "WebP")
COMMON = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # modes of 8 bits; others may not convert to them
DEEP = {"I;16", "I;16L", "I;16B", "I;16N"}  # Pillow's modes of 16-bit grey
DEEP_FORMATS = {"PNG", "PPM"}  # 16-bit grey that Pillow widens to 32 bits
SIXTEEN_BITS = 65_535
SIDEWAYS = {5, 6, 7, 8}  # EXIF orientations that exchange height and width
LEAST_LIMIT, LARGEST_LIMIT = 64_000_000, 178_956_970  # pixels; the latter is Pillow's own limit
BYTES_A_PIXEL = 16  # of a decoded image, its conversion and its copy as an array


# Pillow's warnings (many pixels, odd metadata) are about images that are refused here, or do not matter to users.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class UnreadableImage(ValueError):
    """An image cannot be read, or its pixels are ambiguous; the message says why."""


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Returns the :data:`FORMATS` that the installed Pillow supports."""
    for name in PLUGINS:
        with contextlib.suppress(ImportError):  # an older Pillow lacks the newest
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def readable_extensions() -> frozenset[str]:
    """Returns the extensions, in lower case and with their dot, of accepted formats that the installed Pillow can decode."""
    missing = {name for name, feature in OPTIONAL.items() if not features.check(feature)}
    known = {name for name in readable_formats() if name not in missing}
    return frozenset(end for end, name in Image.EXTENSION.items() if name in known)


@functools.cache
def memory_size() -> int:
    """Returns the bytes of memory of this machine or of the container of the process; 8 GiB if the system does not report it."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 * 2**30
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit
        size = min(size, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return size


@functools.cache
def largest_image() -> int:
    """Returns the number of pixels above which an image is refused: one image per core must fit into memory."""
    return min(LARGEST_LIMIT, max(LEAST_LIMIT, memory_size() // (BYTES_A_PIXEL * (os.cpu_count() or 1))))


def _without_waiting(path: str, flags: int) -> int:
    """Opens without blocking; opening a pipe would otherwise wait for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_file(path: Path | str) -> IO[bytes]:
    """Opens a file for :func:`open_image`.

    Raises:
        UnreadableImage: it is not a regular file.
        OSError: the file does not exist, or must not be read.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableImage("it is no regular file")
    return file


def open_image(file: IO[bytes]) -> Image.Image:
    """Opens an image and reads its header; pixels are decoded lazily, while the file is open.

    Raises:
        UnreadableImage: the image has too many pixels.
        Exception: whatever Pillow raises on a file that it cannot read.
    """
    image = Image.open(file, formats=readable_formats())
    width, height = image.size
    if width * height > largest_image():
        raise UnreadableImage(f"it has {width} x {height} pixels, more than the {largest_image():,} that fit")
    return image


def upright_size(path: Path | str) -> tuple[int, int]:
    """Returns height and width of what :func:`read_image` returns; only the header is read.

    Raises:
        Exception: as :func:`open_file` and :func:`open_image`.
    """
    with open_file(path) as file:
        image = open_image(file)
        with contextlib.suppress(Exception):  # as in upright
            if image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS:
                return image.width, image.height
        return image.height, image.width


def read_image(path: Path | str, grey: bool = False) -> Image.Image:
    """Decode a file to 8-bit RGB or grey, upright by its EXIF orientation; of several frames or pages, the first one.

    Raises:
        UnreadableImage: it is not a regular file, has too many pixels, or the range of its pixels is unknown.
        Exception: whatever Pillow raises on a file that it cannot read.
    """
    with open_file(path) as file:
        return upright(open_image(file), grey)


def upright(image: Image.Image, grey: bool = False) -> Image.Image:
    """Converts an opened image as :func:`read_image` does."""
    image.load()
    turned = image
    with contextlib.suppress(Exception):  # an image with a damaged EXIF entry is usable
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            turned = ImageOps.exif_transpose(image)
    return _eight_bits(turned, grey, is_deep(image))  # the transposed image has no format


def is_deep(image: Image.Image) -> bool:
    """Whether an image is 16-bit grey."""
    return image.mode in DEEP or (image.mode == "I" and getattr(image, "format", None) in DEEP_FORMATS)


def _eight_bits(image: Image.Image, grey: bool, deep: bool) -> Image.Image:
    """Converts an image of any mode to 8-bit RGB or grey; transparency is dropped, as in torchvision and timm.

    16-bit grey is scaled by its depth (Pillow's own conversion clips it at 255, which gives white).

    Raises:
        UnreadableImage: pixels are floating-point or 32-bit, whose range is unknown; or the image has a single colour without its
            transparency.
    """
    if deep:
        image = Image.fromarray((np.clip(np.asarray(image), 0, SIXTEEN_BITS) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise UnreadableImage(f"it has {kind} pixels of unknown range; convert it to 8 or 16 bits")
    if image.mode != "RGB" and image.has_transparency_data:
        image = image.convert("RGBA")
        _require_colours(image)
    wanted = "L" if grey else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _require_colours(image: Image.Image) -> None:
    """Refuse an image whose content is only in its transparency, such as a black icon."""
    *colours, alpha = (channel.getextrema() for channel in image.split())
    if alpha[0] != alpha[1] and all(low == high for low, high in colours):
        raise UnreadableImage("it is of one colour, its picture in its transparency alone; put it on a background")


def deep_peak(image: Image.Image) -> int | None:
    """Returns the largest value of an opened 16-bit grey image; None for other images."""
    return int(np.asarray(image).max(initial=0)) if is_deep(image) else None


def reason_of(error: BaseException, path: Path | str) -> str:
    """Returns why an image cannot be decoded, in at most 120 characters and without its name."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no picture of a format that is read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).replace(repr(str(path)), "it").split())
    return (text or type(error).__name__)[:120]
