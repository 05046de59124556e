"""Flow build-realpref."""

from __future__ import annotations

from prefect import flow

from tasks.build_realpref import BuildConfig, BuildRealPref
from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments


@flow(name="build-realpref", flow_run_name="build-realpref")
def build_realpref(
    scores: str = "scores@latest", config: BuildConfig = BuildConfig(), options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Keep the hard cases with everything that belongs to them, and a record of what was dropped."""
    store = options.open_store()
    return run_stage(BuildRealPref(store, config, store.resolve(scores)), options)


if __name__ == "__main__":
    (scores,), config, options = version_arguments(__doc__, BuildConfig(), "scores")
    build_realpref(scores, config, options)
