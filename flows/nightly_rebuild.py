"""Flow nightly-rebuild: the data side, collect to build; training may follow it but is not part of it.

`python -m flows.nightly_rebuild --photographs FOLDER` runs it once on real photographs.
"""

from __future__ import annotations

import argparse

from prefect import flow

from flows.build_realpref import build_realpref
from flows.collect_cases import Source, collect_cases, photographs_argument
from flows.edit_baseline import edit_baseline
from flows.rate_edits import rate_edits
from tasks.build_realpref import BuildRealPref
from tasks.collect_cases import CollectCases
from tasks.data_report import data_lines
from tasks.edit_baseline import EditBaseline
from tasks.plan import Plan, plan_lines
from tasks.prefect_stage import ArtifactRef, RunOptions, add_run_options, publish_run, run_options
from tasks.rate_edits import RateEdits
from tasks.sizes import DataConfig, miniature_data, photographs


@flow(name="nightly-rebuild")
def nightly_rebuild(
    source: Source = Source(),
    scorer: str = "",
    config: DataConfig = miniature_data(),
    options: RunOptions = RunOptions(),
) -> dict[str, ArtifactRef]:
    """Bring the data set up to date; a night without changes reuses everything.

    `scorer` names a calibration of the judge, such as scorer@latest, if there is one.
    """
    cases = collect_cases(source, config.collect, options)
    edits = edit_baseline(str(cases), config.edit, options)
    scores = rate_edits(str(edits), scorer, config.rate, options)
    realpref = build_realpref(str(scores), config.build, options)
    refs = (cases, edits, scores, realpref)
    publish_run("nightly-rebuild", refs, options)
    return {ref.artifact: ref for ref in refs}


def data_stages(source: Source, scorer: str, config: DataConfig, options: RunOptions) -> Plan:
    """The stages of the flow, for a look ahead."""
    store = options.open_store()
    calibration = store.resolve(scorer) if scorer else None
    return {
        "cases": lambda made: CollectCases(store, config.collect, source.prepare(options.scratch)),
        "edits": lambda made: EditBaseline(store, config.edit, made["cases"]),
        "scores": lambda made: RateEdits(store, config.rate, made["edits"], calibration),
        "realpref": lambda made: BuildRealPref(store, config.build, made["scores"]),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photographs",
        type=photographs_argument,
        metavar="FOLDER",
        help="with images/ and annotations/instances.json",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scorer", default="", help="a calibration of the judge, such as scorer@latest")
    parser.add_argument("--dry-run", action="store_true", help="tell what would run and why; change nothing")
    add_run_options(parser)
    arguments = parser.parse_args()
    options = run_options(arguments)
    store = options.open_store()
    source, config = Source(world=arguments.seed), miniature_data(arguments.seed)
    if arguments.photographs:
        source, config = Source(folder=arguments.photographs), photographs(arguments.seed)
    if arguments.dry_run:
        told = (options.refresh, options.retry_failed)
        print("\n".join(plan_lines(store, data_stages(source, arguments.scorer, config, options), *told)))
        return
    refs = nightly_rebuild(source, arguments.scorer, config, options)
    print("\n".join(data_lines({name: store.version(ref.artifact, ref.version) for name, ref in refs.items()})))


if __name__ == "__main__":
    main()
