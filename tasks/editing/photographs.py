"""Images that others made, of whatever kind: upright, opaque, 8 bits, sRGB, as every editor wants them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps

from tasks.images import LARGEST_IMAGE, ImageTooLargeError, Pixels

OF_SERVERS = ("PNG", "JPEG", "WEBP")
"""What servers and folders may hold: each further decoder is one more that strangers' bytes reach."""
OF_PEOPLE = (*OF_SERVERS, "GIF", "BMP", "TIFF", "AVIF")
_ORIENTATION = 0x0112
"""The EXIF tag; 1 is upright."""


@dataclass(frozen=True)
class Photograph:
    """An image as it was read."""

    pixels: Pixels
    notes: tuple[str, ...] = ()
    """What was done to it that one may want to know, each a few words."""

    @property
    def size(self) -> str:
        """Width and height, for people."""
        return f"{self.pixels.shape[1]} x {self.pixels.shape[0]}"


def read_photograph(data: bytes, kinds: tuple[str, ...] = OF_SERVERS) -> Photograph:
    """Read an image.

    Raises: ValueError for one that is unreadable, cut short, or of another kind; ImageTooLargeError for one of more
        than `LARGEST_IMAGE` pixels, before it is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=kinds) as opened:
            if opened.width * opened.height > LARGEST_IMAGE:
                raise ImageTooLargeError(f"{opened.width} x {opened.height} pixels, at most {LARGEST_IMAGE} are read")
            return _upright_srgb(opened)
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"not an image of a kind that is read ({', '.join(kinds)})") from error
    except (OSError, SyntaxError, RuntimeError) as error:  # the last is AVIF's
        raise ValueError(f"not a readable image: {error}") from error


def _upright_srgb(opened: Image.Image) -> Photograph:
    notes = []
    frames = getattr(opened, "n_frames", 1)
    if frames > 1 and opened.format != "MPO":  # a camera's, whose other frames are previews
        notes.append(f"the first of {frames} frames")
    opened.load()
    profile = opened.info.get("icc_profile")
    image = ImageOps.exif_transpose(opened)
    if opened.getexif().get(_ORIENTATION) in range(2, 9):
        notes.append("turned upright, as its EXIF orientation says")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        notes.append("16 bits reduced to 8")
    elif image.mode == "F":
        raise ValueError("an image of floating-point numbers; save it with 8 or 16 bits per channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(below, image).convert("RGB")
        notes.append("transparency shown on white")
    if image.mode == "CMYK":
        notes.append("CMYK turned into RGB")
    return Photograph(np.asarray(_srgb(image, profile)), tuple(notes))


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque image in sRGB; by its colour profile where that is one of its kind of image."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            turned = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile, or one of another kind: most viewers leave it out, too
        else:
            assert turned is not None  # only in place there is no new image
            return turned
    return image.convert("RGB")
