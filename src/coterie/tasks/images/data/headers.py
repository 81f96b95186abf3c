"""Reads the headers of JPEG and PNG in a sixth of the time that Pillow takes. Unusual files are left to Pillow."""

from __future__ import annotations

import zlib
from struct import Struct

HEAD = 16 * 1024  # bytes of a file that are read
PNG, PNG_HEADER = b"\x89PNG\r\n\x1a\n", Struct(">II")
PNG_COLOURS = {0, 2, 3, 4, 6}  # grey, RGB, palette, grey and RGB with transparency
# Chunks that are allowed before the pixels, with the minimum size that Pillow reads without errors. Others (profiles, texts,
# transparency, animation) are left to Pillow.
PNG_CHUNKS = {b"PLTE": 0, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"bKGD": 0, b"tIME": 0, b"sBIT": 0}
FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
START_OF_SCAN, QUANTIZATION, HUFFMAN, RESTART_INTERVAL, COMMENT = 0xDA, 0xDB, 0xC4, 0xDD, 0xFE
APPLICATIONS = range(0xE0, 0xF0)


def plain_size(head: bytes) -> tuple[int, int] | None:
    """Returns width and height of an 8-bit JPEG or PNG image that Pillow opens without errors; None: leave the file to Pillow.

    Args:
        head: the first :data:`HEAD` bytes of a file, or all of a smaller one.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(head)
    if head.startswith(PNG):
        return _png(head)
    return None


def _jpeg(head: bytes) -> tuple[int, int] | None:
    """Parses a JPEG header (ITU-T T.81, annex B): segments of a marker and a length, up to the first scan."""
    place, size, end = 2, None, len(head)
    while place + 4 <= end:
        marker = head[place + 1]
        length = head[place + 2] << 8 | head[place + 3]
        after = place + 2 + length
        if head[place] != 0xFF or length < 2:
            return None
        if after > end:
            return None
        if marker == START_OF_SCAN:
            return size
        if marker in FRAMES:
            if size is not None or length < 8 or head[place + 4] != 8 or head[place + 9] not in {1, 3, 4}:
                return None
            if length != 8 + 3 * head[place + 9]:
                return None
            size = head[place + 7] << 8 | head[place + 8], head[place + 5] << 8 | head[place + 6]
            if 0 in size:
                return None
        elif marker == QUANTIZATION:
            if not _whole_tables(head, place + 4, after):
                return None
        elif marker in APPLICATIONS:
            if not _plain_application(marker, head[place + 4 : after]):
                return None
        elif marker not in {HUFFMAN, RESTART_INTERVAL, COMMENT}:
            return None
        place = after
    return None


def _whole_tables(head: bytes, place: int, end: int) -> bool:
    """Whether a segment consists of quantization tables of 64 values of one or two bytes."""
    while place < end:
        place += 65 if head[place] < 16 else 129
    return place == end


def _plain_application(marker: int, content: bytes) -> bool:
    """Whether Pillow reads an application segment without errors. Pillow reads EXIF entries as far as possible."""
    if marker in {0xE0, 0xEE}:  # JFIF, Adobe
        return len(content) >= 7
    if marker == 0xE2:  # several images in one file (MPF), a colour profile in parts
        return not content.startswith(b"MPF\0") and (len(content) >= 14 or not content.startswith(b"ICC_PROFILE\0"))
    return not content.startswith(b"Photoshop")


def _png(head: bytes) -> tuple[int, int] | None:
    """Parses a PNG header (PNG, section 11): chunks of a length, a name, content and a checksum, up to the first pixels."""
    place, size, end = len(PNG), None, len(head)
    while place + 8 <= end:
        length = int.from_bytes(head[place : place + 4], "big")
        kind = head[place + 4 : place + 8]
        if kind == b"IDAT":
            return size
        after = place + 12 + length
        if after > end or int.from_bytes(head[after - 4 : after], "big") != zlib.crc32(head[place + 4 : after - 4]):
            return None
        if kind == b"IHDR":
            depth, colour, compression, filtering, interlace = (
                head[place + 16 : place + 21] if length == 13 else b"\1" * 5
            )
            if size is not None or depth != 8 or colour not in PNG_COLOURS or compression or filtering or interlace > 1:
                return None
            size = PNG_HEADER.unpack_from(head, place + 8)
            if 0 in size:
                return None
        elif size is None or length < PNG_CHUNKS.get(kind, end):
            return None
        place = after
    return None
