"""Flow edit-baseline."""

from __future__ import annotations

import argparse

from prefect import flow

from tasks.edit_baseline import EditBaseline, EditConfig
from tasks.editing.settings import editor_argument
from tasks.prefect_stage import ArtifactRef, RunOptions, add_run_options, run_options, run_stage


@flow(name="edit-baseline", flow_run_name="edit-baseline")
def edit_baseline(
    cases: str = "cases@latest", config: EditConfig = EditConfig(), options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Let the baseline editor work through the cases."""
    store = options.open_store()
    return run_stage(EditBaseline(store, config, store.resolve(cases)), options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="?", default="cases@latest", help="a version (%(default)s)")
    parser.add_argument(
        "--editor", type=editor_argument, default=EditConfig().editor, help="JSON, see docs/editors.md; the miniature"
    )
    add_run_options(parser)
    arguments = parser.parse_args()
    edit_baseline(arguments.cases, EditConfig(editor=arguments.editor), run_options(arguments))
