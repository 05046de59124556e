"""Stage collect-labels: what people say of the picked triplets, from the rating page, other files, or simulated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from storage.records import EditType, Request, identity
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.calibration.rating_files import read_ratings
from tasks.calibration.ratings import Rating, Skipped, check_known, latest_of
from tasks.images import decode
from tasks.stage import Progress, Result, Shard, Stage, StageConfig

LABELS = pa.schema(
    [(name, pa.string()) for name in ("label_id", "edit_id", "edit_type", "rater")]
    + [("score", pa.int8()), ("rated_at", pa.string())]
)
SKIPPED = pa.schema([(name, pa.string()) for name in ("place", "reason", "value")])


class LabelConfig(StageConfig):
    """Whose ratings."""

    raters: Literal["people", "simulated"] = Field(
        "people", description="people: from files; simulated: of the miniature, by noisy views of its referee."
    )
    simulated: int = Field(3, ge=1, description="How many simulated raters.")
    seed: int = Field(0, description="Of the simulated raters.")


class CollectLabels(Stage):
    """One row per triplet and rater, and one for everything in the files that could not be taken."""

    name = "collect-labels"
    artifact = "labels"
    code_version = 1

    def __init__(self, store: Store, config: LabelConfig, triplets: Version, files: Sequence[Path] = ()) -> None:
        """Ratings of `triplets`.

        Args:
            files: of people's ratings: JSON lines of the rating page, Label Studio's JSON, or CSV.

        Raises: ValueError where people are to be asked and no file is given.
        """
        super().__init__(store, config, {"triplets": triplets})
        self.config: LabelConfig = config
        if (config.raters == "people") != bool(files):
            raise ValueError(
                "people's ratings come from files (--ratings FILE, see `python -m tasks.rating`), simulated ones do not"
            )
        self.skipped: list[Skipped] = []
        found: list[tuple[str, Rating]] = []
        for path in files:
            ratings, skipped = read_ratings(path)
            found += [(path.name, rating) for rating in ratings]
            self.skipped += skipped
        self.ratings, again = latest_of(found)
        self.skipped += again

    @property
    def simulated(self) -> bool:
        """Whether nobody was asked."""
        return self.config.raters == "simulated"

    def fingerprints(self) -> dict[str, str]:
        # What was said, not where it stood and in which order.
        ratings = sorted((r.edit_id, r.rater, r.score, r.rated_at) for r in self.ratings)
        return {"ratings": identity(ratings, sorted((one.reason, one.value) for one in self.skipped))}

    def shards(self) -> list[Shard]:
        return [Shard("labels", self.inputs["triplets"].manifest.rows("triplets"), self.key)]

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        triplets = self.inputs["triplets"]
        types = {
            row["edit_id"]: row["edit_type"]
            for part in triplets.parts("triplets", ["edit_id", "edit_type"])
            for row in part.to_pylist()
        }
        ratings = simulated_ratings(triplets, self.config) if self.simulated else self.ratings
        kept, unknown = check_known(ratings, types)
        kept.sort(key=lambda rating: (rating.edit_id, rating.rater))
        rows = [{**asdict(r), "label_id": identity(r.edit_id, r.rater), "edit_type": types[r.edit_id]} for r in kept]
        skipped = [{"place": one.where, "reason": one.reason, "value": one.value} for one in (*self.skipped, *unknown)]
        progress(shard.num_items)
        tables = {
            "labels": (self.store.add_table(pa.Table.from_pylist(rows, schema=LABELS)),),
            "skipped": (self.store.add_table(pa.Table.from_pylist(skipped, schema=SKIPPED)),),
        }
        return ShardResult(tables=tables, counts=_counts(kept, skipped, types), done=len(rows))

    def finish(self, results: Sequence[ShardResult]) -> Result:
        (result,) = results
        return Result(result.tables, {"counts": result.counts, "simulated": self.simulated})


def simulated_ratings(triplets: Version, config: LabelConfig) -> list[Rating]:
    """What a panel of simulated raters says of triplets of the miniature world."""
    from tasks.miniature.coco import scene_of
    from tasks.miniature.raters import simulated_raters
    from tasks.miniature.referee import referee_score

    panel = simulated_raters(config.simulated, config.seed)
    ratings = []
    for part in triplets.parts("triplets", ["edit_id", "edit_type", "source_id", "request", "edited"]):
        for row in part.to_pylist():
            request = Request.from_dict(json.loads(row["request"]))
            edited = decode(row["edited"]["bytes"])
            seen = referee_score(scene_of(row["source_id"]), EditType(row["edit_type"]), request, edited)
            ratings += [Rating(row["edit_id"], r.name, r.rate(seen, edited, row["edit_id"])) for r in panel]
    return ratings


def _counts(kept: Sequence[Rating], skipped: Sequence[dict[str, str]], types: dict[str, str]) -> dict[str, Any]:
    histogram = {edit_type: [0] * 6 for edit_type in sorted(set(types.values()))}
    for rating in kept:
        histogram[types[rating.edit_id]][rating.score] += 1
    rated = {rating.edit_id for rating in kept}
    return {
        "per_rater": dict(Counter(rating.rater for rating in kept)),
        "histogram": histogram,
        "triplets": {"rated": len(rated), "not rated": len(types) - len(rated)},
        "skipped": dict(Counter(one["reason"] for one in skipped)),
    }
