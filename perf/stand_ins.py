"""What measurements of the pipeline need around the real stages: many small images, an editor and a judge that do
next to nothing and count what they are asked, and a store that counts what is read.

The editor and the judge are stand-ins: what is measured is the pipeline around them, and theirs is the work that it
should save.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType, identity
from storage.store import Store, Version
from tasks.edit_baseline import EditBaseline, EditConfig
from tasks.editing.interface import EditFailure, EditTask
from tasks.hp_scorer.contract import EditTriplet, Judgement, Outcome, Scorer, WhoJudges
from tasks.images import png
from tasks.rate_edits import RateConfig, RateEdits

CATEGORIES = ("car", "bird", "cat", "dog", "cup", "apple", "kite", "boat")
SIDES = (32, 40, 48, 56, 64)
FAILS_ONE_IN = 50
"""The share of edits that a judge out of order has no answer for."""


def write_images(folder: Path, count: int) -> None:
    """A COCO dataset of `count` small images with one object each, of which all eight edit types can be asked.

    A folder that holds fewer images gets the missing ones, as a dataset grows; those that are there stay as they are.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        rng = np.random.default_rng(number)
        height, width = (int(side) for side in rng.choice(SIDES, 2))
        name = f"{number:06d}.png"
        if not (path := folder / "images" / name).exists():
            # Noise: bytes that nothing compresses, as those of photographs.
            path.write_bytes(png(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)))
        # On one side, so that something can be added on the other.
        left = 0 if number % 2 else width // 2
        box = [left + 2, height // 4, width // 2 - 4, height // 2]
        x, y, w, h = box
        images.append({"id": number, "file_name": name, "width": width, "height": height, "license": 1})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": number % len(CATEGORIES),
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                "area": w * h,
                "bbox": box,
                "iscrowd": 0,
            }
        )
    content = {
        "licenses": [{"id": 1, "name": "Public domain (made by a program)", "url": ""}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CATEGORIES)],
        "images": images,
        "annotations": annotations,
    }
    (folder / "annotations" / "instances.json").write_text(json.dumps(content))


class StandInEditor:
    """Gives the negative of each picture."""

    fingerprint = identity("stand-in editor")

    def __init__(self) -> None:
        self.edits = 0

    def edit(self, tasks: Sequence[EditTask]) -> list[NDArray[np.uint8] | EditFailure]:
        self.edits += len(tasks)
        return [255 - task.source for task in tasks]


class StandInJudge(Scorer):
    """Scores by the case's name, whatever the picture; `rubrics` tells the rubric's version of each edit type."""

    full_at = 5.0
    who = WhoJudges("stand-in", "", {})

    def __init__(self, rubrics: Mapping[EditType, int] | None = None, out_of_order: bool = False) -> None:
        """A judge; one that is out of order has no answer for some edits."""
        self.rubrics = dict(rubrics or {})
        self.out_of_order = out_of_order
        self.ratings: Counter[EditType] = Counter()
        self.failures = 0

    @property
    def fingerprint(self) -> str:
        return identity("stand-in judge", sorted(self.rubrics.items()))

    def fingerprint_of(self, edit_type: EditType) -> str:
        return identity("stand-in judge", edit_type, self.rubrics.get(edit_type, 0))

    def judgements(
        self, triplets: Iterable[EditTriplet], attempt: int = 0
    ) -> Generator[tuple[int, Judgement], None, None]:
        for position, triplet in enumerate(triplets):
            self.ratings[triplet.edit_type] += 1
            yield position, self._judge(int(triplet.case_id, 16))

    def _judge(self, drawn: int) -> Judgement:
        if self.out_of_order and drawn % FAILS_ONE_IN == 0:
            self.failures += 1
            return Judgement(outcome=Outcome.TIMEOUT, score=None)
        return Judgement(outcome=Outcome.SCORED, score=float(drawn // FAILS_ONE_IN % 6))


class StandInEdits(EditBaseline):
    """The real stage with the stand-in editor."""

    def __init__(self, store: Store, cases: Version, editor: StandInEditor) -> None:
        """Edits of `cases`."""
        super().__init__(store, EditConfig(), cases)
        self._stand_in = editor

    @cached_property
    def editor(self) -> StandInEditor:
        """The stand-in."""
        return self._stand_in

    @cached_property
    def fingerprint(self) -> str:
        """The stand-in's."""
        return self._stand_in.fingerprint


class StandInRatings(RateEdits):
    """The real stage with the stand-in judge."""

    def __init__(self, store: Store, edits: Version, judge: StandInJudge) -> None:
        """Scores of `edits`."""
        super().__init__(store, RateConfig(), edits)
        self._stand_in = judge

    @cached_property
    def scorer(self) -> StandInJudge:
        """The stand-in."""
        return self._stand_in


class CountingStore(Store):
    """Counts what is read, by folder."""

    def __init__(self, url: str, **options: Any) -> None:
        """A store like any other."""
        super().__init__(url, **options)
        self.bytes_read: Counter[str] = Counter()

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The content of a path."""
        data = super().read(path, start, end)
        self.bytes_read[path.split("/")[0]] += len(data)
        return data

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        """The contents of many small files."""
        found = super().read_all(paths)
        for path, data in zip(paths, found, strict=True):
            self.bytes_read[path.split("/")[0]] += len(data)
        return found

    def size_of_all(self) -> int:
        """How many bytes it holds."""
        return sum(int(info["size"]) for info in self.walk("").values())
