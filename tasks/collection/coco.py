"""Reading a COCO dataset that may be damaged: what is wrong with one image is a counted rejection, not a crash."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from tasks.images import ImageTooLargeError, decode

SMALLEST_SIDE = 32
SUBJECT_AREA = (0.015, 0.60)
"""A subject covers at least and at most this share of its image."""


class CocoError(ValueError):
    """The dataset as a whole cannot be used."""


class Rejection(Exception):
    """Why an image or an object cannot become a case."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """A rejection.

        Args:
            reason: one of few, to be counted.
            detail: the particulars of this one.
        """
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class CocoDataset:
    """The annotations of a folder with `images/` and `annotations/instances.json`."""

    folder: Path
    images: tuple[Mapping[str, Any], ...]
    annotations: Mapping[int, tuple[Mapping[str, Any], ...]]
    """By image id; `category_id` is an int or None, `area` a float."""
    stray: tuple[str, ...]
    """What was said of no image that there is, an annotation each, for the count."""
    categories: Mapping[int, str]
    licences: Mapping[int, tuple[str, str]]
    """Name and address by id."""
    sha256: str
    """Of the annotation file."""


@dataclass(frozen=True)
class SourceImage:
    """An image that can be used."""

    data: bytes
    pixels: NDArray[np.uint8]
    """(H, W, 3) sRGB."""
    licence: str
    licence_url: str
    origin_url: str


def read_coco(folder: Path) -> CocoDataset:
    """Read a dataset's annotations.

    Raises: CocoError that says what is missing or malformed, and where.
    """
    path = folder / "annotations" / "instances.json"
    if not path.is_file():
        raise CocoError(f"{path} does not exist; a dataset is a folder with images/ and annotations/instances.json")
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except ValueError as error:
        raise CocoError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CocoError(f"{path} holds a {type(content).__name__}, not an object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise CocoError(f"{path} has no list {key!r}; it has {', '.join(sorted(content)) or 'nothing'}")
    try:
        categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        licences = {int(e["id"]): (str(e["name"]), str(e.get("url", ""))) for e in content.get("licenses", [])}
        images = tuple(
            {
                **image,
                "id": int(image["id"]),
                "file_name": str(image["file_name"]),
                "license": _int(image.get("license")),
            }
            for image in content["images"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CocoError(
            f"{path}: an entry of categories, licenses or images lacks or garbles a field: {error!r}"
        ) from error
    by_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
    stray = []
    for number, annotation in enumerate(content["annotations"]):
        image_id = _int(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if image_id is None or image_id not in by_image:
            stray.append(f"annotation {number} of the file: image_id {image_id}")
        else:
            sound = {"category_id": _int(annotation.get("category_id")), "area": _float(annotation.get("area"))}
            by_image[image_id].append({**annotation, **sound})
    duplicates = [i for i, count in Counter(image["id"] for image in images).items() if count > 1]
    if duplicates:
        raise CocoError(f"{path}: image id {duplicates[0]} stands more than once")
    return CocoDataset(
        folder=folder,
        images=images,
        annotations={key: tuple(values) for key, values in by_image.items()},
        stray=tuple(stray),
        categories=categories,
        licences=licences,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _int(value: object) -> int | None:
    """An identifier, or None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: object) -> float:
    """A finite number, or 0 for anything else."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


def read_image(dataset: CocoDataset, image: Mapping[str, Any]) -> SourceImage:
    """Read and check one image. Raises: Rejection."""
    name = image["file_name"]
    licence, licence_url = dataset.licences.get(image["license"], ("", ""))
    if not licence:
        raise Rejection("licence unknown", f"{name}: licence id {image['license']}")
    if "noderiv" in licence.lower().replace(" ", "") or "-nd" in licence_url.lower():
        raise Rejection("licence forbids derivatives", f"{name}: {licence}")
    # The name is what a stranger wrote; a link in the folder is what its owner made, and is followed.
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise Rejection("file name leaves the folder", name)
    path = dataset.folder / "images" / inside
    if not path.is_file():
        raise Rejection("image missing", name)
    data = path.read_bytes()
    try:
        pixels = decode(data)
    except ImageTooLargeError as error:
        raise Rejection("image too large", f"{name}: {error}") from error
    except ValueError as error:
        raise Rejection("image unreadable", f"{name}: {error}") from error
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        raise Rejection("image too small", f"{name}: {pixels.shape[1]} x {pixels.shape[0]}")
    if image.get("width") not in (None, pixels.shape[1]) or image.get("height") not in (None, pixels.shape[0]):
        said = f"{image.get('width')} x {image.get('height')}"
        raise Rejection("size differs from the annotations", f"{name}: {pixels.shape[1::-1]}, annotated {said}")
    origin = image.get("flickr_url") or image.get("coco_url") or ""
    return SourceImage(data, pixels, licence, licence_url, str(origin))


def read_mask(annotation: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """An annotation's mask, (height, width), from polygons or run-length encoding.

    Raises: Rejection for a mask that is malformed, of another size, or empty.
    """
    segmentation = annotation.get("segmentation")
    name = f"annotation {annotation.get('id')}"
    try:
        if isinstance(segmentation, list) and segmentation:
            points = np.concatenate([np.asarray(polygon, float) for polygon in segmentation])
            if not np.isfinite(points).all() or points.min() < -1 or points.max() > max(height, width) + 1:
                raise Rejection("mask out of range", f"{name} in an image of {width} x {height}")
            encoded = rle.merge(rle.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation, Mapping):
            if list(segmentation["size"]) != [height, width]:
                raise Rejection("mask out of range", f"{name}: {segmentation['size']}, the image {[height, width]}")
            counts = segmentation["counts"]
            if isinstance(counts, list):
                if sum(counts) != height * width or min(counts, default=0) < 0:
                    raise Rejection("mask out of range", f"{name}: {sum(counts)} pixels of {height * width}")
                encoded = rle.frPyObjects(dict(segmentation), height, width)
            else:
                encoded = {"size": [height, width], "counts": counts}
                # pycocotools reads past a damaged string; the lengths tell whether it is whole.
                if int(rle.area(encoded)) > height * width:
                    raise Rejection("mask out of range", name)
        else:
            raise Rejection("mask missing", name)
        mask = rle.decode(encoded).astype(bool)
    except Rejection:
        raise
    except Exception as error:  # pycocotools raises plain exceptions of many kinds
        raise Rejection("mask malformed", f"{name}: {error!r}") from error
    if not mask.any():
        raise Rejection("mask empty", name)
    return mask


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask in COCO's compressed run-length encoding, JSON-able."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode_mask(encoded: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The inverse of `encode_mask`."""
    return rle.decode({"size": list(encoded["size"]), "counts": encoded["counts"].encode("ascii")}).astype(bool)
