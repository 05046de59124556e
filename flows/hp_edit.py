"""Flow hp-edit: all stages in their order. `python -m flows.hp_edit --seed 0` runs the miniature and reports."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from prefect import flow
from pydantic import ValidationError

from flows.build_realpref import build_realpref
from flows.calibrate_scorer import NotRatedError, calibration, check_rated
from flows.collect_cases import Source, collect_cases, photographs_argument
from flows.edit_baseline import edit_baseline
from flows.encode_cases import encode_cases
from flows.post_train import post_train
from flows.rate_edits import rate_edits
from flows.run_benchmark import run_benchmark
from storage.store import Version
from tasks.arguments import faults, file_argument
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
from tasks.plan import Plan, plan_lines
from tasks.post_train import PostTrain
from tasks.prefect_stage import ArtifactRef, RunOptions, add_run_options, publish_run, run_options
from tasks.rate_edits import RateEdits
from tasks.report import write_report
from tasks.resources import watch_memory
from tasks.run_benchmark import RunBenchmark
from tasks.sizes import PROCESSES, PipelineConfig, miniature, paper
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


def all_stages(source: Source, ratings: Sequence[str], config: PipelineConfig, options: RunOptions) -> Plan:
    """The stages of the flow, for a look ahead."""
    store, scratch = options.open_store(), Path(options.scratch)

    def labels(made: Mapping[str, Version]) -> CollectLabels:
        triplets = made["triplets"]
        check_rated(str(triplets), ratings, config, options)
        return CollectLabels(store, config.label, triplets, [Path(path) for path in ratings])

    evaluate = config.evaluate
    evaluation: Plan = {"evaluation": lambda made: CalibrateScorer(store, evaluate, made["labels"])} if evaluate else {}
    judge = "evaluation" if evaluate else "scorer"
    return {
        "cases": lambda made: CollectCases(store, config.collect, source.prepare(options.scratch)),
        "edits": lambda made: EditBaseline(store, config.edit, made["cases"]),
        "triplets": lambda made: PickTriplets(store, config.pick, made["edits"]),
        "labels": labels,
        **evaluation,
        "scorer": lambda made: CalibrateScorer(store, config.calibrate, made["labels"]),
        "scores": lambda made: RateEdits(store, config.rate, made["edits"], made["scorer"]),
        "realpref": lambda made: BuildRealPref(store, config.build, made["scores"]),
        "encodings": lambda made: EncodeCases(store, config.encode, made["realpref"]),
        "adapter": lambda made: PostTrain(store, config.train, made["encodings"], scratch, made["scorer"]),
        "benchmark": lambda made: RunBenchmark(store, config.benchmark, made["cases"], made["adapter"], made[judge]),
    }


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the world, the cases, the training and the bench")
    parser.add_argument("--out", type=Path, default=None, help="folder of the report (runs/<size>-<seed>)")
    parser.add_argument(
        "--ratings",
        nargs="+",
        type=file_argument,
        default=[],
        metavar="FILE",
        help="of people, see python -m tasks.rating; none: simulated in the miniature",
    )
    parser.add_argument("--size", choices=["miniature", "paper"], default="miniature", help="(%(default)s)")
    parser.add_argument(
        "--photographs",
        type=photographs_argument,
        default=None,
        metavar="FOLDER",
        help="with images/ and annotations/instances.json; the size paper needs them",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=None,
        help=f"of training, one GPU each, on this machine; of the size paper ({PROCESSES})",
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
    return parser


def config_of(told: argparse.Namespace) -> PipelineConfig:
    """The configuration of all stages. Raises: ValueError for options that do not go together."""
    if told.size == "paper":
        if told.photographs is None and not told.dry_run:
            raise ValueError("--size paper takes --photographs FOLDER; with --dry-run it tells what it would cost")
        return paper(told.seed, PROCESSES if told.processes is None else told.processes)
    if told.photographs is not None:
        raise ValueError(
            "--photographs is of --size paper; for the data side alone there is "
            "python -m flows.nightly_rebuild --photographs FOLDER"
        )
    if told.processes is not None:
        raise ValueError("--processes is of --size paper")
    return miniature(told.seed, people=bool(told.ratings))


def look_ahead(
    told: argparse.Namespace, config: PipelineConfig, costs: Costs, source: Source, options: RunOptions
) -> Iterator[str]:
    """What a run would cost, and what it would do. Raises: NotRatedError, when all that is before was told."""
    if told.size == "paper":
        yield from estimate_lines(config, costs)
    if told.size == "miniature" or told.photographs is not None:
        plan = all_stages(source, told.ratings, config, options)
        yield from plan_lines(options.open_store(), plan, options.refresh, options.retry_failed)


def run(told: argparse.Namespace, config: PipelineConfig, source: Source, options: RunOptions) -> Iterator[str]:
    """Run the flow and write the report, telling how it went."""
    folder = told.out or Path("runs") / f"{told.size}-{told.seed}"
    started = time.monotonic()
    with watch_memory(psutil.Process(root_of_run())) as peak:
        state = hp_edit(source, tuple(told.ratings), config, options, return_state=True)
        refs = state.result()
    page = run_page(UI, str(state.state_details.flow_run_id))
    summary = write_report(
        options.open_store(),
        refs,
        folder,
        seed=told.seed,
        seconds=time.monotonic() - started,
        peak_memory_mb=peak.megabytes,
        ui_hint=f"make ui   then open {page}",
    )
    yield from summary_lines(summary)
    yield f"report:  {folder / 'report.html'}, and of the judge's calibration {folder / 'calibration.html'}"
    yield f"the run in the Prefect UI:  make ui   then open {page}"
    yield str(folder / "summary.json")


def main() -> None:
    """The command line."""
    parser = command_line()
    told = parser.parse_args()
    options, source = run_options(told), Source(world=told.seed, folder=told.photographs)
    try:
        config, costs = config_of(told), Costs(**{name: getattr(told, name) for name in Costs.model_fields})
    except ValidationError as error:
        parser.error(faults(error))
    except ValueError as error:
        parser.error(str(error))
    try:
        ahead = look_ahead(told, config, costs, source, options)
        for line in ahead if told.dry_run else run(told, config, source, options):
            print(line)
    except NotRatedError as error:
        raise SystemExit(f"stopped: {error}") from None


if __name__ == "__main__":
    main()
