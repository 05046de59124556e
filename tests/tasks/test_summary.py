import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.manifest import Manifest
from storage.records import EditType
from storage.store import Store, Version
from tasks.run_benchmark import SAMPLES, compare
from tasks.summary import MODELS, alarm, summarise_run, summary_lines, verdict, write_samples


@dataclass(frozen=True)
class Ref:
    artifact: str
    version: int
    seconds: float
    rows: int


def sample(number: int, edit_type: EditType, *values: float | None) -> dict[str, Any]:
    """A bench row; `values` are baseline score and referee, post-trained score and referee."""
    names = [f"{model}_{judge}" for model in MODELS for judge in ("score", "referee")]
    scored = dict(zip(names, values, strict=True))
    return dict.fromkeys(SAMPLES.names) | {
        "case_id": f"case{number}",
        "source_id": f"image{number // 2}",
        "edit_type": str(edit_type),
        "source": {"bytes": b"png", "path": None},
        **scored,
        **{f"{m}_outcome": "timeout" if scored[f"{m}_score"] is None else "scored" for m in MODELS},
    }


def commit(store: Store, artifact: str, stage: str, **parts: Any) -> Version:
    fixed = {"stage_version": 1, "key": f"key-{artifact}", "config": {}}
    return store.commit(Manifest(artifact=artifact, stage=stage, **fixed, **parts))


def versions_of(folder: Path, rows: Sequence[dict[str, Any]], referee: bool = True) -> dict[str, Version]:
    store = Store(str(folder))
    table = store.add_table(pa.Table.from_pylist(list(rows), schema=SAMPLES))
    judges = ["score", *(["referee"] if referee else [])]
    return {
        "cases": commit(store, "cases", "collect-cases"),
        "benchmark": commit(
            store,
            "benchmark",
            "benchmark",
            tables={"samples": (table,)},
            statistics={judge: compare(rows, judge) for judge in judges},
        ),
    }


ROWS = [
    sample(0, EditType.SWAP, 1.0, 1.5, 3.0, 2.5),
    sample(1, EditType.SWAP, 2.0, 2.0, 3.0, 2.5),
    sample(2, EditType.ADDITION, 4.0, 3.5, 4.0, 3.0),
    sample(3, EditType.BOKEH, 4.0, 3.5, None, 4.0),
]
STAGES = {"cases": Ref("cases", 1, 1.2345678, 64), "last": Ref("benchmark", 1, 12.0, 4)}


def summary_of(versions: dict[str, Version]) -> dict[str, Any]:
    return summarise_run(versions, STAGES, 7, 95.12345, 1834.26, Path("runs/samples.parquet"))


def test_a_summary_has_exactly_its_shape_and_the_manifests_numbers(tmp_path: Path) -> None:
    versions = versions_of(tmp_path, ROWS)
    summary = summary_of(versions)
    statistics = versions["benchmark"].manifest.statistics
    assert list(summary) == [
        *("referee", "score", "per_edit_type", "stages", "versions", "samples", "seed", "seconds", "peak_memory_mb")
    ]
    assert summary["referee"] == {k: v for k, v in statistics["referee"]["overall"].items() if k != "total"}
    assert list(summary["score"]) == ["n", "baseline", "post_trained", "gain", "low", "high"]
    assert (summary["score"]["n"], summary["score"]["gain"]) == (3, 1.0)
    assert list(summary["per_edit_type"]) == ["object_addition", "object_swap", "bokeh"], "in the usual order"
    assert summary["per_edit_type"]["object_swap"]["referee"]["gain"] == 0.75
    assert summary["stages"] == {
        "collect-cases": {"seconds": 1.235, "rows": 64},
        "benchmark": {"seconds": 12.0, "rows": 4},
    }
    assert summary["versions"] == {"cases": "v1", "benchmark": "v1"}
    assert (summary["samples"], summary["seed"]) == ("runs/samples.parquet", 7)
    assert (summary["seconds"], summary["peak_memory_mb"]) == (95.123, 1834.3)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_what_nobody_compared_is_none(tmp_path: Path) -> None:
    """All of one edit type's scores are missing: the type is there, its comparison is not."""
    summary = summary_of(versions_of(tmp_path, ROWS))
    assert summary["per_edit_type"]["bokeh"]["score"] is None
    assert summary["per_edit_type"]["bokeh"]["referee"]["n"] == 1


def test_a_run_without_referee(tmp_path: Path) -> None:
    rows = [row | {"baseline_referee": None, "post_trained_referee": None} for row in ROWS]
    summary = summary_of(versions_of(tmp_path, rows, referee=False))
    assert summary["referee"] is None
    assert all(judges["referee"] is None for judges in summary["per_edit_type"].values())
    assert "referee (simulated): no values on the bench" in summary_lines(summary)


def test_a_stage_of_another_version_is_refused(tmp_path: Path) -> None:
    versions = versions_of(tmp_path, ROWS)
    for wrong in (Ref("cases", 2, 1.0, 1), Ref("edits", 1, 1.0, 1)):
        with pytest.raises(ValueError, match=f"{wrong.artifact}@v{wrong.version}"):
            summarise_run(versions, {"cases": wrong}, 0, 1.0, None, "samples.parquet")


def test_the_samples_file_holds_every_case_and_no_image(tmp_path: Path) -> None:
    path = tmp_path / "new" / "samples.parquet"
    write_samples(versions_of(tmp_path / "store", ROWS)["benchmark"], path)
    table = pq.read_table(path)
    assert table.column_names == [
        *("case_id", "edit_type", "source_id"),
        *("baseline_referee", "post_trained_referee", "baseline_score", "post_trained_score"),
    ]
    assert table["case_id"].to_pylist() == ["case0", "case1", "case2", "case3"]
    assert table["post_trained_score"].to_pylist() == [3.0, 3.0, 4.0, None]


def test_the_printed_table_is_aligned_and_ends_with_overall(tmp_path: Path) -> None:
    lines = summary_lines(summary_of(versions_of(tmp_path, ROWS)))
    first = lines[: lines.index("")]
    assert first[0].split() == [
        "referee",
        "(simulated)",
        "n",
        "baseline",
        "post-trained",
        "gain",
        "95",
        "%",
        "interval",
    ]
    assert first[-1].split()[:5] == ["overall", "4", "2.625", "3.000", "+0.375"]
    column = first[0].index("gain") + len("gain")
    assert all(line[column - 6 : column].strip()[0] in "+-" for line in (*first[2:-2], first[-1]))
    assert max(map(len, lines)) < 100
    assert [line.split() for line in lines if line.startswith("collect-cases")] == [["collect-cases", "1.2", "64"]]
    bokeh = [line.split() for line in lines if line.startswith("bokeh")]
    assert bokeh[1] == ["bokeh", "0", "-", "-", "-", "-", "not", "compared"]
    assert lines[-1] == "samples: runs/samples.parquet"


def test_only_an_interval_beside_zero_is_a_verdict() -> None:
    assert verdict({"low": 0.1, "high": 0.2}) == "better"
    assert verdict({"low": -0.2, "high": -0.1}) == "worse"
    assert verdict({"low": 0.0, "high": 0.2}) == verdict({"low": -0.1, "high": 0.0}) == "no clear change"
    assert verdict(None) == "not compared"


def test_a_gain_of_the_judge_that_the_referee_does_not_see_is_an_alarm() -> None:
    up, level, down = ({"low": low, "high": low + 1} for low in (0.5, -0.5, -2.0))
    assert alarm(up, up)[0] == "good"
    assert alarm(up, level)[0] == alarm(up, down)[0] == "bad"
    assert {alarm(judge, referee)[0] for judge in (level, down) for referee in (up, level, down)} == {"plain"}
    assert alarm(up, None) == ("plain", "no referee, so it cannot be told")
    assert alarm(None, None) == ("plain", "no scores, so it cannot be told")
