"""Flow calibrate-scorer."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from flows.collect_labels import collect_labels
from flows.pick_triplets import pick_triplets
from tasks.calibrate_scorer import CalibrateConfig, CalibrateScorer
from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments
from tasks.sizes import PipelineConfig, miniature


@flow(name="calibrate-scorer", flow_run_name="calibrate-scorer")
def calibrate_scorer(
    labels: str = "labels@latest", config: CalibrateConfig = miniature().calibrate, options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Bring a judge into agreement with people: questions that help, a map to their scale, and a report."""
    store = options.open_store()
    return run_stage(CalibrateScorer(store, config, store.resolve(labels)), options)


class NotRatedError(ValueError):
    """People have still to rate what was picked for them."""


def check_rated(triplets: str, ratings: Sequence[str], config: PipelineConfig, options: RunOptions) -> None:
    """Raises: NotRatedError that says how people rate and how it goes on, where their ratings are not there."""
    if config.label.raters == "people" and not ratings:
        elsewhere = "" if options.store == RunOptions().store else f" --store {options.store}"
        raise NotRatedError(
            f"{triplets} are for people to rate: `python -m tasks.rating {triplets} --ratings runs/ratings.jsonl"
            f"{elsewhere}` shows them in a browser. Then run this again with `--ratings runs/ratings.jsonl`: "
            "what was made until here stands"
        )


def calibration(
    edits: str, ratings: Sequence[str], config: PipelineConfig, options: RunOptions
) -> tuple[ArtifactRef, ArtifactRef, ArtifactRef, ArtifactRef]:
    """From edits to calibrated judges: triplets, labels, the scorer of the benchmark, the scorer.

    Args:
        ratings: files of people's ratings; none where simulated raters are configured.

    Returns: the two scorers are one where the benchmark has no judge of its own. Raises: NotRatedError.
    """
    triplets = pick_triplets(edits, config.pick, options)
    check_rated(str(triplets), ratings, config, options)
    labels = collect_labels(str(triplets), tuple(ratings), config.label, options)
    evaluation = calibrate_scorer(str(labels), config.evaluate, options) if config.evaluate else None
    # The last one is what scorer@latest means: the judge that filters and rewards.
    scorer = calibrate_scorer(str(labels), config.calibrate, options)
    return triplets, labels, evaluation or scorer, scorer


if __name__ == "__main__":
    (labels,), config, options = version_arguments(__doc__, miniature().calibrate, "labels")
    calibrate_scorer(labels, config, options)
