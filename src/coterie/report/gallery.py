"""Images as text inside a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

SMALL_SIDE = 96  # up to here an image is shown pixel by pixel, larger ones are made this large twice over
THUMBNAIL_SIDE = 2 * SMALL_SIDE


def inline_image(path: Path) -> tuple[str, bool]:
    """An image as a ``data:`` address, and whether it is so small that its pixels should be shown as squares.

    Raises:
        OSError: the file is missing or no image.
    """
    with Image.open(path, formats=("PNG",)) as image:  # a run may come from someone else
        if max(image.size) <= SMALL_SIDE:
            return _data_address("png", path.read_bytes()), True
        thumbnail = image.convert("RGB")
    thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=85)
    return _data_address("jpeg", buffer.getvalue()), False


def whole_image(path: Path) -> str:
    """An image in its own size as a ``data:`` address.

    Raises:
        OSError: the file is missing or no PNG image.
    """
    with Image.open(path, formats=("PNG",)) as image:
        image.verify()
    return _data_address("png", path.read_bytes())


def _data_address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
