"""The page of a version: where it comes from, what is in it, and no text that escapes."""

import pyarrow as pa
import pytest

from storage.manifest import Manifest
from tasks.lineage import mermaid, parents_table, statistics_list, version_page


@pytest.fixture
def adapter(store):
    """The last of a chain of three versions."""

    def commit(artifact, parents, run, rows):
        table = store.add_table(pa.table({"n": list(range(rows))}))
        manifest = Manifest(
            artifact=artifact,
            stage=f"make-{artifact}",
            stage_version=1,
            key=artifact,
            config={},
            parents={role: parent.as_parent() for role, parent in parents.items()},
            tables={"rows": (table,)},
            statistics={"per_type": {"a": {"kept": 3, "mean": 4.5}, "b": {"kept": 1, "mean": None}}, "kept": 4},
        )
        return store.commit(manifest, seconds=2.0, flow_run_id=run)

    cases = commit("cases", {}, "run-1", 5)
    realpref = commit("realpref", {"cases": cases}, "run-2", 4)
    return commit("adapter", {"realpref": realpref}, None, 1)


def test_all_ancestors_are_on_the_graph(adapter):
    graph = mermaid(adapter, "http://127.0.0.1:4200")
    assert graph.index("cases_1[") < graph.index("realpref_1[") < graph.index("adapter_1[")
    assert "cases_1 --> realpref_1" in graph
    assert "realpref_1 --> adapter_1" in graph
    assert 'click realpref_1 "http://127.0.0.1:4200/v2/runs/flow-run/run-2"' in graph
    assert "click adapter_1" not in graph, "it was made outside of a run"


def test_parents_lead_to_the_runs_that_made_them(adapter):
    table = parents_table(adapter, "http://ui")
    assert "[realpref@v1](http://ui/v2/artifacts/key/realpref)" in table
    assert "[make-realpref](http://ui/v2/runs/flow-run/run-2)" in table
    assert "| 4 rows |" in table


def test_the_page_tells_rows_and_statistics(adapter):
    page = version_page(adapter, [("a caption", b"png")], None, reused=True)
    assert page.startswith("# adapter@v1")
    assert "**Reused**" in page
    assert "| rows | 1 | 1 |" in page
    assert "| per_type | kept | mean |" in page
    assert "| b | 1 |  |" in page
    assert "data:image/png;base64," in page


def test_text_of_data_stays_text():
    page = statistics_list({"left_out": {"<script>alert(1)</script> | `x` [y](javascript:z)": 1}})
    assert "<script>" not in page
    assert "\\|" in page
    assert "[y](" not in page.replace("\\[y](", "")
