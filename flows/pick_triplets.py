"""Flow pick-triplets."""

from __future__ import annotations

from prefect import flow

from tasks.pick_triplets import PickConfig, PickTriplets
from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments
from tasks.sizes import miniature


@flow(name="pick-triplets", flow_run_name="pick-triplets")
def pick_triplets(
    edits: str = "edits@latest", config: PickConfig = miniature().pick, options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Pick the edits that people rate, spread over good and bad ones."""
    store = options.open_store()
    return run_stage(PickTriplets(store, config, store.resolve(edits)), options)


if __name__ == "__main__":
    (edits,), config, options = version_arguments(__doc__, miniature().pick, "edits")
    pick_triplets(edits, config, options)
