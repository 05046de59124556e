"""The miniature world as an ordinary COCO dataset: what the collection code reads is what it reads of photographs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tasks.collection.coco import encode_mask
from tasks.images import png
from tasks.miniature.scenes import SIZE, Scene, coverage, make_scene, render, to_bytes
from tasks.miniature.sprites import CATEGORIES
from tasks.miniature.world import world_fingerprint

_COCO_IDS = {
    "car": 3, "airplane": 5, "bus": 6, "train": 7, "truck": 8, "boat": 9, "bird": 16, "cat": 17,
    "dog": 18, "horse": 19, "sheep": 20, "elephant": 22, "giraffe": 25, "handbag": 31,
    "suitcase": 33, "sports ball": 37, "kite": 38, "bottle": 44, "cup": 47, "banana": 52,
    "apple": 53, "donut": 60, "tv": 72, "laptop": 73, "vase": 86,
    "teddy bear": 88,
}  # fmt: skip


def write_coco(parent: Path, seed: int, count: int) -> Path:
    """Write scenes 0 to count - 1 of a world as `images/` and `annotations/instances.json`; returns their folder.

    The folder is named after the world and appears once it is whole; a whole one is left as it is. Of two writers, the
    later one finds the other's.
    """
    folder = parent / f"miniature-{seed}-{count}-{world_fingerprint()}"
    if folder.exists():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".unfinished-") as unfinished:
        whole = Path(unfinished) / "whole"
        _write(whole, seed, count)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    return folder


def _write(folder: Path, seed: int, count: int) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for index in tqdm(range(count), desc="scenes", unit="", leave=False):
        scene = make_scene(seed, index)
        name = f"{scene.name}.png"
        (folder / "images" / name).write_bytes(png(to_bytes(render(scene))))
        images.append({"id": index + 1, "file_name": name, "width": SIZE, "height": SIZE, "license": 1})
        annotations.append(_annotation(scene, index + 1))
    world = f"The miniature world {seed} of HP-Edit ({world_fingerprint()}): procedural scenes, not photographs."
    content = {
        # With the fingerprint, since images are told apart by name and size: another world is another dataset.
        "info": {"description": world},
        "licenses": [{"id": 1, "name": "Public domain (made by a program)", "url": ""}],
        "categories": [{"id": _COCO_IDS[name], "name": name} for name in CATEGORIES],
        "images": images,
        "annotations": annotations,
    }
    (folder / "annotations" / "instances.json").write_text(json.dumps(content))


def scene_of(source_id: str) -> Scene:
    """The scene that an image of the miniature world shows, from its file name.

    Raises: ValueError for a picture of anything else, such as a photograph.
    """
    seed, _, index = source_id.removesuffix(".png").partition("-")
    if not (seed.isdecimal() and index.isdecimal()):
        raise ValueError(f"{source_id} is no scene of the miniature world: the referee knows no other targets")
    return make_scene(int(seed), int(index))


def _annotation(scene: Scene, image_id: int) -> dict[str, Any]:
    mask = coverage(scene.subject) > 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "id": image_id,
        "image_id": image_id,
        "category_id": _COCO_IDS[scene.subject.category],
        "segmentation": encode_mask(mask),
        "area": int(mask.sum()),
        "bbox": [int(side) for side in box],
        "iscrowd": 0,
    }
