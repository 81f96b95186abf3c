"""The one place that opens image files: which formats are read, how a picture becomes 8-bit pixels, and what is refused.

Training, evaluation and `predict` all read pictures here, so that a picture looks the same to each of them.
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

# Formats of pictures that Pillow decodes by itself. Not among them: PostScript and PDF, for which it starts another program, and
# containers that are no pictures. The list is passed to every open, since Pillow looks at the content and not at the extension.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO", "DIB", "TGA", "QOI")
OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # formats that a Pillow may be built without
# Pillow's modules of these formats; asked for all it has, it imports sixty.
PLUGINS = ("Avif", "Bmp", "Gif", "Jpeg", "Jpeg2K", "Mpo", "Png", "Ppm", "Qoi", "Tga", "Tiff", "WebP")
COMMON = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # modes of 8 bits; others may have no way to them
DEEP = {"I;16", "I;16L", "I;16B", "I;16N"}  # Pillow's modes of 16-bit grey
DEEP_FORMATS = {"PNG", "PPM"}  # 16-bit grey that Pillow widens to 32 bits
SIXTEEN_BITS = 65_535
LEAST_LIMIT, LARGEST_LIMIT = 64_000_000, 178_956_970  # pixels; the latter is where Pillow itself refuses
BYTES_A_PIXEL = 16  # a decoded picture, its conversion and its copy as an array


# What Pillow warns of (many pixels, odd metadata) is either refused here or means nothing to the user.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class UnreadableImage(ValueError):
    """A picture that cannot be read, or whose pixels have no certain meaning; the message says why."""


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this machine's Pillow knows."""
    for name in PLUGINS:
        with contextlib.suppress(ImportError):  # an older Pillow lacks the newest
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def readable_extensions() -> frozenset[str]:
    """Extensions, in lower case and with their dot, of the formats that are read and that this Pillow can decode."""
    missing = {name for name, feature in OPTIONAL.items() if not features.check(feature)}
    known = {name for name in readable_formats() if name not in missing}
    return frozenset(end for end, name in Image.EXTENSION.items() if name in known)


@functools.cache
def memory_size() -> int:
    """Bytes of memory of this machine or of the container that the process runs in; 8 GiB where the system does not say."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 * 2**30
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        size = min(size, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return size


@functools.cache
def largest_image() -> int:
    """Pixels above which a picture is refused: every core may hold one at a time, and all must fit into the memory."""
    return min(LARGEST_LIMIT, max(LEAST_LIMIT, memory_size() // (BYTES_A_PIXEL * (os.cpu_count() or 1))))


def _without_waiting(path: str, flags: int) -> int:
    """A pipe would be waited for without end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_file(path: Path | str) -> IO[bytes]:
    """A file to be read by :func:`open_image`.

    Raises:
        UnreadableImage: no regular file.
        OSError: none at all, or one that may not be read.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableImage("it is no regular file")
    return file


def open_image(file: IO[bytes]) -> Image.Image:
    """A picture whose header has been read; its pixels are decoded when they are asked for, while the file is open.

    Raises:
        UnreadableImage: too many pixels.
        Exception: whatever Pillow raises on a file that it cannot read.
    """
    image = Image.open(file, formats=readable_formats())
    width, height = image.size
    if width * height > largest_image():
        raise UnreadableImage(f"it has {width} x {height} pixels, more than the {largest_image():,} that fit")
    return image


def image_size(path: Path | str) -> tuple[int, int]:
    """Height and width as they are stored; only the header is read.

    Raises:
        Exception: as :func:`open_file` and :func:`open_image`.
    """
    with open_file(path) as file:
        image = open_image(file)
        return image.height, image.width


def read_image(path: Path | str, grey: bool = False) -> Image.Image:
    """Decode a file: upright as its EXIF orientation says, 8 bits, RGB or grey. Of several frames or pages, the first one.

    Raises:
        UnreadableImage: no regular file, too many pixels, or pixels of no certain range.
        Exception: whatever Pillow raises on a file that it cannot read.
    """
    with open_file(path) as file:
        return upright(open_image(file), grey)


def upright(image: Image.Image, grey: bool = False) -> Image.Image:
    """A picture that was opened, as :func:`read_image` gives it."""
    image.load()
    turned = image
    with contextlib.suppress(Exception):  # a damaged EXIF entry is no damage of the picture
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            turned = ImageOps.exif_transpose(image)
    return _eight_bits(turned, grey, is_deep(image))  # the turned one has no format


def is_deep(image: Image.Image) -> bool:
    """Whether a picture is 16-bit grey."""
    return image.mode in DEEP or (image.mode == "I" and getattr(image, "format", None) in DEEP_FORMATS)


def _eight_bits(image: Image.Image, grey: bool, deep: bool) -> Image.Image:
    """A picture of any mode as 8-bit RGB or grey; transparency is dropped, as torchvision and timm do it.

    16-bit grey is scaled by its depth (Pillow's own conversion cuts it off at 255, which leaves white).

    Raises:
        UnreadableImage: floating-point or 32-bit pixels, whose range the file does not say; or a picture that is one colour without its
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
    """Refuse a drawing that is only in its transparency, such as a black icon: without it, nothing is left."""
    *colours, alpha = (channel.getextrema() for channel in image.split())
    if alpha[0] != alpha[1] and all(low == high for low, high in colours):
        raise UnreadableImage("it is of one colour, its picture in its transparency alone; put it on a background")


def deep_peak(image: Image.Image) -> int | None:
    """Largest value of a 16-bit grey picture that was opened; None for any other."""
    return int(np.asarray(image).max(initial=0)) if is_deep(image) else None


def reason_of(error: BaseException, path: Path | str) -> str:
    """Why a picture cannot be decoded, in at most 120 characters and without its name."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no picture of a format that is read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).replace(repr(str(path)), "it").split())
    return (text or type(error).__name__)[:120]
