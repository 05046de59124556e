"""Pictures made small enough to stand in a page."""

from __future__ import annotations

import io

from PIL import Image

from tasks.images import data_uri, decode

THUMBNAIL = 128
"""Pixels: larger pictures are reduced to this side."""
PHOTOGRAPH = 192
"""Pixels, where there is room for more of a photograph."""
LARGEST_PICTURE = 20_000
"""Bytes of one picture where there is room for photographs; a hundred of them stay below 3 MB."""
_PNG = b"\x89PNG"


def thumbnail(data: bytes) -> str | None:
    """An image as a small PNG's data URI; None where it cannot be read."""
    picture = _read(data)
    if picture is None:
        return None
    if data.startswith(_PNG) and max(picture.size) <= THUMBNAIL:
        return data_uri(data)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # A palette keeps 150 photographs below the page's size; at this size nobody sees it.
    picture.quantize(256).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue())


def photograph(data: bytes) -> str | None:
    """A small PNG as it is, so that its pixels stay sharp; anything else as a JPEG's data URI. None: unreadable."""
    picture = _read(data)
    if picture is None:
        return None
    if data.startswith(_PNG) and max(picture.size) <= THUMBNAIL and len(data) <= LARGEST_PICTURE:
        return data_uri(data)
    picture.thumbnail((PHOTOGRAPH, PHOTOGRAPH), Image.Resampling.LANCZOS)
    for quality in (85, 70, 50, 25):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= LARGEST_PICTURE:
            break
    return data_uri(buffer.getvalue(), "jpeg")


def _read(data: bytes) -> Image.Image | None:
    try:
        return Image.fromarray(decode(data))
    except ValueError:
        return None
