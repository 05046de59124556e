"""Flow rate-edits."""

from __future__ import annotations

from prefect import flow

from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage
from tasks.rate_edits import RateConfig, RateEdits


@flow(name="rate-edits")
def rate_edits(
    edits: str = "edits@latest", config: RateConfig = RateConfig(), options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Let a judge rate the edits."""
    store = options.open_store()
    return run_stage(RateEdits(store, config, store.resolve(edits)), options)


if __name__ == "__main__":
    rate_edits()
