"""Stage collect-cases: annotated images become cases, balanced and split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from storage.manifest import DataFile
from storage.records import Case, EditType, Request, identity
from storage.schemas import CASES, from_table, to_table
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.collection.balance import Choosable, choose_balanced, split_of
from tasks.collection.candidates import Candidate, Rejected, candidates_of, details_of
from tasks.collection.coco import SUBJECT_AREA, CocoDataset, CocoError, Rejection, read_coco, read_image
from tasks.images import contact_sheet, decode
from tasks.stage import Progress, Result, Shard, Stage, StageConfig, sum_counts

IMAGES_PER_SHARD = 256
CASES_PER_FILE = 256
CANDIDATES_AT_ONCE = 16 * CASES_PER_FILE
"""In full in memory: cases of one edit type come from all files of candidates, which are read once for so many."""
SMALLEST_NEW_OBJECT = 2500
"""Pixels: categories with an object at least this large can be asked for in additions and swaps."""


LOOK_BACK = 20
"""Versions among which the collection before is looked for."""
_CONTINUES = ("seed", "bench_share", "cases_per_image")
"""Settings that a collection and the one before must share; the numbers of cases may only grow."""
_NUMBERS = ("train_per_edit_type", "bench_per_edit_type")
_NEW_CATEGORIES = "new_categories"
_COMPARED = ("case_id", "source_id", "category", "request", "mask", "licence", "licence_url", "origin_url")


class CollectConfig(StageConfig):
    """What to collect."""

    train_per_edit_type: int = Field(200, ge=0, description="Cases of each edit type for training.")
    bench_per_edit_type: int = Field(60, ge=0, description="Cases of each edit type for the bench.")
    cases_per_image: int = Field(2, ge=1, description="How many cases one image may give.")
    bench_share: float = Field(0.25, ge=0, le=1, description="Share of the images that is set aside for the bench.")
    seed: int = Field(0, description="Of the choice of images, requests and words.")


class CollectCases(Stage):
    """Cases from a folder with `images/` and `annotations/instances.json`.

    A collection goes on from the one before: its cases stay, in their files, as long as their images and annotations
    do; new ones go to new files, one edit type each.
    """

    name = "collect-cases"
    artifact = "cases"
    code_version = 5

    def __init__(self, store: Store, config: CollectConfig, folder: Path) -> None:
        """A collection from one dataset; where its folder lies does not count, what it holds does."""
        super().__init__(store, config, {})
        self.config: CollectConfig = config
        self.folder = folder
        if not self.dataset.images:
            raise CocoError(f"{folder}: no images are annotated")

    @cached_property
    def dataset(self) -> CocoDataset:
        """The annotations."""
        return read_coco(self.folder)

    @cached_property
    def before(self) -> Version | None:
        """The collection that this one goes on from: the newest whose images were chosen and split alike."""
        if self.refresh:
            return None
        for version in reversed(self.store.versions(self.artifact)[-LOOK_BACK:]):
            if self._goes_on_from(version) and not self.store.rejection(version):
                return version
        return None

    def _goes_on_from(self, version: Version) -> bool:
        """Whether a collection was made alike, and of these images: several may share a store."""
        config, statistics = version.manifest.config, version.manifest.statistics
        if any(config.get(name) != getattr(self.config, name) for name in _CONTINUES):
            return False
        if any(config[name] > getattr(self.config, name) for name in _NUMBERS):
            return False
        asked_for = set(statistics.get(_NEW_CATEGORIES, ()))
        if not asked_for or not asked_for <= set(self.dataset.categories.values()):
            return False
        names = {image["file_name"] for image in self.dataset.images}
        used = {
            name
            for t in ("train", "bench")
            for p in version.parts(t, ["source_id"])
            for name in p["source_id"].to_pylist()
        }
        return 2 * len(used & names) >= max(len(used), 1)

    def fingerprints(self) -> dict[str, str]:
        # The annotations by content, the images by name and size: hashing gigabytes only to find that nothing
        # changed would make every rerun pay.
        sizes = hashlib.sha256()
        for image in self.dataset.images:
            sizes.update(f"{image['file_name']} {self._size_of(image)}\n".encode())
        return {"annotations": self.dataset.sha256, "images": sizes.hexdigest()}

    def shards(self) -> list[Shard]:
        dataset = self.dataset
        shards = []
        for start in range(0, len(dataset.images), IMAGES_PER_SHARD):
            images = dataset.images[start : start + IMAGES_PER_SHARD]
            entries = [[image, self._size_of(image), dataset.annotations.get(image["id"], ())] for image in images]
            basis = [self.config.seed, self.new_categories, sorted(dataset.categories.items()), entries]
            basis += [sorted(dataset.licences.items()), dataset.stray if start == 0 else ()]
            shards.append(Shard(f"images-{start:06d}", len(images), identity(basis)))
        return shards

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        start = int(shard.name.removeprefix("images-"))
        candidates: list[Candidate] = []
        rejected: list[Rejected] = []
        for image in self.dataset.images[start : start + IMAGES_PER_SHARD]:
            found, refused = candidates_of(self.dataset, image, self.new_categories, self.config.seed)
            candidates += found
            rejected += refused
            progress(1)
        if start == 0:
            rejected += [Rejected(source_id="", reason="annotation of no image", detail=d) for d in self.dataset.stray]
        rows = [
            {name: getattr(c, name) for name in _CANDIDATES.names}
            | {"request": json.dumps(c.request.to_dict()), "mask": json.dumps(c.mask)}
            for c in candidates
        ]
        tables = {
            "candidates": (self.store.add_table(pa.Table.from_pylist(rows, schema=_CANDIDATES)),),
            "rejected": (self.store.add_table(pa.Table.from_pylist([asdict(r) for r in rejected], schema=_REJECTED)),),
        }
        counts = {"candidates": len(candidates), "rejected": dict(Counter(r.reason for r in rejected))}
        return ShardResult(tables=tables, counts=counts, done=shard.num_items)

    def finish(self, results: Sequence[ShardResult]) -> Result:
        counts = sum_counts(results)
        reasons: Counter[str] = Counter(counts["rejected"])
        files = [file for result in results for file in result.tables["candidates"]]
        candidates: dict[str, _Brief] = {}
        for candidate in self._candidates(files):
            candidates.setdefault(candidate.case_id, candidate)
        reasons["the same case twice"] = counts["candidates"] - len(candidates)
        statistics: dict[str, Any] = {"images": len(self.dataset.images), "candidates": counts["candidates"]}
        tables: dict[str, list[DataFile]] = {}
        images = {image["id"]: image for image in self.dataset.images}
        seed, share = self.config.seed, self.config.bench_share
        splits = {i: split_of(i, share, seed) for i in {c.image_hash for c in candidates.values()}}
        for split, wanted in (("train", self.config.train_per_edit_type), ("bench", self.config.bench_per_edit_type)):
            own = {i: c for i, c in candidates.items() if splits[c.image_hash] == split}
            tables[split], kept = self._taken_over(split, own)
            stay = [own[case_id] for case_id in kept]
            taken = set(kept)
            free = [c for case_id, c in own.items() if case_id not in taken]
            chosen, rest = choose_balanced(free, wanted, self.config.cases_per_image, seed, stay)
            reasons[f"not needed for {split}"] += len(rest)
            in_full = self._in_full(files, chosen)
            made: list[Case] = []
            for some in _one_type_each(chosen):
                found = [self._case(c, images[c.image_id], split) for c in islice(in_full, len(some))]
                if cases := [case for case in found if case is not None]:
                    tables[split].append(self.store.add_table(to_table(cases, CASES), some[0].edit_type))
                    made += [replace(case, source=b"") for case in cases]
            reasons["the image is not what it was when it was looked at"] += len(chosen) - len(made)
            if not tables[split]:
                tables[split].append(self.store.add_table(to_table([], CASES)))  # even an empty split is a table
            there: list[Choosable | Case] = [*stay, *made]
            count = Counter(c.edit_type for c in there)
            statistics[split] = {
                "cases": count.total(),
                "per_edit_type": {edit_type: count[edit_type] for edit_type in EditType},
                "shortfall": {t: wanted - count[t] for t in EditType if count[t] < wanted},
                "per_category": dict(sorted(Counter(c.category for c in there).items())),
            }
        left_out = {reason: n for reason, n in sorted(reasons.items()) if n}
        if not any(statistics[split]["cases"] for split in tables):
            why = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
            raise CocoError(f"{self.dataset.folder}: not one case could be made of {len(images)} images: {why}")
        statistics["left_out"] = left_out
        statistics[_NEW_CATEGORIES] = self.new_categories
        rejected = [file for result in results for file in result.tables["rejected"]]
        return Result({**tables, "rejected": rejected}, statistics)

    def _taken_over(self, split: str, candidates: Mapping[str, Choosable]) -> tuple[list[DataFile], list[str]]:
        """The files of the collection before, without the cases that are no more.

        Returns: the files, and the identifiers of their cases.
        """
        files: list[DataFile] = []
        kept: list[str] = []
        for file in self.before.files(split) if self.before else ():
            rows = self.store.read_table(file, _COMPARED).to_pylist()
            stays = [self._stays(row, candidates) for row in rows]
            kept += [row["case_id"] for row, stay in zip(rows, stays, strict=True) if stay]
            if all(stays) and rows:
                files.append(file)
            elif any(stays):
                files.append(self.store.add_table(self.store.read_table(file).filter(stays), file.partition))
        return files, kept

    def _stays(self, row: Mapping[str, Any], candidates: Mapping[str, Any]) -> bool:
        candidate = candidates.get(row["case_id"])
        told = (row["source_id"], row["category"], json.loads(row["request"]), json.loads(row["mask"]))
        return candidate is not None and candidate.details == details_of(
            *told, row["licence"], row["licence_url"], row["origin_url"]
        )

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        rows: dict[EditType, list[Case]] = {edit_type: [] for edit_type in EditType}
        for file in version.samples("train" if version.manifest.rows("train") else "bench"):
            for case in from_table(self.store.read_table(file), Case):
                if len(rows[case.edit_type]) < 6:
                    rows[case.edit_type].append(case)
        sheet = [
            (f"{t}: {cases[0].instruction}", [decode(c.source) for c in cases]) for t, cases in rows.items() if cases
        ]
        return [("sources, six of each edit type", contact_sheet(sheet))]

    @cached_property
    def new_categories(self) -> list[str]:
        """Categories that can be asked for in additions and swaps: something large shows what one looks like.

        A collection that goes on from another asks for the same ones: with others, every request would be drawn anew.
        Where there is a choice, it is an object that stands alone of its category, as a subject does: an editor that
        cuts objects out of the sources of the cases then finds one.
        """
        if self.before is not None:
            return list(self.before.manifest.statistics[_NEW_CATEGORIES])
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

    def _case(self, candidate: Candidate, image: Mapping[str, Any], split: str) -> Case | None:
        """A candidate with its image, or None where the file has changed although its size has not."""
        try:
            source = read_image(self.dataset, image)
        except Rejection:
            return None
        if identity(source.data) != candidate.image_hash:
            return None
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

    def _size_of(self, image: Mapping[str, Any]) -> int:
        path = self.dataset.folder / "images" / image["file_name"]
        return path.stat().st_size if path.is_file() else -1

    def _candidates(self, files: Sequence[DataFile]) -> Iterator[_Brief]:
        for number, file in enumerate(files):
            table = self.store.read_table(file, _Brief.COLUMNS)
            for row, values in enumerate(zip(*(table[name].to_pylist() for name in _Brief.COLUMNS), strict=True)):
                case_id, image_hash, edit_type, category, details = values
                yield _Brief(case_id, image_hash, EditType(edit_type), category, details, number, row)

    def _in_full(self, files: Sequence[DataFile], chosen: Sequence[_Brief]) -> Iterator[Candidate]:
        """What was chosen with everything that is known of it, in order."""
        for start in range(0, len(chosen), CANDIDATES_AT_ONCE):
            some = chosen[start : start + CANDIDATES_AT_ONCE]
            numbers: dict[int, list[int]] = {}
            for brief in some:
                numbers.setdefault(brief.file, []).append(brief.row)
            rows: dict[str, dict[str, Any]] = {}
            for file, of_file in numbers.items():
                found = self.store.read_table(files[file]).take(of_file).to_pylist()
                rows |= {row["case_id"]: row for row in found}
            for brief in some:
                row = rows[brief.case_id]
                row["edit_type"] = EditType(row["edit_type"])
                row["request"] = Request.from_dict(json.loads(row["request"]))
                row["mask"] = json.loads(row["mask"])
                yield Candidate(**row)


@dataclass(frozen=True, slots=True)
class _Brief:
    """A candidate as choosing sees it: there are millions of them."""

    case_id: str
    image_hash: str
    edit_type: EditType
    category: str
    details: str
    file: int
    row: int

    COLUMNS: ClassVar = ("case_id", "image_hash", "edit_type", "category", "details")


def _one_type_each(chosen: Sequence[_Brief]) -> Iterator[list[_Brief]]:
    """Up to a file full of one edit type at a time, in order."""
    for _, of_type in groupby(chosen, key=lambda c: c.edit_type):
        cases = list(of_type)
        for start in range(0, len(cases), CASES_PER_FILE):
            yield cases[start : start + CASES_PER_FILE]


def cases_of(version: Version, split: Literal["train", "bench"] | str) -> Iterator[Case]:
    """The cases of a split, file by file."""
    for part in version.parts(split):
        yield from from_table(part, Case)


_CANDIDATE_TEXTS = (
    *("source_id", "image_hash", "case_id", "edit_type", "category", "instruction", "request", "mask", "details"),
)
_CANDIDATES = pa.schema([("image_id", pa.int64())] + [(n, pa.string()) for n in _CANDIDATE_TEXTS])
_REJECTED = pa.schema([(name, pa.string()) for name in ("source_id", "reason", "detail")])
