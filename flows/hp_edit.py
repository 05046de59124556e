"""Flow hp-edit: all stages in their order."""

from __future__ import annotations

from prefect import flow

from flows.build_realpref import build_realpref
from flows.collect_cases import Source, collect_cases
from flows.edit_baseline import edit_baseline
from flows.post_train import post_train
from flows.rate_edits import rate_edits
from flows.run_benchmark import run_benchmark
from tasks.prefect_stage import ArtifactRef, RunOptions
from tasks.sizes import PipelineConfig, miniature


@flow(name="hp-edit")
def hp_edit(
    source: Source = Source(), config: PipelineConfig = miniature(), options: RunOptions = RunOptions()
) -> dict[str, ArtifactRef]:
    """Collect cases, edit them, keep the hard ones, post-train the editor on them, and compare."""
    cases = collect_cases(source, config.collect, options)
    edits = edit_baseline(str(cases), config.edit, options)
    scores = rate_edits(str(edits), config.rate, options)
    realpref = build_realpref(str(scores), config.build, options)
    adapter = post_train(str(realpref), config.train, options)
    benchmark = run_benchmark(str(cases), str(adapter), config.benchmark, options)
    return {ref.artifact: ref for ref in (cases, edits, scores, realpref, adapter, benchmark)}


if __name__ == "__main__":
    hp_edit()
