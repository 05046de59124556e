"""Stage collect-cases: annotated images become cases, balanced and split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from storage.manifest import DataFile
from storage.records import Case, EditType, Request
from storage.schemas import CASES, from_table, to_table
from storage.store import Store, Version
from tasks.collection.balance import choose_balanced, split_of
from tasks.collection.candidates import Candidate, Rejected, candidates_of
from tasks.collection.coco import SUBJECT_AREA, CocoDataset, CocoError, read_coco, read_image
from tasks.images import contact_sheet, decode
from tasks.stage import Progress, Result, ShardResult, Stage, StageConfig

IMAGES_PER_SHARD = 256
CASES_PER_FILE = 256
SMALLEST_NEW_OBJECT = 2500
"""Pixels: categories with an object at least this large can be asked for in additions and swaps."""


class CollectConfig(StageConfig):
    """What to collect."""

    train_per_edit_type: int = Field(200, ge=0, description="Cases of each edit type for training.")
    bench_per_edit_type: int = Field(60, ge=0, description="Cases of each edit type for the bench.")
    cases_per_image: int = Field(2, ge=1, description="How many cases one image may give.")
    bench_share: float = Field(0.25, ge=0, le=1, description="Share of the images that is set aside for the bench.")
    seed: int = Field(0, description="Of the choice of images, requests and words.")


class CollectCases(Stage):
    """Cases from a folder with `images/` and `annotations/instances.json`."""

    name = "collect-cases"
    artifact = "cases"
    code_version = 3

    def __init__(self, store: Store, config: CollectConfig, folder: Path) -> None:
        """A collection from one dataset; where its folder lies does not count, what it holds does."""
        super().__init__(store, config, {})
        self.config: CollectConfig = config
        self.dataset = read_coco(folder)
        if not self.dataset.images:
            raise CocoError(f"{folder}: no images are annotated")

    def fingerprints(self) -> dict[str, str]:
        # The annotations by content, the images by name and size: hashing gigabytes only to find that nothing
        # changed would make every rerun pay.
        sizes = hashlib.sha256()
        for image in self.dataset.images:
            path = self.dataset.folder / "images" / image["file_name"]
            sizes.update(f"{image['file_name']} {path.stat().st_size if path.is_file() else -1}\n".encode())
        return {"annotations": self.dataset.sha256, "images": sizes.hexdigest()}

    def shards(self) -> list[str]:
        return [f"images-{start:06d}" for start in range(0, len(self.dataset.images), IMAGES_PER_SHARD)]

    def num_items(self) -> int:
        return len(self.dataset.images)

    def work(self, shard: str, progress: Progress) -> ShardResult:
        start = int(shard.removeprefix("images-"))
        candidates: list[Candidate] = []
        rejected: list[Rejected] = []
        for image in self.dataset.images[start : start + IMAGES_PER_SHARD]:
            found, refused = candidates_of(self.dataset, image, self._new_categories, self.config.seed)
            candidates += found
            rejected += refused
            progress(1)
        if start == 0:
            rejected += [Rejected(source_id="", reason="annotation of no image", detail=d) for d in self.dataset.stray]
        rows = [
            {**asdict(c), "request": json.dumps(c.request.to_dict()), "mask": json.dumps(c.mask)} for c in candidates
        ]
        tables = {
            "candidates": (self.store.add_table(pa.Table.from_pylist(rows, schema=_CANDIDATES)),),
            "rejected": (self.store.add_table(pa.Table.from_pylist([asdict(r) for r in rejected], schema=_REJECTED)),),
        }
        return ShardResult(tables=tables)

    def finish(self, results: Sequence[ShardResult]) -> Result:
        candidates = [c for result in results for c in self._candidates(result.tables["candidates"])]
        rejected = [file for result in results for file in result.tables["rejected"]]
        reasons = Counter(
            reason for file in rejected for reason in self.store.read_table(file, ["reason"])["reason"].to_pylist()
        )
        statistics: dict[str, Any] = {"images": len(self.dataset.images), "candidates": len(candidates)}
        tables: dict[str, list[DataFile]] = {}
        images = {image["id"]: image for image in self.dataset.images}
        seen: set[str] = set()
        for split, wanted in (("train", self.config.train_per_edit_type), ("bench", self.config.bench_per_edit_type)):
            own = [c for c in candidates if split_of(c.image_hash, self.config.bench_share, self.config.seed) == split]
            chosen, rest = choose_balanced(own, wanted, self.config.cases_per_image, self.config.seed)
            reasons[f"not needed for {split}"] += len(rest)
            tables[split] = []
            count: Counter[str] = Counter()
            categories: Counter[str] = Counter()
            # At least one file, so that even an empty split is a table.
            for start in range(0, max(len(chosen), 1), CASES_PER_FILE):
                cases = [self._case(c, images[c.image_id], split) for c in chosen[start : start + CASES_PER_FILE]]
                new = [case for case in cases if case.case_id not in seen]
                reasons["the same case twice"] += len(cases) - len(new)
                seen.update(case.case_id for case in new)
                count.update(case.edit_type for case in new)
                categories.update(case.category for case in new)
                tables[split].append(self.store.add_table(to_table(new, CASES)))
            statistics[split] = {
                "cases": sum(count.values()),
                "per_edit_type": {edit_type: count[edit_type] for edit_type in EditType},
                "shortfall": {t: wanted - count[t] for t in EditType if count[t] < wanted},
                "per_category": dict(sorted(categories.items())),
            }
        left_out = {reason: n for reason, n in sorted(reasons.items()) if n}
        if not seen:
            why = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
            raise CocoError(f"{self.dataset.folder}: not one case could be made of {len(images)} images: {why}")
        statistics["left_out"] = left_out
        return Result({**tables, "rejected": rejected}, statistics)

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        rows: dict[EditType, list[Case]] = {edit_type: [] for edit_type in EditType}
        for case in cases_of(version, "train" if version.manifest.rows("train") else "bench"):
            if len(rows[case.edit_type]) < 6:
                rows[case.edit_type].append(case)
        sheet = [
            (f"{t}: {cases[0].instruction}", [decode(c.source) for c in cases]) for t, cases in rows.items() if cases
        ]
        return [("sources, six of each edit type", contact_sheet(sheet))]

    @cached_property
    def _new_categories(self) -> list[str]:
        """Categories that can be asked for in additions and swaps: something large shows what one looks like.

        Where there is a choice, it is an object that stands alone of its category, as a subject does: an editor that
        cuts objects out of the sources of the cases then finds one.
        """
        dataset: CocoDataset = self.dataset
        large: set[Any] = set()
        alone: set[Any] = set()
        for objects in dataset.annotations.values():
            number = Counter(annotation["category_id"] for annotation in objects)
            for annotation in objects:
                category = annotation["category_id"]
                area = annotation["area"]
                if annotation.get("iscrowd") or area < SMALLEST_NEW_OBJECT * self._scale:
                    continue
                large.add(category)
                if number[category] == 1 and area >= SUBJECT_AREA[0] * 640 * 480 * self._scale:
                    alone.add(category)
        chosen = alone if len(alone) > 1 else large
        return [name for number, name in dataset.categories.items() if number in chosen]

    @cached_property
    def _scale(self) -> float:
        """Relative to an image of 640 x 480."""
        sides = [self.dataset.images[0].get(side) for side in ("width", "height")]
        width, height = (
            side if isinstance(side, int) else usual for side, usual in zip(sides, (640, 480), strict=True)
        )
        return width * height / (640 * 480)

    def _case(self, candidate: Candidate, image: Mapping[str, Any], split: str) -> Case:
        source = read_image(self.dataset, image)
        return Case(
            case_id=Case.id_of(source.data, candidate.instruction, candidate.edit_type),
            split=split,
            edit_type=candidate.edit_type,
            instruction=candidate.instruction,
            request=candidate.request,
            category=candidate.category,
            source_id=candidate.source_id,
            source=source.data,
            width=source.pixels.shape[1],
            height=source.pixels.shape[0],
            mask=candidate.mask,
            licence=source.licence,
            licence_url=source.licence_url,
            origin_url=source.origin_url,
        )

    def _candidates(self, files: Sequence[DataFile]) -> Iterator[Candidate]:
        for file in files:
            for row in self.store.read_table(file).to_pylist():
                yield Candidate(
                    **row
                    | {
                        "edit_type": EditType(row["edit_type"]),
                        "request": Request.from_dict(json.loads(row["request"])),
                        "mask": json.loads(row["mask"]),
                    }
                )


def cases_of(version: Version, split: Literal["train", "bench"] | str) -> Iterator[Case]:
    """The cases of a split, file by file."""
    for part in version.parts(split):
        yield from from_table(part, Case)


_CANDIDATES = pa.schema(
    [("image_id", pa.int64())]
    + [(n, pa.string()) for n in ("source_id", "image_hash", "edit_type", "category", "instruction", "request", "mask")]
)
_REJECTED = pa.schema([(name, pa.string()) for name in ("source_id", "reason", "detail")])
