"""Flow benchmark."""

from __future__ import annotations

from prefect import flow

from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments
from tasks.run_benchmark import BenchmarkConfig, RunBenchmark
from tasks.sizes import miniature


@flow(name="benchmark", flow_run_name="benchmark")
def run_benchmark(
    cases: str = "cases@latest",
    adapter: str = "adapter@latest",
    scorer: str = "",
    config: BenchmarkConfig = miniature().benchmark,
    options: RunOptions = RunOptions(),
) -> ArtifactRef:
    """Compare the baseline and the post-trained editor on the bench."""
    store = options.open_store()
    calibration = store.resolve(scorer) if scorer else None
    return run_stage(RunBenchmark(store, config, store.resolve(cases), store.resolve(adapter), calibration), options)


if __name__ == "__main__":
    (cases, adapter, scorer), config, options = version_arguments(
        __doc__, miniature().benchmark, "cases", "adapter", by_scorer=True
    )
    run_benchmark(cases, adapter, scorer, config, options)
