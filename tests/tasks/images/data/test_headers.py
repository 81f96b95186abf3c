"""What is called a plain picture is one to Pillow too, of the same size, whatever bytes are changed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from coterie.data.decoding import COMMON, open_image
from coterie.tasks.images.data.headers import HEAD, plain_size

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def encoded(mode="RGB", kind="JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    entries = Image.Exif()
    entries[0x0112] = 6
    entries[0x011A] = 300.0
    return entries


def with_text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("by", "x")
    return info


PLAIN = {
    "jpeg": encoded(),
    "grey jpeg": encoded("L"),
    "cmyk": encoded("CMYK"),
    "progressive": encoded(progressive=True, quality=95),
    "exif": encoded(exif=exif()),
    "profile": encoded(icc_profile=b"x" * 400),
    "comment": encoded(comment=b"hello", dpi=(72, 72)),
    "png": encoded(kind="PNG"),
    "grey png": encoded("L", "PNG", dpi=(72, 72)),
    "palette": encoded("P", "PNG"),
    "rgba": encoded("RGBA", "PNG"),
    "la": encoded("LA", "PNG"),
}
UNUSUAL = {
    "deep": encoded("I;16", "PNG") if "I;16" in PngImagePlugin._OUTMODES else b"",
    "one bit": encoded("1", "PNG"),
    "text": encoded(kind="PNG", pnginfo=with_text()),
    "gif": encoded(kind="GIF"),
    "webp": encoded(kind="WEBP"),
    "empty": b"",
    "text file": b"no image",
    "cut off": PLAIN["jpeg"][:200],
    "large exif": encoded(exif=b"Exif\0\0" + bytes(60_000)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_pictures_are_known(name):
    assert plain_size(PLAIN[name][:HEAD]) == (40, 30)


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_left_to_pillow(name):
    assert plain_size(UNUSUAL[name][:HEAD]) is None


def before_pixels(data: bytes) -> int:
    scan = data.find(b"\xff\xda") if data.startswith(b"\xff\xd8") else data.find(b"IDAT")
    return scan + 8


@pytest.mark.parametrize("name", PLAIN)
def test_a_damaged_header_is_never_called_plain_where_pillow_refuses_it(name):
    generator = np.random.default_rng(len(name))
    header = before_pixels(PLAIN[name])
    plain = 0
    for _ in range(600):
        data = bytearray(PLAIN[name])
        for _ in range(generator.integers(1, 4)):
            data[generator.integers(0, header)] = generator.choice([0, 1, 0xFF, 0xD9, generator.integers(256)])
        if generator.random() < 0.2:
            del data[generator.integers(0, header) :]
        size = plain_size(bytes(data[:HEAD]))
        if size is None:
            continue
        plain += 1
        if size[0] * size[1] > 60_000_000:
            continue  # refused by its size, wherever it was read
        image = open_image(io.BytesIO(bytes(data)))
        assert image.size == size
        assert image.mode in COMMON
    assert plain > 5 or name not in {"jpeg", "exif", "profile"}  # changed tables are no matter of the header
