"""Flow post-train."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from prefect import flow
from pydantic import TypeAdapter

from tasks.arguments import add_config, config_of
from tasks.editing.settings import ModelConfig
from tasks.post_train import PostTrain, fitting_sizes
from tasks.post_training.job import PostTrainConfig
from tasks.prefect_stage import ArtifactRef, RunOptions, add_run_options, run_options, run_stage
from tasks.sizes import miniature


@flow(name="post-train", flow_run_name="post-train")
def post_train(
    encodings: str = "encodings@latest",
    scorer: str = "",
    config: PostTrainConfig = miniature().train,
    options: RunOptions = RunOptions(),
) -> ArtifactRef:
    """Post-train the editor on the hard cases by Flow-GRPO, the judge being the reward."""
    return run_stage(stage_of(encodings, scorer, config, options), options)


def stage_of(encodings: str, scorer: str, config: PostTrainConfig, options: RunOptions) -> PostTrain:
    """The stage, from versions by name."""
    store = options.open_store()
    calibration = store.resolve(scorer) if scorer else None
    return PostTrain(store, config, store.resolve(encodings), Path(options.scratch), calibration)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encodings", nargs="?", default="encodings@latest", help="a version (%(default)s)")
    parser.add_argument("--scorer", default="", help="a calibration of the judge, such as scorer@latest")
    default, parts = miniature().train, {"model": TypeAdapter(ModelConfig)}
    add_config(parser, default, parts)
    parser.add_argument("--fit", action="store_true", help="train nothing; find the largest batches that fit")
    add_run_options(parser)
    arguments = parser.parse_args()
    config, options = config_of(parser, arguments, default, parts), run_options(arguments)
    if arguments.fit:
        print(json.dumps(fitting_sizes(stage_of(arguments.encodings, arguments.scorer, config, options).job)))
        return
    post_train(arguments.encodings, arguments.scorer, config, options)


if __name__ == "__main__":
    main()
