"""Flow hp-edit: all stages in their order. `python -m flows.hp_edit --seed 0` runs the miniature and reports."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from prefect import flow

from flows.build_realpref import build_realpref
from flows.calibrate_scorer import calibration
from flows.collect_cases import Source, collect_cases
from flows.edit_baseline import edit_baseline
from flows.encode_cases import encode_cases
from flows.post_train import post_train
from flows.rate_edits import rate_edits
from flows.run_benchmark import run_benchmark
from tasks.build_realpref import BuildRealPref
from tasks.calibrate_scorer import CalibrateScorer
from tasks.collect_cases import CollectCases
from tasks.collect_labels import CollectLabels
from tasks.edit_baseline import EditBaseline
from tasks.encode_cases import EncodeCases
from tasks.estimate import Costs, estimate_lines
from tasks.lineage import run_page
from tasks.local_server import UI, root_of_run
from tasks.pick_triplets import PickTriplets
from tasks.plan import MakeStage, plan_lines
from tasks.post_train import PostTrain
from tasks.prefect_stage import ArtifactRef, RunOptions, add_run_options, publish_run, run_options
from tasks.rate_edits import RateEdits
from tasks.report import write_report
from tasks.resources import watch_memory
from tasks.run_benchmark import RunBenchmark
from tasks.sizes import PipelineConfig, miniature, paper
from tasks.summary import summary_lines


@flow(name="hp-edit")
def hp_edit(
    source: Source = Source(),
    ratings: tuple[str, ...] = (),
    config: PipelineConfig = miniature(),
    options: RunOptions = RunOptions(),
) -> dict[str, ArtifactRef]:
    """Collect cases, edit them, calibrate the judge, keep the hard ones, post-train the editor on them, and compare."""
    cases = collect_cases(source, config.collect, options)
    edits = edit_baseline(str(cases), config.edit, options)
    triplets, labels, evaluation, scorer = calibration(str(edits), ratings, config, options)
    scores = rate_edits(str(edits), str(scorer), config.rate, options)
    realpref = build_realpref(str(scores), config.build, options)
    encodings = encode_cases(str(realpref), config.encode, options)
    adapter = post_train(str(encodings), str(scorer), config.train, options)
    benchmark = run_benchmark(str(cases), str(adapter), str(evaluation), config.benchmark, options)
    refs = (cases, edits, triplets, labels, scorer, scores, realpref, encodings, adapter, benchmark)
    publish_run("hp-edit", refs, options)
    return {ref.artifact: ref for ref in refs}


def all_stages(source: Source, ratings: Sequence[str], config: PipelineConfig, options: RunOptions) -> list[MakeStage]:
    """The stages of the flow, for a look ahead."""
    store, scratch = options.open_store(), Path(options.scratch)
    return [
        lambda made: CollectCases(store, config.collect, source.prepare(options.scratch)),
        lambda made: EditBaseline(store, config.edit, made["cases"]),
        lambda made: PickTriplets(store, config.pick, made["edits"]),
        lambda made: CollectLabels(store, config.label, made["triplets"], [Path(path) for path in ratings]),
        lambda made: CalibrateScorer(store, config.calibrate, made["labels"]),
        lambda made: RateEdits(store, config.rate, made["edits"], made["scorer"]),
        lambda made: BuildRealPref(store, config.build, made["scores"]),
        lambda made: EncodeCases(store, config.encode, made["realpref"]),
        lambda made: PostTrain(store, config.train, made["encodings"], scratch, made["scorer"]),
        lambda made: RunBenchmark(store, config.benchmark, made["cases"], made["adapter"], made["scorer"]),
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the world, the cases, the training and the bench")
    parser.add_argument("--out", type=Path, default=None, help="folder of the report (runs/miniature-<seed>)")
    parser.add_argument(
        "--ratings",
        nargs="+",
        default=[],
        metavar="FILE",
        help="of people, see python -m tasks.rating; none: simulated",
    )
    parser.add_argument("--size", choices=["miniature", "paper"], default="miniature", help="(%(default)s)")
    parser.add_argument(
        "--photographs",
        default=None,
        metavar="FOLDER",
        help="with images/ and annotations/instances.json; the size paper needs them",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="tell what would run and why, and of the size paper what it would cost; change nothing",
    )
    for name, field in Costs.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=float, default=field.default, help=f"{field.description} (%(default)s)"
        )
    add_run_options(parser)
    arguments = parser.parse_args()
    folder = arguments.out or Path("runs") / f"{arguments.size}-{arguments.seed}"
    started = time.monotonic()
    options = run_options(arguments)
    source = Source(world=arguments.seed, folder=arguments.photographs)
    if arguments.size == "paper":
        config = paper(arguments.seed)
        if arguments.dry_run:
            costs = Costs(**{name: getattr(arguments, name) for name in Costs.model_fields})
            print("\n".join(estimate_lines(config, costs)))
        elif arguments.photographs is None:
            parser.error("--size paper takes photographs: --photographs FOLDER")
    else:
        config = miniature(arguments.seed, people=bool(arguments.ratings))
    if arguments.dry_run:
        if arguments.size == "miniature" or arguments.photographs is not None:
            stages = all_stages(source, arguments.ratings, config, options)
            told = (options.refresh, options.retry_failed)
            print("\n".join(plan_lines(options.open_store(), stages, *told)))
        return
    with watch_memory(psutil.Process(root_of_run())) as peak:
        state = hp_edit(source, tuple(arguments.ratings), config, options, return_state=True)
        refs = state.result()
    page = run_page(UI, str(state.state_details.flow_run_id))
    summary = write_report(
        options.open_store(),
        refs,
        folder,
        seed=arguments.seed,
        seconds=time.monotonic() - started,
        peak_memory_mb=peak.megabytes,
        ui_hint=f"make ui   then open {page}",
    )
    print("\n".join(summary_lines(summary)))
    print(f"report:  {folder / 'report.html'}, and of the judge's calibration {folder / 'calibration.html'}")
    print(f"the run in the Prefect UI:  make ui   then open {page}")
    print(folder / "summary.json")


if __name__ == "__main__":
    main()
