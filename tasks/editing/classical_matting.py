"""Masks with soft edges: what the classical editor needs to cut, grow and blend. Images are float32 in [0, 1]."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
"""(H, W, 3), sRGB in [0, 1]."""
Alpha = NDArray[np.float32]
"""(H, W) in [0, 1]."""
Mask = NDArray[np.bool_]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def unit_of(image: NDArray) -> float:
    """Pixels per unit of length: a 64th of the shorter side, so that all sizes are edited alike."""
    return min(image.shape[:2]) / 64


def as_floats(pixels: NDArray[np.uint8]) -> Image:
    """Bytes to [0, 1]."""
    return np.asarray(pixels, np.float32) / np.float32(255)


def as_bytes(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """[0, 1] to bytes, rounded."""
    return np.floor(np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def luma(image: Image) -> Alpha:
    """(H, W) brightness."""
    return np.asarray(image @ LUMA, np.float32)


def blur(image: NDArray[np.floating], sigma: float) -> NDArray[np.float32]:
    """Gaussian blur of (H, W) or (H, W, 3); a sigma of 0 is no blur."""
    if sigma <= 0:
        return np.asarray(image, np.float32)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)


def resize(image: Image, size: tuple[int, int], how: int = cv2.INTER_AREA) -> Image:
    """(H, W) or (H, W, C) at another size, (width, height); by area averages unless told."""
    return np.asarray(cv2.resize(image, size, interpolation=how), np.float32)


def blend(first: NDArray[np.floating], second: NDArray[np.floating], weight: float | NDArray[np.floating]) -> Image:
    """`first` where the weight is 0, `second` where it is 1."""
    if isinstance(weight, np.ndarray):
        weight = weight[..., None]
    return (first + (second - first) * weight).astype(np.float32)


def distance_to(mask: Mask) -> NDArray[np.float32]:
    """(H, W) distance in pixels to the mask, 0 on it."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def grow(mask: Mask, pixels: float) -> Mask:
    """All pixels within a distance of the mask; a negative distance shrinks it."""
    return distance_to(mask) <= pixels if pixels >= 0 else distance_to(~mask) > -pixels


def soft_grow(mask: Mask, pixels: float, feather: float) -> Alpha:
    """1 within a distance of the mask, falling to 0 over a feather's width."""
    return np.clip(1 + (pixels - distance_to(mask)) / max(feather, 1e-3), 0, 1).astype(np.float32)


def matte(image: Image, mask: Mask, unit: float | None = None) -> Alpha:
    """The subject's opacity: the mask with edges that follow the picture's.

    Annotated outlines are polygons and miss the true outline by a few pixels. A guided filter (He et al., 2010) pulls
    them to the edges of the picture, within one unit; small pictures keep their mask, which is exact there. Give the
    unit where `image` is a part of a picture.
    """
    radius = round(unit or unit_of(image))
    if radius < 2:
        return mask.astype(np.float32)
    guided = _guided_filter(image, mask.astype(np.float32), radius, 2e-4)
    # Steeper, so that the filter's tails do not make the whole band translucent.
    sharp = np.clip(1.6 * (guided - 0.5) + 0.5, 0, 1)
    return np.where(grow(mask, radius), np.where(grow(mask, -radius), 1.0, sharp), 0.0).astype(np.float32)


def clean_colours(image: Image, alpha: Alpha, unit: float | None = None) -> Image:
    """The subject's own colours at its translucent rim, where the picture shows a mix with what is behind it."""
    sure = (alpha > 0.95).astype(np.float32)
    sigma = max(0.5 * (unit or unit_of(image)), 0.7)
    weight = blur(sure, sigma)
    inside = blur(image * sure[..., None], sigma) / np.maximum(weight, 1e-4)[..., None]
    return blend(image, inside, (1 - alpha) * np.clip(weight * 20, 0, 1))


def _guided_filter(guide: Image, values: Alpha, radius: int, eps: float) -> Alpha:
    """The colour guided filter: `values` as a locally linear function of the guide's three channels."""

    def mean(array: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.blur(array, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT), np.float32)

    centre, level = mean(guide), mean(values)
    products = np.stack([guide[..., i] * guide[..., j] for i, j in _PAIRS], -1)
    spread = mean(products[..., :3]), mean(products[..., 3:])
    cov = {p: (spread[k // 3][..., k % 3] - centre[..., p[0]] * centre[..., p[1]]) for k, p in enumerate(_PAIRS)}
    with_values = mean(guide * values[..., None]) - centre * level[..., None]
    # The inverse of a symmetric 3 x 3 matrix per pixel, by cofactors.
    a, b, c = cov[0, 0] + eps, cov[1, 1] + eps, cov[2, 2] + eps
    d, e, f = cov[0, 1], cov[0, 2], cov[1, 2]
    x, y, z = b * c - f * f, e * f - d * c, d * f - e * b
    u, v, w = a * c - e * e, d * e - a * f, a * b - d * d
    rows = np.stack([np.stack([x, y, z], -1), np.stack([y, u, v], -1), np.stack([z, v, w], -1)], -2)
    slope = (rows @ with_values[..., None])[..., 0] / np.maximum(a * x + d * y + e * z, 1e-12)[..., None]
    offset = level - (slope * centre).sum(-1)
    return (mean(slope.astype(np.float32)) * guide).sum(-1) + mean(offset.astype(np.float32))


_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
