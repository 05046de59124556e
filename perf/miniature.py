"""How long each stage of the miniature takes: `python -m perf.miniature`.

Runs the stages one after the other on a fresh store, without a Prefect server, and measures seconds, rows per second
and the peak memory of the process and its children. The last line is one JSON object of these figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from storage.store import Store
from tasks.build_realpref import BuildRealPref
from tasks.calibrate_scorer import CalibrateScorer
from tasks.collect_cases import CollectCases
from tasks.collect_labels import CollectLabels
from tasks.edit_baseline import EditBaseline
from tasks.encode_cases import EncodeCases
from tasks.miniature.coco import write_coco
from tasks.pick_triplets import PickTriplets
from tasks.post_train import PostTrain
from tasks.rate_edits import RateEdits
from tasks.resources import watch_memory
from tasks.run_benchmark import RunBenchmark
from tasks.sizes import miniature
from tasks.stage import Stage, execute


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=64, help="training cases per edit type (%(default)s)")
    parser.add_argument("--bench", type=int, default=16, help="bench cases per edit type (%(default)s)")
    parser.add_argument("--iterations", type=int, default=5, help="of post-training (%(default)s)")
    arguments = parser.parse_args()
    config = miniature(iterations=arguments.iterations)
    collect = config.collect.model_copy(
        update={"train_per_edit_type": arguments.cases, "bench_per_edit_type": arguments.bench}
    )
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"{folder}/store")
        scenes = write_coco(Path(folder) / "world", 0, 8 * (arguments.cases + 2 * arguments.bench))

        def measure(stage: Stage) -> Any:
            with watch_memory(every_seconds=0.1) as peak:
                started = time.perf_counter()
                version = execute(stage).version
                seconds = time.perf_counter() - started
            items = sum(shard.num_items for shard in stage.shards())
            figures[stage.name] = {
                "seconds": round(seconds, 2),
                "items": items,
                "items_per_second": round(items / seconds, 2),
                "peak_memory_mb": round(peak.megabytes),
            }
            row = figures[stage.name]
            print(f"{stage.name:16s}{row['seconds']:9.2f} s {items:6d} items {row['items_per_second']:9.2f} /s")
            return version

        cases = measure(CollectCases(store, collect, scenes))
        edits = measure(EditBaseline(store, config.edit, cases))
        triplets = measure(PickTriplets(store, config.pick, edits))
        labels = measure(CollectLabels(store, config.label, triplets))
        scorer = measure(CalibrateScorer(store, config.calibrate, labels))
        scores = measure(RateEdits(store, config.rate, edits, scorer))
        realpref = measure(BuildRealPref(store, config.build, scores))
        encodings = measure(EncodeCases(store, config.encode, realpref))
        adapter = measure(PostTrain(store, config.train, encodings, Path(folder) / "scratch", scorer))
        measure(RunBenchmark(store, config.benchmark, cases, adapter, scorer))
    print(json.dumps({"stages": figures, "seconds": round(sum(row["seconds"] for row in figures.values()), 2)}))


if __name__ == "__main__":
    main()
