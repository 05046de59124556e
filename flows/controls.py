"""Flow controls: what must not work, and what should work better. `python -m flows.controls`, after or without hp-edit.

Permuted rewards must gain nothing. A pilot compares training on the hard cases with training on all cases, equal
budget, and reports whatever comes out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from prefect import flow
from pydantic import Field

from flows.build_realpref import build_realpref
from flows.calibrate_scorer import calibration
from flows.collect_cases import Source, collect_cases
from flows.edit_baseline import edit_baseline
from flows.encode_cases import encode_cases
from flows.post_train import post_train
from flows.rate_edits import rate_edits
from flows.run_benchmark import run_benchmark
from tasks.build_realpref import BuildConfig
from tasks.control_report import control_lines
from tasks.prefect_stage import ArtifactRef, RunOptions, add_run_options, run_options
from tasks.sizes import PipelineConfig, miniature
from tasks.stage import StageConfig


class ControlsConfig(StageConfig):
    """Which controls."""

    pipeline: PipelineConfig = miniature()
    pilot_seeds: int = Field(3, ge=1, description="Training seeds of the pilot.")


@flow(name="controls")
def controls(
    source: Source = Source(), config: ControlsConfig = ControlsConfig(), options: RunOptions = RunOptions()
) -> dict[str, ArtifactRef]:
    """Train as hp-edit does with rewards permuted, and on unfiltered cases; compare on the same bench.

    Returns: benchmarks by "permuted", "hard <seed>" and "all <seed>".
    """
    pipeline = config.pipeline
    cases = collect_cases(source, pipeline.collect, options)
    edits = edit_baseline(str(cases), pipeline.edit, options)
    _, _, evaluation, scorer = calibration(str(edits), (), pipeline, options)
    scores = rate_edits(str(edits), str(scorer), pipeline.rate, options)
    hard = build_realpref(str(scores), pipeline.build, options)
    everything = build_realpref(str(scores), BuildConfig(drop_full=False), options)

    def compare(realpref: ArtifactRef, seed: int, permuted: bool = False) -> ArtifactRef:
        grpo = replace(pipeline.train.grpo, seed=seed)
        train = pipeline.train.model_copy(update={"grpo": grpo, "permute_rewards": permuted})
        encodings = encode_cases(str(realpref), pipeline.encode, options)
        adapter = post_train(str(encodings), str(scorer), train, options)
        return run_benchmark(str(cases), str(adapter), str(evaluation), pipeline.benchmark, options)

    first = pipeline.train.grpo.seed
    benchmarks = {"permuted": compare(hard, first, permuted=True)}
    for seed in range(first, first + config.pilot_seeds):
        benchmarks[f"hard {seed}"] = compare(hard, seed)
        benchmarks[f"all {seed}"] = compare(everything, seed)
    return benchmarks


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pilot-seeds", type=int, default=3)
    add_run_options(parser)
    arguments = parser.parse_args()
    options = run_options(arguments)
    config = ControlsConfig(pipeline=miniature(arguments.seed), pilot_seeds=arguments.pilot_seeds)
    refs = controls(Source(world=arguments.seed), config, options)
    store = options.open_store()
    print("\n".join(control_lines({name: store.version(r.artifact, r.version) for name, r in refs.items()})))


if __name__ == "__main__":
    main()
