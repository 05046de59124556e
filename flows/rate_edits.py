"""Flow rate-edits."""

from __future__ import annotations

from prefect import flow

from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments
from tasks.rate_edits import RateConfig, RateEdits
from tasks.sizes import miniature_data


@flow(name="rate-edits", flow_run_name="rate-edits")
def rate_edits(
    edits: str = "edits@latest",
    scorer: str = "",
    config: RateConfig = miniature_data().rate,
    options: RunOptions = RunOptions(),
) -> ArtifactRef:
    """Let a judge rate the edits; `scorer` names a calibration of it, if there is one."""
    store = options.open_store()
    return run_stage(RateEdits(store, config, store.resolve(edits), store.resolve(scorer) if scorer else None), options)


if __name__ == "__main__":
    (edits, scorer), config, options = version_arguments(__doc__, miniature_data().rate, "edits", by_scorer=True)
    rate_edits(edits, scorer, config, options)
