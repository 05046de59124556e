"""What people say of triplets, from every kind of file, and what simulated raters say; with the real stage."""

import json
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from storage.records import EditType, Request
from storage.store import Store
from tasks.calibration.label_files import write_csv
from tasks.calibration.label_studio import write_label_studio_ratings
from tasks.calibration.ratings import Rating
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.collect_labels import CollectLabels, LabelConfig
from tasks.edit_baseline import EditConfig
from tasks.images import decode
from tasks.miniature.coco import scene_of, write_coco
from tasks.miniature.referee import referee_score
from tasks.pick_triplets import PickConfig, PickTriplets
from tasks.rating.ratings import RatingBook
from tasks.stage import execute
from tests.tasks.sloppy_edits import SloppyEditor
from tests.tasks.stand_ins import CountedEdits

WORLD, SCENES = 5, 40
TYPES = (EditType.REMOVAL, EditType.COLOUR)
COLLECT = CollectConfig(train_per_edit_type=20, bench_per_edit_type=1, cases_per_image=8, bench_share=0.1)
SIMULATED = LabelConfig(raters="simulated")
EARLY, LATE = "2026-11-25T10:00:00+00:00", "2026-11-26T10:00:00+00:00"


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    """Of two edit types, of every quality."""
    folder = tmp_path_factory.mktemp("made")
    store = Store(str(folder / "store"))
    cases = execute(CollectCases(store, COLLECT, write_coco(folder, WORLD, SCENES))).version
    edits = execute(CountedEdits(store, EditConfig(limits={}), cases, SloppyEditor(WORLD, SCENES, TYPES))).version
    return execute(PickTriplets(store, PickConfig(per_edit_type=15), edits)).version


@pytest.fixture(scope="module")
def names(triplets):
    """The identifiers of the triplets."""
    return triplets.table("triplets", ["edit_id"])["edit_id"].to_pylist()


def collect(triplets, *files, config=LabelConfig()):  # noqa: B008 - frozen
    return execute(CollectLabels(triplets.store, config, triplets, files))


def said(version):
    rows = version.table("labels").to_pylist()
    return {(row["edit_id"], row["rater"]): row["score"] for row in rows}


def skipped(version):
    return [(row["place"], row["reason"], row["value"]) for row in version.table("skipped").to_pylist()]


def test_ratings_of_the_rating_page(triplets, names, tmp_path):
    book = RatingBook(tmp_path / "ratings.jsonl")
    before = datetime.now(UTC).replace(microsecond=0)
    for number, name in enumerate(names[:6]):
        book.rate(name, "Anna", number % 6)
        book.rate(name, "Bo", 5)
    book.rate(names[0], "Anna", 4)
    book.undo("Bo", names[1])
    version = collect(triplets, tmp_path / "ratings.jsonl").version
    wanted = {(name, "Anna"): number for number, name in enumerate(names[:6])} | {(names[0], "Anna"): 4}
    assert said(version) == wanted | {(name, "Bo"): 5 for number, name in enumerate(names[:6]) if number != 1}
    rows = version.table("labels").to_pylist()
    assert len({row["label_id"] for row in rows}) == len(rows) == 11
    assert all(before <= datetime.fromisoformat(row["rated_at"]) <= datetime.now(UTC) for row in rows)
    types = dict(zip(names, triplets.table("triplets", ["edit_type"])["edit_type"].to_pylist(), strict=True))
    assert all(row["edit_type"] == types[row["edit_id"]] for row in rows)
    assert skipped(version) == [], "a rating that was taken back or given anew on the page is the page's business"
    assert not version.manifest.statistics["simulated"]
    counts = version.manifest.statistics["counts"]
    assert counts["per_rater"] == {"Anna": 6, "Bo": 5}
    assert counts["triplets"] == {"rated": 6, "not rated": len(names) - 6}
    assert set(counts["histogram"]) == set(TYPES)
    assert np.sum(list(counts["histogram"].values()), axis=0).tolist() == [0, 1, 1, 1, 2, 6]


@pytest.mark.parametrize(
    ("name", "write"),
    [("export.json", write_label_studio_ratings), ("table.csv", write_csv), ("TABLE.TSV", write_csv)],
)
def test_ratings_of_label_studio_and_of_spreadsheets(triplets, names, tmp_path, name, write):
    given = [Rating(names[number], "anna@example.org", number, LATE) for number in range(4)]
    (tmp_path / name).write_text(write(given))
    version = collect(triplets, tmp_path / name).version
    assert said(version) == {(rating.edit_id, "anna@example.org"): rating.score for rating in given}
    assert version.table("labels")["rated_at"].to_pylist() == [LATE] * 4


def test_of_several_files_the_later_rating_counts(triplets, names, tmp_path):
    old, new, without = tmp_path / "old.csv", tmp_path / "new.json", tmp_path / "without.csv"
    old.write_text(write_csv([Rating(names[0], "Anna", 1, EARLY), Rating(names[1], "Anna", 2, EARLY)]))
    new.write_text(write_label_studio_ratings([Rating(names[0], "Anna", 5, LATE), Rating(names[0], "Bo", 3, EARLY)]))
    without.write_text(write_csv([Rating(names[0], "Anna", 0)]))
    for order in ((old, new, without), (without, new, old)):
        version = collect(triplets, *order).version
        assert said(version) == {(names[0], "Anna"): 5, (names[1], "Anna"): 2, (names[0], "Bo"): 3}
        assert sorted(skipped(version)) == [("old.csv", "rated again", "1"), ("without.csv", "rated again", "0")]


def test_what_could_not_be_taken_is_a_row_with_reason_and_place(triplets, names, tmp_path):
    page, table, export = tmp_path / "page.jsonl", tmp_path / "table.csv", tmp_path / "export.json"
    RatingBook(page).rate(names[0], "Anna", 5)
    with page.open("a") as file:
        file.write('{"edit_id": "e", "rater": "Anna", "score": 7, "rated_at": "2026-11-26T10:00:00Z"}\n{"edit_id": ')
    table.write_text(f"edit_id,rater,score\n{names[1]},Anna,4\nunknown,Anna,3\n{names[2]},,3\n{names[2]},Anna,4.5\n")
    task = {"data": {"edit_id": names[3]}, "annotations": [{"was_cancelled": True}]}
    export.write_text(json.dumps([task]))
    version = collect(triplets, page, table, export).version
    assert said(version) == {(names[0], "Anna"): 5, (names[1], "Anna"): 4}
    found = {place: (reason, value) for place, reason, value in skipped(version)}
    assert found == {
        "page.jsonl, line 2": ("score: Input should be less than or equal to 5", found["page.jsonl, line 2"][1]),
        "page.jsonl, line 3": ("torn or not JSON", '{"edit_id": '),
        "table.csv, line 4": ("no rater", "3"),
        "table.csv, line 5": ("not a whole number from 0 to 5", "4.5"),
        "export.json, task 1, annotation 1": ("cancelled", ""),
        "rating of unknown by Anna": ("unknown edit_id", "unknown"),
    }
    counts = version.manifest.statistics["counts"]
    assert counts["skipped"] == Counter(reason for reason, _ in found.values())
    assert counts["triplets"]["rated"] == 2


def test_files_in_which_nothing_can_be_used_are_a_version_that_says_so(triplets, tmp_path):
    (tmp_path / "others.csv").write_text("edit_id,rater,score\nelsewhere,Anna,5\n")
    version = collect(triplets, tmp_path / "others.csv").version
    assert version.table("labels").num_rows == 0
    counts = version.manifest.statistics["counts"]
    assert counts["triplets"]["rated"] == 0
    assert counts["skipped"] == {"unknown edit_id": 1}


def test_people_without_files_and_simulated_ones_with_files_are_refused(triplets, tmp_path):
    with pytest.raises(ValueError, match=r"people's ratings come from files \(--ratings FILE"):
        CollectLabels(triplets.store, LabelConfig(), triplets)
    (tmp_path / "ratings.csv").write_text("edit_id,rater,score\n")
    with pytest.raises(ValueError, match="simulated ones do not"):
        CollectLabels(triplets.store, SIMULATED, triplets, [tmp_path / "ratings.csv"])


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("there.csv", None, FileNotFoundError, "there.csv: no such file"),
        ("notes.txt", b"4", ValueError, r"\.txt is no kind of rating file"),
        ("notes", b"4", ValueError, "no suffix is no kind of rating file"),
        ("table.csv", b"edit_id,score\ne,5\n", ValueError, "table.csv: columns missing.*rater"),
        ("export.json", b"{}", ValueError, "export.json: not an export of Label Studio"),
        ("broken.json", b"[{", ValueError, "broken.json: "),
        ("latin.csv", "edit_id,rater,score\ne,J\xfcrgen,5\n".encode("latin-1"), ValueError, "latin.csv: .*utf-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(triplets, tmp_path, name, content, error, message):
    """Of several files, one was of another form, and the message told everything but which."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        CollectLabels(triplets.store, LabelConfig(), triplets, [tmp_path / name])


def test_the_same_ratings_are_the_same_version_wherever_they_stand(triplets, names, tmp_path):
    """The order of the ratings counted, and of a line that was left out even the name of its file."""
    given = [Rating(name, rater, number % 6, LATE) for number, name in enumerate(names) for rater in ("Anna", "Bo")]
    bad = "e,Anna,six\n"
    (tmp_path / "one.csv").write_text(write_csv(given) + bad)
    (tmp_path / "same.csv").write_text(write_csv(given[::-1]) + bad)
    (tmp_path / "first half.csv").write_text(write_csv(given[:9]))
    (tmp_path / "rest.csv").write_text(write_csv(given[9:]) + bad)
    first = collect(triplets, tmp_path / "one.csv")
    assert not first.reused
    for files in (["same.csv"], ["first half.csv", "rest.csv"], ["rest.csv", "first half.csv"]):
        again = collect(triplets, *(tmp_path / name for name in files))
        assert again.reused
        assert again.version.number == first.version.number
    other = [Rating(given[0].edit_id, "Anna", 3, LATE), *given[1:]]
    (tmp_path / "other.csv").write_text(write_csv(other) + bad)
    assert not collect(triplets, tmp_path / "other.csv").reused
    (tmp_path / "better.csv").write_text(write_csv(given))
    assert not collect(triplets, tmp_path / "better.csv").reused, "a line less was left out"


def test_simulated_raters_say_the_same_again(triplets, names):
    version = collect(triplets, config=SIMULATED).version
    scores = said(version)
    assert set(scores) == {(name, f"simulated-{number}") for name in names for number in (1, 2, 3)}
    assert version.manifest.statistics["simulated"] is True
    assert skipped(version) == []
    again = execute(CollectLabels(triplets.store, SIMULATED, triplets), refresh=True)
    assert again.version.ref.manifest == version.ref.manifest
    other = collect(triplets, config=LabelConfig(raters="simulated", seed=1)).version
    assert said(other).keys() == scores.keys()
    assert said(other) != scores, "another seed is another panel"
    fewer = collect(triplets, config=LabelConfig(raters="simulated", simulated=1)).version
    assert said(fewer) == {key: score for key, score in scores.items() if key[1] == "simulated-1"}


def test_simulated_raters_see_what_the_referee_sees_each_in_a_way_of_an_own(triplets, names):
    scores = said(collect(triplets, config=LabelConfig(raters="simulated", simulated=4)).version)
    by_rater = np.array([[scores[name, f"simulated-{number}"] for name in names] for number in (1, 2, 3, 4)], float)
    gold = [
        referee_score(
            scene_of(row["source_id"]),
            EditType(row["edit_type"]),
            Request.from_dict(json.loads(row["request"])),
            decode(row["edited"]["bytes"]),
        )
        for row in triplets.table("triplets").to_pylist()
    ]
    assert len(np.unique(by_rater)) >= 5, "the scale is used"
    for one, mine in enumerate(by_rater):
        with_referee = np.corrcoef(mine, gold)[0, 1]
        assert 0.75 < with_referee < 0.99
        assert not np.array_equal(mine, np.floor(np.array(gold) + 0.5))
        for theirs in by_rater[one + 1 :]:
            assert not np.array_equal(mine, theirs)
            assert np.corrcoef(mine, theirs)[0, 1] < 0.99
    # Noise of their own: together they are nearer to the referee than the average one of them.
    alone = np.mean([np.corrcoef(mine, gold)[0, 1] for mine in by_rater])
    assert np.corrcoef(by_rater.mean(0), gold)[0, 1] > alone
