"""Flow collect-labels. `python -m flows.collect_labels triplets@latest --ratings FILE ...` takes people's ratings."""

from __future__ import annotations

import argparse
from pathlib import Path

from prefect import flow

from tasks.arguments import file_argument
from tasks.collect_labels import CollectLabels, LabelConfig
from tasks.prefect_stage import ArtifactRef, RunOptions, add_run_options, run_options, run_stage


@flow(name="collect-labels", flow_run_name="collect-labels")
def collect_labels(
    triplets: str = "triplets@latest",
    ratings: tuple[str, ...] = (),
    config: LabelConfig = LabelConfig(),
    options: RunOptions = RunOptions(),
) -> ArtifactRef:
    """Collect what people say of the picked triplets, from files; or let simulated raters say it, in the miniature."""
    store = options.open_store()
    return run_stage(CollectLabels(store, config, store.resolve(triplets), [Path(path) for path in ratings]), options)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triplets", nargs="?", default="triplets@latest", help="a version (%(default)s)")
    parser.add_argument(
        "--ratings",
        nargs="+",
        type=file_argument,
        default=[],
        metavar="FILE",
        help=".jsonl, .json (Label Studio) or .csv",
    )
    parser.add_argument("--simulated", action="store_true", help="miniature only: simulated raters instead of people")
    add_run_options(parser)
    arguments = parser.parse_args()
    config = LabelConfig(raters="simulated" if arguments.simulated else "people")
    collect_labels(arguments.triplets, tuple(arguments.ratings), config, run_options(arguments))


if __name__ == "__main__":
    main()
