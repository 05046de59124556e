"""The data side on real photographs: nothing lost, everything counted, every edit type both kept and dropped."""

import json
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
PER_EDIT_TYPE = 24


@pytest.fixture(scope="module")
def folder(photographs, tmp_path_factory):
    """The photographs with five troubles: three that may not be changed, one that is missing, one cut short."""
    folder = tmp_path_factory.mktemp("troubled")
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    content = json.loads((photographs / "annotations" / "instances.json").read_text())
    content["licenses"].append({"id": 99, "name": "Attribution-NoDerivs License", "url": "http://x/by-nd/2.0/"})
    for number, image in enumerate(content["images"]):
        original, here = photographs / "images" / image["file_name"], folder / "images" / image["file_name"]
        if number < 3:
            image["license"] = 99
        if number == 4:
            here.write_bytes(original.read_bytes()[:5000])
        elif number != 3:
            here.symlink_to(original)
    (folder / "annotations" / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def versions(folder, prefect_server, tmp_path_factory):
    here = tmp_path_factory.mktemp("photographs")
    options = RunOptions(store=str(here / "store"), scratch=str(here / "scratch"))
    full = photographs_config()
    collect = full.collect.model_copy(update={"train_per_edit_type": PER_EDIT_TYPE, "bench_per_edit_type": 2})
    refs = nightly_rebuild(Source(folder=str(folder)), "", full.model_copy(update={"collect": collect}), options)
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
        assert row["dropped"].get("full score", 0) > 0, edit_type
    assert set(versions["realpref"].manifest.statistics["per_edit_type"]) == set(EditType)


def test_categories_are_balanced(versions):
    per_category = versions["cases"].manifest.statistics["train"]["per_category"]
    assert len(per_category) > 40
    assert max(per_category.values()) <= 12


def test_licences_go_with_the_cases(versions):
    rows = versions["realpref"].table("train", ["licence", "licence_url", "origin_url"]).to_pylist()
    assert all(row["licence"] and row["licence_url"] for row in rows)
    assert not any("NoDerivs" in row["licence"] for row in rows)


def test_what_cannot_be_used_is_refused_by_reason(versions, folder):
    rejected = versions["cases"].table("rejected").to_pylist()
    content = json.loads((folder / "annotations" / "instances.json").read_text())
    names = [image["file_name"] for image in content["images"][:5]]
    reasons = {row["detail"].split(":")[0]: row["reason"] for row in rejected if row["detail"].split(":")[0] in names}
    assert [reasons[name] for name in names] == [
        *["licence forbids derivatives"] * 3,
        "image missing",
        "image unreadable",
    ]
    left_out = versions["cases"].manifest.statistics["left_out"]
    assert left_out["licence forbids derivatives"] >= 3


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
