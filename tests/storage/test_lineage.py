"""Where versions come from and what became of them."""

import time

import pytest

from storage.lineage import ancestors, children_first, children_of, parents_of, tree_lines
from storage.manifest import Ref
from tests.storage.samples import commit_child, manifest_of


@pytest.fixture
def family(store):
    """Cases, edits and scores of them, and what was chosen from all three."""
    cases = commit_child(store, "cases")
    edits = commit_child(store, "edits", cases)
    scores = commit_child(store, "scores", cases, edits)
    realpref = commit_child(store, "realpref", cases, edits, scores)
    return {version.artifact: version for version in (cases, edits, scores, realpref)}


def without_moments(lines):
    return [line.rsplit(", 20", 1)[0] for line in lines]


def test_parents_are_found_by_role(family):
    assert {role: str(v) for role, v in parents_of(family["scores"]).items()} == {
        "cases": "cases@v1",
        "edits": "edits@v1",
    }
    assert parents_of(family["cases"]) == {}


def test_a_tree_shows_what_a_version_was_made_from_each_once(family):
    assert without_moments(tree_lines(family["realpref"])) == [
        "realpref@v1  make-realpref, 2 rows",
        "├─ cases@v1  make-cases, 2 rows",
        "├─ edits@v1  make-edits, 2 rows",
        "│  └─ cases@v1  (above)",
        "└─ scores@v1  make-scores, 2 rows",
        "   ├─ cases@v1  (above)",
        "   └─ edits@v1  (above)",
    ]


def test_a_tree_shows_what_was_made_from_a_version(family, store):
    commit_child(store, "edits", family["cases"], rows=(7,))
    assert without_moments(tree_lines(family["cases"], up=False)) == [
        "cases@v1  make-cases, 2 rows",
        "├─ edits@v1  make-edits, 2 rows",
        "│  ├─ realpref@v1  make-realpref, 2 rows",
        "│  └─ scores@v1  make-scores, 2 rows",
        "│     └─ realpref@v1  (above)",
        "├─ edits@v2  make-edits, 1 rows",
        "├─ realpref@v1  (above)",
        "└─ scores@v1  (above)",
    ]


def test_a_role_is_named_where_it_says_more_than_the_artifact(store):
    cases = commit_child(store, "cases")
    child = store.commit(manifest_of(store, artifact="mixed", parents={"judged": cases.as_parent()}))
    assert "└─ judged: cases@v1" in tree_lines(child)[1]


def test_children_are_found_by_their_parent(family, store):
    children = children_of(store)
    assert [str(v) for v in children[("edits", 1)]] == ["realpref@v1", "scores@v1"]
    assert ("realpref", 1) not in children


def test_ancestors_come_once_and_behind_their_children(family, store):
    assert [str(v) for v in ancestors(family["realpref"])] == ["realpref@v1", "scores@v1", "edits@v1", "cases@v1"]
    assert children_first(reversed(family.values())) == list(reversed(family.values()))


def test_long_histories_with_shared_parents_are_walked_once(store):
    """Every version was visited once per path to it: 25 rounds of two parents would have taken 33 million steps."""
    left, right = commit_child(store, "left"), commit_child(store, "right")
    for _ in range(25):
        left, right = commit_child(store, "left", left, right), commit_child(store, "right", left, right)
    started = time.monotonic()
    found = ancestors(right)
    assert time.monotonic() - started < 10
    assert len(found) == len(set(map(str, found))) == 51
    places = {str(v): i for i, v in enumerate(found)}
    for version in found:
        assert all(places[str(version)] < places[str(parent)] for parent in parents_of(version).values())
    assert len(tree_lines(right)) == 99


def test_versions_that_claim_to_descend_from_each_other_are_refused(store):
    """Only a forger can write that; it must not make a reader walk for ever."""
    cases = commit_child(store, "cases")
    circle = manifest_of(store, artifact="cases", parents={"self": cases.as_parent()})
    store.create(f"manifests/{circle.id}.json", circle.to_bytes())
    ref = Ref(manifest=circle.id, created_at=cases.ref.created_at, seconds=0)
    store.put("versions/cases/000001.json", ref.model_dump_json().encode())
    with pytest.raises(ValueError, match="cycle"):
        ancestors(store.resolve("cases"))
    assert len(tree_lines(store.resolve("cases"))) == 2
