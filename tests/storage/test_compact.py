"""Many small files become few, and nothing else changes."""

import pyarrow as pa
import pytest

from storage.compact import compact
from storage.records import Case
from storage.schemas import CASES, from_table, to_table
from storage.verify import verify
from tests.storage.samples import case, commit_child, manifest_of


def ids(*numbers):
    return pa.table({"id": list(numbers)})


def small_files(store, *parts):
    """A version with a file per part: a partition, and the rows."""
    tables = {"t": tuple(store.add_table(ids(*rows), partition) for partition, rows in parts)}
    return store.commit(manifest_of(store, tables=tables))


def files_of(version):
    return [(f.partition, version.store.read_table(f).column("id").to_pylist()) for f in version.manifest.tables["t"]]


def test_rows_move_to_full_files_in_their_order(any_store):
    old = small_files(any_store, *((None, [n]) for n in range(7)))
    new = compact(old, 3)
    assert files_of(new) == [(None, [0, 1, 2]), (None, [3, 4, 5]), (None, [6])]
    assert new.table("t") == old.table("t")
    assert any_store.resolve("cases").number == new.number == 2
    assert verify([old, new]) == []


def test_a_file_holds_rows_of_one_partition(store):
    old = small_files(store, ("bokeh", [1, 2]), ("style", [3]), ("bokeh", [4]), ("style", [5]))
    assert files_of(compact(old, 3)) == [("bokeh", [1, 2, 4]), ("style", [3, 5])]


def test_full_files_stay_and_are_not_read(store):
    old = small_files(store, (None, [1, 2, 3]), (None, [4]), (None, [5]))
    new = compact(old, 3)
    assert new.manifest.tables["t"][0] == old.manifest.tables["t"][0]
    assert files_of(new) == [(None, [1, 2, 3]), (None, [4, 5])]


def test_files_that_are_too_large_are_divided(store):
    assert files_of(compact(small_files(store, (None, range(7))), 3)) == [
        (None, [0, 1, 2]),
        (None, [3, 4, 5]),
        (None, [6]),
    ]


def test_a_version_in_full_files_is_left_as_it_is(store):
    once = compact(small_files(store, *((None, [n]) for n in range(7))), 3)
    assert compact(once, 3).number == once.number
    assert store.numbers("cases") == [1, 2]


def test_the_next_run_of_the_stage_goes_on_from_it(store):
    new = compact(small_files(store, (None, [1]), (None, [2])))
    assert store.find("cases", "k").number == new.number == 2


def test_records_and_other_files_are_the_same(store):
    cases = [case(n) for n in range(5)]
    tables = {
        "train": tuple(store.add_table(to_table(cases[n : n + 1], CASES), cases[n].edit_type) for n in range(5)),
        "bench": (store.add_table(to_table([], CASES)),),
        "notes": (store.add_file(b"1", ".json"), store.add_file(b"2", ".json")),
    }
    new = compact(store.commit(manifest_of(store, tables=tables)))
    assert [len(new.files(name)) for name in ("train", "bench", "notes")] == [1, 1, 2]
    assert list(from_table(new.table("train"), Case)) == cases
    assert list(from_table(new.table("bench"), Case)) == []
    assert new.manifest.tables["notes"] == tables["notes"]


def test_files_that_follow_those_of_others_are_refused(store):
    edits = commit_child(store, "edits", commit_child(store, "cases"))
    with pytest.raises(ValueError, match=r"the files of edits@v1 follow those of cases@v1: compact those"):
        compact(edits)
    assert store.numbers("edits") == [1]


@pytest.mark.parametrize("rows", [0, -1])
def test_files_of_no_rows_are_refused(store, rows):
    """Dividing rows into such files never ended."""
    with pytest.raises(ValueError, match=f"files of {rows} rows"):
        compact(small_files(store, (None, [1])), rows)
