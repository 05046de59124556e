"""Flow post-train."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.post_train import PostTrain
from tasks.post_training.job import PostTrainConfig
from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments
from tasks.sizes import miniature


@flow(name="post-train", flow_run_name="post-train")
def post_train(
    realpref: str = "realpref@latest", config: PostTrainConfig = miniature().train, options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Post-train the editor on the hard cases by Flow-GRPO, the judge being the reward."""
    store = options.open_store()
    return run_stage(PostTrain(store, config, store.resolve(realpref), Path(options.scratch)), options)


if __name__ == "__main__":
    (realpref,), options = version_arguments(__doc__, "realpref")
    post_train(realpref, options=options)
