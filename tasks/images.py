"""Images as bytes: encoding, decoding of our own files, thumbnails and contact sheets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}
LARGEST_IMAGE = 50_000_000
"""Pixels; a larger image is refused before it is decoded, since a small file can unpack to any size."""


def png(pixels: Pixels) -> bytes:
    """(H, W, 3) pixels as PNG bytes; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(pixels: Pixels, quality: int) -> bytes:
    """(H, W, 3) pixels as JPEG bytes of a quality from 1 to 100, without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode(data: bytes) -> Pixels:
    """Bytes of a PNG, JPEG or WebP image to (H, W, 3) sRGB pixels.

    Raises: ValueError for one that is unreadable, truncated or larger than `LARGEST_IMAGE`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
            if opened.width * opened.height > LARGEST_IMAGE:
                raise ImageTooLargeError(f"{opened.width} x {opened.height} pixels, at most {LARGEST_IMAGE} are read")
            return np.asarray(opened.convert("RGB"))
    except ImageTooLargeError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(str(error)) from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a readable image: {error}") from error


class ImageTooLargeError(ValueError):
    """An image has more pixels than are decoded."""


def image_kind(data: bytes) -> str | None:
    """By how the file begins, "png" or "jpeg"; None for anything else."""
    return next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)


def data_uri(data: bytes, kind: str = "png") -> str:
    """Image bytes as an address that a page can show without a request."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def contact_sheet(rows: Sequence[tuple[str, Sequence[Pixels]]], side: int = 96) -> bytes:
    """A PNG with one captioned row of pictures per entry, each picture fitted into a square of `side` pixels."""
    columns = max((len(pictures) for _, pictures in rows), default=1)
    caption = 16
    sheet = Image.new("RGB", (columns * (side + 4) + 4, len(rows) * (side + caption + 4) + 4), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, pictures) in enumerate(rows):
        top = 4 + i * (side + caption + 4)
        draw.text((4, top), title, fill=(40, 40, 40))
        for j, pixels in enumerate(pictures):
            picture = Image.fromarray(pixels)
            # Small pictures keep their pixels sharp; photographs are reduced.
            method = Image.Resampling.NEAREST if max(picture.size) <= side else Image.Resampling.LANCZOS
            scale = side / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            sheet.paste(picture.resize(size, method), (4 + j * (side + 4), top + caption))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
