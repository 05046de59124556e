"""What differs between two versions is told row by row, without reading what both have."""

import pyarrow as pa
import pytest

from storage.diff import changed_values, diff_lines, diff_rows
from storage.files import path_of
from tests.storage.samples import commit_child, manifest_of


def rows_of(store, *rows):
    """A file of a table with these cases; a value each."""
    return store.add_table(pa.table({"case_id": [name for name, _ in rows], "value": [value for _, value in rows]}))


def test_rows_are_compared_by_their_identifier(store):
    left = (rows_of(store, ("a", 1), ("b", 2)), rows_of(store, ("c", 3), ("d", 4)))
    right = (rows_of(store, ("d", 4), ("b", 20)), rows_of(store, ("e", 5), ("c", 3)))
    found = diff_rows(store, left, right)
    assert (found.added, found.removed, found.changed, found.same) == (1, 1, 1, 2)
    assert found.examples == {"added": ("e",), "removed": ("a",), "changed": ("b",)}
    assert str(found) == "1 added (e); 1 removed (a); 1 changed (b); 2 the same"


def test_many_rows_are_told_by_a_few_examples(store):
    found = diff_rows(store, (), (rows_of(store, *((f"n{i}", i) for i in range(600))),))
    assert str(found) == "600 added (n0, n1, n10, ...); 0 the same"


def test_files_that_both_have_are_not_read(store):
    shared = rows_of(store, ("a", 1), ("b", 2))
    left, right = (shared, rows_of(store, ("c", 3))), (rows_of(store, ("c", 4)), shared)
    store.remove([path_of(shared)])
    assert str(diff_rows(store, left, right)) == "1 changed (c); 2 the same"


def test_several_rows_of_one_case_are_all_counted(store):
    """Two edits of a case had one name once, and a change in one of them was not seen."""
    left = (rows_of(store, ("a", 1), ("a", 2), ("b", 1)),)
    right = (rows_of(store, ("a", 0), ("a", 2), ("b", 1), ("b", 2)),)
    assert str(diff_rows(store, left, right)) == "1 added (b 2); 1 changed (a); 2 the same"


def test_rows_without_identifier_are_all_counted(store):
    """Beyond a few hundred, rows got the names of others once, and were lost."""
    left = (store.add_table(pa.table({"x": list(range(600))})),)
    right = (store.add_table(pa.table({"x": [*range(599), 0, 1]})),)
    assert str(diff_rows(store, left, right)) == "1 added (row 601); 1 changed (row 600); 599 the same"


def test_a_new_column_changes_every_row(store):
    left = (rows_of(store, ("a", 1)),)
    right = (store.add_table(pa.table({"case_id": ["a"], "value": [1], "more": [None]})),)
    assert diff_rows(store, left, right).changed == 1


def test_nested_values_are_told_leaf_by_leaf():
    left = {"a": {"b": 1, "c": [1, 2]}, "gone": 1, "same": {"x": 1}}
    right = {"a": {"b": 2, "c": [1, 3]}, "new": {"y": 1}, "same": {"x": 1}}
    assert list(changed_values(left, right)) == [
        "a.b: 1 -> 2",
        "a.c: [1, 2] -> [1, 3]",
        "gone: 1 -> (none)",
        "new: (none) -> {'y': 1}",
    ]
    assert list(changed_values({"a": None}, {"a": None})) == []
    assert list(changed_values({"a": None}, {})) == ["a: None -> (none)"]


def test_two_versions_are_compared_in_all_that_they_say(store):
    parents = [commit_child(store, "cases", rows=(n,)) for n in range(2)]
    one, two = (
        store.commit(
            manifest_of(
                store,
                artifact="edits",
                stage_version=n,
                config={"editor": {"steps": 8 + n}},
                fingerprints={"editor": f"print{n}"},
                parents={"cases": parent.as_parent()},
                statistics={"edited": 2, "mean": n / 2},
                tables={
                    "edits": (rows_of(store, ("a", n), ("b", 0)),),
                    "notes": (store.add_file(f"{n}".encode(), ".json"),),
                    "same": (store.add_file(b"same", ".json"),),
                    **({"more": (rows_of(store, ("x", 0)),)} if n else {}),
                },
            )
        )
        for n, parent in enumerate(parents)
    )
    assert diff_lines(one, two) == [
        "edits@v1 -> edits@v2",
        "code:",
        "  collect: 0 -> 1",
        "config:",
        "  editor.steps: 8 -> 9",
        "fingerprints:",
        "  editor: print0 -> print1",
        "parents:",
        f"  cases: cases@v1 ({parents[0].ref.manifest[:12]}) -> cases@v2 ({parents[1].ref.manifest[:12]})",
        "statistics:",
        "  mean: 0.0 -> 0.5",
        "rows:",
        "  edits: 1 changed (a); 1 the same",
        "  more: 1 added (x); 0 the same",
        "  notes: another file",
        "  same: the same file",
    ]


def test_the_same_content_is_called_that(store):
    one, two = commit_child(store, "cases"), commit_child(store, "cases")
    assert diff_lines(one, two) == ["cases@v1 -> cases@v2", "the same content"]


def test_damage_is_not_taken_for_a_difference(store):
    one, two = commit_child(store, "cases"), commit_child(store, "cases", rows=(3,))
    store.put(path_of(two.manifest.tables["t"][0]), b"no table")
    with pytest.raises(OSError, match="damaged"):
        diff_lines(one, two)
