"""Flow rate-edits."""

from __future__ import annotations

from prefect import flow

from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments
from tasks.rate_edits import RateConfig, RateEdits
from tasks.sizes import miniature_data


@flow(name="rate-edits", flow_run_name="rate-edits")
def rate_edits(
    edits: str = "edits@latest", config: RateConfig = miniature_data().rate, options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Let a judge rate the edits."""
    store = options.open_store()
    return run_stage(RateEdits(store, config, store.resolve(edits)), options)


if __name__ == "__main__":
    (edits,), options = version_arguments(__doc__, "edits")
    rate_edits(edits, options=options)
