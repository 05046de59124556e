"""Images of others are read whatever they are, or refused with a reason."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tasks.editing.photographs import OF_PEOPLE, read_photograph
from tasks.images import LARGEST_IMAGE, ImageTooLargeError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, PIXELS),
        (2, PIXELS[:, ::-1]),
        (3, PIXELS[::-1, ::-1]),
        (6, np.rot90(PIXELS, -1)),
        (8, np.rot90(PIXELS)),
    ],
)
def test_photographs_are_turned_upright(orientation, upright):
    found = read_photograph(encoded(IMAGE, exif=turned(orientation)))
    assert np.array_equal(found.pixels, upright)
    assert bool(found.notes) == (orientation > 1)
    assert found.size == f"{upright.shape[1]} x {upright.shape[0]}"


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (encoded(IMAGE.convert("RGBA")), ""),
        (encoded(Image.new("RGBA", (3, 2), (0, 0, 0, 0))), "transparency shown on white"),
        (encoded(Image.new("LA", (3, 2), (0, 0))), "transparency shown on white"),
        (encoded(Image.new("P", (3, 2)), transparency=0), "transparency shown on white"),
        (encoded(Image.new("1", (3, 2))), ""),
        (encoded(Image.new("L", (3, 2))), ""),
        (encoded(IMAGE.convert("CMYK"), "JPEG"), "CMYK turned into RGB"),
        (encoded(Image.fromarray(np.full((2, 3), 65535, np.uint16))), "16 bits reduced to 8"),
        (encoded(Image.fromarray(np.full((2, 3), 65535, np.uint16)), "TIFF"), "16 bits reduced to 8"),
        (encoded(IMAGE, "GIF", save_all=True, append_images=[IMAGE.rotate(90)]), "the first of 2 frames"),
        (encoded(IMAGE, "WEBP", save_all=True, append_images=[IMAGE.rotate(90)]), "the first of 2 frames"),
        (encoded(IMAGE, "MPO", save_all=True, append_images=[IMAGE.rotate(90)]), ""),
        (encoded(IMAGE, "BMP"), ""),
        (encoded(IMAGE, "AVIF"), ""),
    ],
)
def test_all_kinds_become_opaque_8_bit_rgb(data, note):
    found = read_photograph(data, OF_PEOPLE)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.ndim == 3
    assert found.pixels.shape[2] == 3
    assert note in "".join(found.notes)
    if "transparency" in note or "16 bits" in note:
        assert (found.pixels == 255).all()


def test_a_colour_profile_is_obeyed_and_a_broken_one_is_not():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (None, srgb, b"no profile at all"):
        assert np.array_equal(read_photograph(encoded(IMAGE, icc_profile=profile)).pixels, PIXELS)
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert read_photograph(encoded(IMAGE, icc_profile=linear)).pixels.shape == PIXELS.shape


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not an image of a kind that is read"),
        (b"no image", "not an image of a kind that is read"),
        (encoded(IMAGE, "GIF"), r"read \(PNG, JPEG, WEBP\)"),
        (encoded(IMAGE)[:-300], "not a readable image"),
        (encoded(IMAGE, "JPEG")[:300], "not a readable image"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "not an image"),
    ],
)
def test_what_cannot_be_read_says_why(data, told):
    with pytest.raises(ValueError, match=told):
        read_photograph(data)


def test_floating_point_and_too_many_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        read_photograph(encoded(Image.new("F", (2, 2)), "TIFF"), OF_PEOPLE)
    with pytest.raises(ImageTooLargeError, match="10000 x 5001 pixels"):
        read_photograph(encoded(Image.new("1", (10_000, LARGEST_IMAGE // 10_000 + 1))))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated")
@settings(max_examples=150)
@given(
    st.sampled_from([encoded(IMAGE), encoded(IMAGE, "JPEG", exif=turned(6)), encoded(IMAGE, "WEBP")]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    st.floats(0.1, 1),
)
def test_damaged_images_are_pictures_or_value_errors(data, changes, kept):
    damaged = bytearray(data[: int(len(data) * kept)])
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    with contextlib.suppress(ValueError):
        assert read_photograph(bytes(damaged)).pixels.shape[2] == 3
