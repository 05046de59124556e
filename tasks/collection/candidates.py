"""From one image to the cases it could become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.records import Case, EditType, Request, identity
from tasks.collection.coco import SUBJECT_AREA, CocoDataset, Rejection, encode_mask, read_image, read_mask
from tasks.collection.instructions import choose_request, phrase


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A case that could be made, without its image."""

    image_id: int
    source_id: str
    image_hash: str
    """Of the file's bytes: two copies of an image under two names are one image."""
    case_id: str
    """Of the case that it would be."""
    edit_type: EditType
    category: str
    instruction: str
    request: Request
    mask: Mapping[str, Any]
    details: str
    """The identity of what the case says besides its image, instruction and edit type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An image or object that cannot become a case, and why."""

    source_id: str
    reason: str
    detail: str


def details_of(source_id: str, category: str, request: Mapping[str, str], mask: Mapping[str, Any], *origin: str) -> str:
    """The identity of a case's details: a case whose annotation or licence was corrected has others than before.

    Args:
        origin: the licence, its address, and the image's.
    """
    return identity(source_id, category, dict(request), dict(mask), *origin)


def candidates_of(
    dataset: CocoDataset, image: Mapping[str, Any], new_categories: Sequence[str], seed: int
) -> tuple[list[Candidate], list[Rejected]]:
    """All cases that an image could become: every suitable object as the subject, every edit type that suits it.

    Args:
        new_categories: what may be added or swapped in.
        seed: of the choice of requests and words; with the image's name it decides everything.
    """
    found: list[Candidate] = []
    rejected: list[Rejected] = []
    source_id = image["file_name"]
    try:
        source = read_image(dataset, image)
    except Rejection as rejection:
        return [], [Rejected(source_id=source_id, reason=rejection.reason, detail=rejection.detail)]
    objects = dataset.annotations.get(image["id"], ())
    number = Counter(o.get("category_id") for o in objects)
    image_hash, origin = identity(source.data), (source.licence, source.licence_url, source.origin_url)
    pixels = source.pixels.astype(np.float64) / 255
    height, width = pixels.shape[:2]
    for annotation in objects:
        category = dataset.categories.get(annotation["category_id"])
        try:
            if category is None:
                raise Rejection("category unknown", f"annotation {annotation.get('id')}")
            if annotation.get("iscrowd"):
                raise Rejection("a crowd, not an object", category)
            if number[annotation["category_id"]] > 1:
                raise Rejection("several of the category", category)
            mask = read_mask(annotation, height, width)
            if not SUBJECT_AREA[0] <= mask.mean() <= SUBJECT_AREA[1]:
                raise Rejection("object too small or too large", f"{category}: {mask.mean():.1%} of the image")
        except Rejection as rejection:
            rejected.append(Rejected(source_id=source_id, reason=rejection.reason, detail=rejection.detail))
            continue
        encoded = encode_mask(mask)
        others = [name for name in new_categories if name != category]
        for edit_type in EditType:
            rng = np.random.default_rng(int(identity(seed, source_id, category, edit_type), 16))
            request = choose_request(edit_type, pixels, mask, others, rng)
            if request is None:
                detail = f"{edit_type} of {category}"
                rejected.append(Rejected(source_id=source_id, reason="does not suit the edit type", detail=detail))
                continue
            instruction = phrase(edit_type, category, request, rng)
            found.append(
                Candidate(
                    image_id=image["id"],
                    source_id=source_id,
                    image_hash=image_hash,
                    case_id=Case.id_of(source.data, instruction, edit_type),
                    edit_type=edit_type,
                    category=category,
                    instruction=instruction,
                    request=request,
                    mask=encoded,
                    details=details_of(source_id, category, request.to_dict(), encoded, *origin),
                )
            )
    if not objects:
        rejected.append(Rejected(source_id=source_id, reason="no object annotated", detail=""))
    return found, rejected
