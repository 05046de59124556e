"""A store that older code wrote stays readable, and goes on. `schema_1/` was written by it and is never changed."""

import json
import shutil
from pathlib import Path

import datasets
import pytest

from storage.__main__ import main
from storage.compact import compact
from storage.export import export
from storage.gc import Retention, collect_garbage, plan_gc
from storage.lineage import ancestors
from storage.manifest import sha256_of
from storage.records import Case, Edit, Score
from storage.schemas import from_table
from storage.store import Store
from storage.verify import verify
from tests.storage.samples import commit_child, files_in, files_needed

OLD = Path(__file__).with_name("schema_1")


@pytest.fixture
def old(tmp_path):
    return Store(shutil.copytree(OLD, str(tmp_path / "old")))


def everything(store):
    return [version for artifact in store.artifacts() for version in store.versions(artifact)]


def test_every_version_is_whole_and_of_the_old_schema(old):
    assert [str(v) for v in everything(old)] == ["cases@v1", "edits@v1", "realpref@v1", "scores@v1"]
    assert {v.manifest.schema_version for v in everything(old)} == {1}
    assert verify(everything(old)) == []


@pytest.mark.parametrize(
    ("spec", "table", "kind", "count"),
    [
        ("cases@good", "train", Case, 8),
        ("cases", "bench", Case, 8),
        ("edits@v1", "edits", Edit, 8),
        ("scores@latest", "scores", Score, 8),
    ],
)
def test_tables_are_read_as_records(old, spec, table, kind, count):
    version = old.resolve(spec)
    records = list(from_table(version.table(table), kind))
    assert len(records) == version.manifest.rows(table) == count
    if kind is Case:
        assert [Case.id_of(c.source, c.instruction, c.edit_type) for c in records] == [c.case_id for c in records]
    assert len({record.edit_type for record in records}) == count, "one of each edit type"


def test_what_was_chosen_is_read(old):
    version = old.resolve("realpref")
    rows = version.table("train", ["case_id", "edited", "score"]).to_pylist()
    assert len({row["case_id"] for row in rows}) == 8
    assert all(row["edited"]["bytes"].startswith(b"\x89PNG") and 0 <= row["score"] <= 5 for row in rows)
    assert version.table("dropped").num_rows == 0


def test_names_and_keys_lead_to_old_versions(old):
    for version in everything(old):
        assert old.find(version.artifact, version.manifest.key).number == old.resolve(version.artifact).number == 1
        assert old.rejection(version) is None
    assert old.tags("cases")["good"].version == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["list"], "cases@v1                       29       0.1  2026-11-25T16:47:27+00:00 collect-cases     good"),
        (["show", "realpref"], "made by build-realpref (code 1) at 2026-11-25T16:47:37+00:00, 0.0 s\n"),
        (["tree", "realpref"], "└─ scores@v1  rate-edits, 8 rows"),
        (["tree", "cases", "--down"], "edits@v1  edit-baseline, 8 rows"),
        (["verify"], "4 versions, 0 damages"),
        (["diff", "cases@v1", "cases@good"], "the same content"),
        (["gc", "--keep-newest", "1", "--grace-hours", "0"], "1 files, 0.0 MB: 1 files"),
    ],
)
def test_the_commands_work_on_them(old, capsys, words, expected):
    assert main(["--store", old.root, *words]) == 0
    assert expected in capsys.readouterr().out


def test_they_are_exported(old, tmp_path):
    version = old.resolve("cases")
    export(version, tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), "bench", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 8
    assert loaded[0]["source"].size == (loaded[0]["width"], loaded[0]["height"])
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    assert sha256_of(manifest) == version.ref.manifest, "as it was written, not as it would be written today"
    assert json.loads(manifest)["schema_version"] == 1


def test_new_versions_go_on_top(old):
    new = commit_child(old, "edits", old.resolve("cases@good"))
    assert (new.number, new.manifest.schema_version) == (2, 2)
    assert old.resolve("edits").number == 2
    assert [str(v) for v in ancestors(new)] == ["edits@v2", "cases@v1"]
    assert old.resolve("scores").manifest.parents["edits"].version == 1
    assert verify(everything(old)) == []


def test_a_compacted_version_is_of_the_new_schema(old):
    """Its files may have partitions, of which older code knows nothing."""
    compacted = compact(old.resolve("cases"), 4)
    assert (compacted.number, compacted.manifest.schema_version) == (2, 2)
    assert [file.rows for file in compacted.files("bench")] == [4, 4]
    assert compacted.table("bench") == old.resolve("cases@v1").table("bench")


def test_gc_removes_only_what_a_killed_run_left_in_it(old):
    before = files_in(old)
    collect_garbage(old, plan_gc(old, Retention(keep_newest=1, grace_hours=0)))
    assert files_in(old) == files_needed(old)
    assert before - files_in(old) == {
        "files/08/08c1b99390351560cfb6771ced2eeacad9cae22eea9631d46ce1d7aff8209bbb.parquet"
    }
