"""The miniature world as an ordinary COCO dataset: what the collection code reads is what it reads of photographs."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tasks.collection.coco import encode_mask
from tasks.images import png
from tasks.miniature.scenes import SIZE, Scene, coverage, make_scene, render, to_bytes
from tasks.miniature.sprites import CATEGORIES

_COCO_IDS = {
    "car": 3, "airplane": 5, "bus": 6, "train": 7, "truck": 8, "boat": 9, "bird": 16, "cat": 17,
    "dog": 18, "horse": 19, "sheep": 20, "elephant": 22, "giraffe": 25, "handbag": 31,
    "suitcase": 33, "sports ball": 37, "kite": 38, "bottle": 44, "cup": 47, "banana": 52,
    "apple": 53, "donut": 60, "tv": 72, "laptop": 73, "vase": 86,
    "teddy bear": 88,
}  # fmt: skip


def write_coco(folder: Path, seed: int, count: int) -> Path:
    """Write scenes 0 to count - 1 of a world as `images/` and `annotations/instances.json`.

    The annotations come last, so their existence means that the dataset is whole; a whole one is left as it is.
    """
    annotations_path = folder / "annotations" / "instances.json"
    if annotations_path.exists():
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    annotations_path.parent.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in tqdm(range(count), desc="scenes", unit="", leave=False):
        scene = make_scene(seed, index)
        name = f"{scene.name}.png"
        (folder / "images" / name).write_bytes(png(to_bytes(render(scene))))
        images.append({"id": index + 1, "file_name": name, "width": SIZE, "height": SIZE, "license": 1})
        annotations.append(_annotation(scene, index + 1))
    content = {
        "info": {"description": f"The miniature world {seed} of HP-Edit: procedural scenes, not photographs."},
        "licenses": [{"id": 1, "name": "Public domain (made by a program)", "url": ""}],
        "categories": [{"id": _COCO_IDS[name], "name": name} for name in CATEGORIES],
        "images": images,
        "annotations": annotations,
    }
    with tempfile.NamedTemporaryFile("w", dir=annotations_path.parent, delete=False) as file:
        json.dump(content, file)
    os.replace(file.name, annotations_path)
    return folder


def scene_of(source_id: str) -> Scene:
    """The scene that an image of the miniature world shows, from its file name."""
    seed, _, index = source_id.removesuffix(".png").partition("-")
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
