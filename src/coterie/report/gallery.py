"""Images as data URLs inside a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

SMALL_SIDE = 96  # images up to this side are shown pixelated; larger ones are reduced to twice this side
THUMBNAIL_SIDE = 2 * SMALL_SIDE


def inline_image(path: Path) -> tuple[str, bool]:
    """Returns an image as a data URL, and whether it is so small that it should be scaled without interpolation.

    Raises:
        OSError: the file is missing or not a PNG image.
    """
    with Image.open(path, formats=("PNG",)) as image:  # a run may be from an untrusted source
        if max(image.size) <= SMALL_SIDE:
            return _data_address("png", path.read_bytes()), True
        thumbnail = image.convert("RGB")
    thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=85)
    return _data_address("jpeg", buffer.getvalue()), False


def whole_image(path: Path) -> str:
    """Returns an image in its original size as a data URL.

    Raises:
        OSError: the file is missing or not a PNG image.
    """
    with Image.open(path, formats=("PNG",)) as image:
        image.verify()
    return _data_address("png", path.read_bytes())


def _data_address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
