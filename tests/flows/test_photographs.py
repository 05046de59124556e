"""The data side on real photographs: nothing lost, everything counted, every edit type both kept and dropped."""

from collections import Counter

import pytest
from datasets import load_dataset

from flows.collect_cases import Source
from flows.nightly_rebuild import nightly_rebuild
from storage.records import EditType
from tasks.data_report import data_lines
from tasks.prefect_stage import RunOptions
from tasks.sizes import photographs as photographs_config

pytestmark = [pytest.mark.prefect, pytest.mark.photographs]
PER_EDIT_TYPE = 12


@pytest.fixture(scope="module")
def versions(prefect_server, photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    options = RunOptions(store=str(folder / "store"), scratch=str(folder / "scratch"))
    full = photographs_config()
    collect = full.collect.model_copy(update={"train_per_edit_type": PER_EDIT_TYPE, "bench_per_edit_type": 2})
    refs = nightly_rebuild(Source(folder=str(photographs)), full.model_copy(update={"collect": collect}), options)
    store = options.open_store()
    return {name: store.version(ref.artifact, ref.version) for name, ref in refs.items()}


def test_every_case_is_kept_or_dropped_for_a_reason(versions):
    cases = versions["cases"].table("train", ["case_id"])["case_id"].to_pylist()
    kept = versions["realpref"].table("train", ["case_id"])["case_id"].to_pylist()
    dropped = versions["realpref"].table("dropped", ["case_id", "reason"]).to_pylist()
    assert len(cases) == len(EditType) * PER_EDIT_TYPE
    assert Counter(cases) == Counter([*kept, *(row["case_id"] for row in dropped)])
    assert all(row["reason"] for row in dropped)


def test_every_edit_type_has_hard_cases_and_full_scores(versions):
    for edit_type, row in versions["realpref"].manifest.statistics["per_edit_type"].items():
        assert row["kept"] > 0, edit_type
        assert row["dropped"].get("full_score", 0) > 0, edit_type
    assert set(versions["realpref"].manifest.statistics["per_edit_type"]) == set(EditType)


def test_categories_are_balanced(versions):
    per_category = versions["cases"].manifest.statistics["train"]["per_category"]
    assert len(per_category) > 40
    assert max(per_category.values()) <= 12


def test_licences_go_with_the_cases(versions):
    rows = versions["realpref"].table("train", ["licence", "licence_url", "origin_url"]).to_pylist()
    assert all(row["licence"] and row["licence_url"] for row in rows)
    assert not any("NoDerivs" in row["licence"] for row in rows)
    assert any("deriv" in reason.lower() for reason in versions["cases"].manifest.statistics["left_out"])


def test_the_shards_open_with_datasets(versions, tmp_path):
    rows = load_dataset(
        "parquet", data_files=versions["realpref"].paths("train"), split="train", cache_dir=str(tmp_path)
    )
    row = rows[0]
    assert row["source"].size == row["edited"].size == (row["width"], row["height"])
    assert max(row["source"].size) >= 400, "real resolution"
    assert 0 <= row["score"] < 5


def test_the_lines_at_the_end_tell_all_counts(versions):
    text = "\n".join(data_lines(versions))
    statistics = versions["cases"].manifest.statistics
    assert f"images {statistics['images']}" in text
    assert all(reason in text for reason in statistics["left_out"])
    assert all(edit_type in text for edit_type in EditType)
