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
    realpref: str = "realpref@latest",
    encodings: str = "encodings@latest",
    scorer: str = "",
    config: PostTrainConfig = miniature().train,
    options: RunOptions = RunOptions(),
) -> ArtifactRef:
    """Post-train the editor on the hard cases by Flow-GRPO, the judge being the reward."""
    store = options.open_store()
    calibration = store.resolve(scorer) if scorer else None
    inputs = store.resolve(realpref), store.resolve(encodings)
    return run_stage(PostTrain(store, config, *inputs, Path(options.scratch), calibration), options)


if __name__ == "__main__":
    (realpref, encodings, scorer), options = version_arguments(__doc__, "realpref", "encodings", by_scorer=True)
    post_train(realpref, encodings, scorer, options=options)
