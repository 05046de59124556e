"""How little a night costs on which little has changed: `python -m perf.reruns`.

Many small images become cases, edits, scores and a data set, through the real stages on a fresh store; the editor and
the judge are stand-ins that count what they are asked. Then come nights on which nothing has changed, one image in a
hundred is new, the files of the cases were compacted, one edit type has a new rubric, the threshold is another, or
failed ratings are asked for again. The first night is also run on a tenth of the cases, each stage in a process of its
own, to see whether the peak of memory grows with their number. The last line is one JSON object of figures.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perf.s3_server import BUCKET, s3_server
from perf.stand_ins import CountingStore, StandInEditor, StandInEdits, StandInJudge, StandInRatings, write_images
from storage.compact import compact
from storage.records import EditType
from tasks.build_realpref import BuildConfig, BuildRealPref
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.stage import Stage, execute

STAGES = ("collect-cases", "edit-baseline", "rate-edits", "build-realpref")
LARGE = ("rate-edits", "build-realpref")
"""Stages whose memory must not grow with the number of cases."""
_PER_IMAGE = len(EditType)


@dataclass(frozen=True)
class Place:
    """A dataset and the store for what becomes of it."""

    url: str
    options: Mapping[str, Any]
    images: Path

    def open(self) -> CountingStore:
        """The store, which has counted nothing yet."""
        return CountingStore(self.url, **self.options)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is different on a night."""

    rubrics: Mapping[EditType, int] = field(default_factory=dict)
    judge_out_of_order: bool = False
    full_at: float | None = None
    retry_failed: bool = False


@dataclass(kw_only=True)
class Night:
    """What a night came to."""

    edits: int = 0
    ratings: Counter[EditType] = field(default_factory=Counter)
    failures: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)
    bytes_read: Counter[str] = field(default_factory=Counter)
    bytes_written: int = 0

    def line(self, name: str) -> str:
        """For people."""
        return (
            f"{name:18s}{self.edits:8d} edits {self.ratings.total():8d} ratings {sum(self.seconds.values()):9.2f} s "
            f"{self.bytes_read.total() / 1e6:9.2f} MB read {self.bytes_written / 1e6:9.2f} MB written"
        )


def run_night(place: Place, wish: Wish, stages: Sequence[str] = STAGES) -> Night:
    """Run stages one after the other, each on the latest version of what it reads."""
    store, editor = place.open(), StandInEditor()
    judge = StandInJudge(wish.rubrics, wish.judge_out_of_order)
    held = store.size_of_all()
    store.bytes_read.clear()
    night = Night()
    for name in stages:
        started = time.perf_counter()
        execute(_stage(name, store, place.images, wish, editor, judge), retry_failed=wish.retry_failed)
        night.seconds[name] = round(time.perf_counter() - started, 3)
        night.peak_mb[name] = peak_megabytes()
    night.edits, night.ratings, night.failures = editor.edits, judge.ratings, judge.failures
    night.bytes_read = Counter(store.bytes_read)
    night.bytes_written = store.size_of_all() - held
    return night


def _stage(
    name: str, store: CountingStore, images: Path, wish: Wish, editor: StandInEditor, judge: StandInJudge
) -> Stage:
    match name:
        case "collect-cases":
            config = CollectConfig(
                train_per_edit_type=10**9, bench_per_edit_type=0, cases_per_image=_PER_IMAGE, bench_share=0
            )
            return CollectCases(store, config, images)
        case "edit-baseline":
            return StandInEdits(store, store.resolve("cases"), editor)
        case "rate-edits":
            return StandInRatings(store, store.resolve("edits"), judge)
        case _:
            return BuildRealPref(store, BuildConfig(full_at=wish.full_at), store.resolve("scores"))


def peak_megabytes() -> float:
    """The most memory that this process has had; nothing of the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        (kilobytes,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(kilobytes) / 1e3, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def first_night(place: Place) -> Night:
    """The first night, every stage in a process of its own, so that its peak of memory is its own."""
    whole = Night()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["perf.stand_ins", "tasks.build_realpref"])
    for name in STAGES:
        with ProcessPoolExecutor(1, mp_context=context) as apart:
            night = apart.submit(run_night, place, Wish(), (name,)).result()
        whole.edits += night.edits
        whole.ratings += night.ratings
        whole.seconds |= night.seconds
        whole.peak_mb |= night.peak_mb
        whole.bytes_read += night.bytes_read
        whole.bytes_written += night.bytes_written
    return whole


def measure(place: Place, small: Place, cases: int) -> dict[str, Any]:
    """All nights. Returns: the figures."""

    def told(name: str, night: Night) -> Night:
        print(night.line(name), flush=True)
        return night

    images = math.ceil(cases / _PER_IMAGE)
    write_images(small.images, math.ceil(images / 10))
    tenth = told("first, a tenth", first_night(small))
    write_images(place.images, images)
    first = told("first", first_night(place))
    unchanged = told("unchanged", run_night(place, Wish()))
    write_images(place.images, images + math.ceil(images / 100))
    new = told("1 % new", run_night(place, Wish()))
    compact(place.open().resolve("cases"))
    compacted = told("cases compacted", run_night(place, Wish()))
    rubric = told("one new rubric", run_night(place, Wish(rubrics={EditType.BOKEH: 1})))
    rubrics = {EditType.BOKEH: 1, EditType.STYLE: 1}
    threshold = told("other threshold", run_night(place, Wish(rubrics={EditType.BOKEH: 1}, full_at=3.0)))
    failing = told("judge out of order", run_night(place, Wish(rubrics=rubrics, judge_out_of_order=True)))
    again = told("failed again", run_night(place, Wish(rubrics=rubrics, retry_failed=True)))

    of_one_type = place.open().resolve("edits").table("edits", ["edit_type"])["edit_type"].to_pylist()
    for name in STAGES:
        print(f"{name:18s}{tenth.peak_mb[name]:8.0f} MB of a tenth {first.peak_mb[name]:8.0f} MB of all")
    growth = {name: round(first.peak_mb[name] / tenth.peak_mb[name], 3) for name in STAGES}
    return {
        "cases": first.edits,
        "first_edits": first.edits,
        "first_ratings": first.ratings.total(),
        "first_seconds": first.seconds,
        "first_bytes_written": first.bytes_written,
        "unchanged_seconds": round(sum(unchanged.seconds.values()), 3),
        "unchanged_bytes_read": dict(unchanged.bytes_read),
        "unchanged_bytes_written": unchanged.bytes_written,
        "one_percent_new": round((new.edits + new.ratings.total()) / (first.edits + first.ratings.total()), 5),
        "one_percent_new_seconds": new.seconds,
        "bytes_written_share": round(new.bytes_written / first.bytes_written, 5),
        "compacted_edits": compacted.edits,
        "compacted_ratings": compacted.ratings.total(),
        "new_rubric_edits": rubric.edits,
        "new_rubric_ratings": rubric.ratings.total(),
        "edits_of_its_type": of_one_type.count(EditType.BOKEH),
        "new_threshold_edits": threshold.edits,
        "new_threshold_ratings": threshold.ratings.total(),
        "failed_ratings": failing.failures,
        "retried_ratings": again.ratings.total(),
        "peak_mb": {name: [tenth.peak_mb[name], first.peak_mb[name]] for name in STAGES},
        "memory_growth_by_stage": growth,
        "memory_growth_10x": max(growth[name] for name in LARGE),
    }


@contextmanager
def places(on_s3: bool) -> Iterator[tuple[Place, Place]]:
    """Two fresh places, on this disk or on an S3 server of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = [folder / "images", folder / "few-images"]
        if not on_s3:
            yield Place(f"{folder}/store", {}, images[0]), Place(f"{folder}/small", {}, images[1])
            return
        with s3_server(folder / "s3") as server:
            yield (
                Place(f"s3://{BUCKET}/store", server.options, images[0]),
                Place(f"s3://{BUCKET}/small", server.options, images[1]),
            )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50_000, help="of the first night (%(default)s)")
    parser.add_argument("--s3", action="store_true", help="on a real S3 server instead of a folder")
    arguments = parser.parse_args()
    with places(arguments.s3) as (place, small):
        figures = measure(place, small, arguments.cases)
    print(json.dumps({"store": "s3" if arguments.s3 else "disk", **figures}))


if __name__ == "__main__":
    main()
