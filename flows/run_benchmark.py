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
    config: BenchmarkConfig = miniature().benchmark,
    options: RunOptions = RunOptions(),
) -> ArtifactRef:
    """Compare the baseline and the post-trained editor on the bench."""
    store = options.open_store()
    return run_stage(RunBenchmark(store, config, store.resolve(cases), store.resolve(adapter)), options)


if __name__ == "__main__":
    (cases, adapter), options = version_arguments(__doc__, "cases", "adapter")
    run_benchmark(cases, adapter, options=options)
