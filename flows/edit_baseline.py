"""Flow edit-baseline."""

from __future__ import annotations

from prefect import flow
from pydantic import TypeAdapter

from tasks.edit_baseline import EditBaseline, EditConfig
from tasks.editing.settings import EditorConfig
from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments


@flow(name="edit-baseline", flow_run_name="edit-baseline")
def edit_baseline(
    cases: str = "cases@latest", config: EditConfig = EditConfig(), options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Let the baseline editor work through the cases."""
    store = options.open_store()
    return run_stage(EditBaseline(store, config, store.resolve(cases)), options)


if __name__ == "__main__":
    parts = {"editor": TypeAdapter(EditorConfig)}
    (cases,), config, options = version_arguments(__doc__, EditConfig(), "cases", parts=parts)
    edit_baseline(cases, config, options)
