"""Flow collect-garbage: the retention policy, applied. Without `delete` it only tells what it would remove."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from storage.gc import Retention, plan_gc
from storage.gc import collect_garbage as remove
from tasks.prefect_stage import RunOptions


@flow(name="collect-garbage")
def collect_garbage(
    retention: Retention = Retention(keep_newest=30), delete: bool = False, options: RunOptions = RunOptions()
) -> list[str]:
    """Remove what no version, tag or child needs and is older than the grace period.

    Returns: the versions that go.
    """
    store = options.open_store()
    plan = plan_gc(store, retention)
    lines = [f"{'removed' if delete else 'would be removed'} from {store.url}:", *plan.lines()]
    get_run_logger().info("\n".join(lines))
    page = "\n".join(f"- {line}" for line in lines)
    create_markdown_artifact(page, key="garbage", description="What retention removes")
    if delete:
        remove(store, plan)
    return list(plan.versions)


if __name__ == "__main__":
    collect_garbage()
