"""The file of ratings loses nothing, whoever writes and whatever breaks; the order is blind."""

import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.records import EditType
from tasks.rating.order import BLOCK, blind_order, counts, pace_seconds, still_to_rate
from tasks.rating.ratings import NOT_JSON, RatingBook, RatingItem
from tests.tasks.rating.served import make_item, make_items

ROOT = Path(__file__).parents[3]


@pytest.fixture
def book(tmp_path):
    return RatingBook(tmp_path / "new folder" / "ratings.jsonl")


def scores(book):
    return [(rating.edit_id, rating.rater, rating.score) for rating in book.ratings()]


def test_a_rating_is_one_line_and_is_read_back_by_another_book(book):
    assert book.ratings() == []
    told = book.rate("e1", "Änne", 4)
    line = json.loads(book.path.read_text())
    assert set(line) == {"edit_id", "rater", "score", "rated_at"}
    assert datetime.fromisoformat(line["rated_at"]).utcoffset() == timedelta(0)
    assert RatingBook(book.path).ratings() == book.ratings() == [told]


def test_the_last_event_of_an_edit_and_a_rater_counts(book):
    for edit_id, rater, score in [("e1", "A", 1), ("e2", "A", 2), ("e1", "B", 3), ("e1", "A", 5)]:
        book.rate(edit_id, rater, score)
    assert scores(book) == [("e2", "A", 2), ("e1", "B", 3), ("e1", "A", 5)]
    assert len(book.path.read_text().splitlines()) == 4, "nothing is rewritten"


def test_undo_takes_back_the_raters_own_last_rating(book):
    for edit_id, rater in [("e1", "A"), ("e2", "A"), ("e3", "B")]:
        book.rate(edit_id, rater, 0)
    assert book.undo("A").edit_id == "e2"
    assert book.undo("A").edit_id == "e1"
    assert book.undo("A") is None
    assert scores(RatingBook(book.path)) == [("e3", "B", 0)]
    assert len(book.path.read_text().splitlines()) == 5


def test_undo_of_a_named_edit_can_be_repeated(book):
    book.rate("e1", "A", 0)
    book.rate("e2", "A", 0)
    assert book.undo("A", "e2").edit_id == "e2"
    assert book.undo("A", "e2") is None
    assert scores(book) == [("e1", "A", 0)]


@pytest.mark.parametrize("score", [-1, 6, 2.5, True, None, "3"])
def test_other_scores_are_refused(book, score):
    with pytest.raises(ValueError, match="e1"):
        book.rate("e1", "A", score)
    assert not book.path.exists()


def test_a_torn_last_line_is_passed_over_and_the_next_event_stands_alone(book):
    book.rate("e1", "A", 1)
    torn = b'{"edit_id": "e2", "rater": "A", "sco'
    with open(book.path, "ab") as file:
        file.write(torn)
    for reader in (book, RatingBook(book.path)):
        assert scores(reader) == [("e1", "A", 1)]
        assert reader.not_understood == {NOT_JSON: 1}
        assert [(line.line, line.text.encode()) for line in reader.passed_over] == [(2, torn)]
    book.rate("e3", "A", 3)
    for reader in (book, RatingBook(book.path)):
        assert scores(reader) == [("e1", "A", 1), ("e3", "A", 3)]
        assert reader.not_understood == {NOT_JSON: 1}
    assert torn + b"\n" in book.path.read_bytes(), "it stays in the file"


def test_a_line_that_grows_while_it_is_read_is_understood_once_it_is_whole(book):
    book.rate("e1", "A", 1)
    line = book.path.read_bytes().replace(b"e1", b"e2")
    for part in (line[:30], line[30:]):
        with open(book.path, "ab") as file:
            file.write(part)
        found = scores(book)
    assert found == [("e1", "A", 1), ("e2", "A", 1)]
    assert not book.not_understood


def test_a_last_line_that_lacks_only_its_end_counts(book):
    """An editor may save a file so."""
    book.rate("e1", "A", 1)
    book.path.write_bytes(book.path.read_bytes().replace(b"e1", b"e2").strip())
    for reader in (book, RatingBook(book.path)):
        reader.rate("e3", "A", 3)
        assert scores(reader) == [("e2", "A", 1), ("e3", "A", 3)]
        assert not reader.not_understood


def test_lines_that_are_not_understood_are_counted_with_their_reason(book):
    book.rate("e1", "A", 1)
    good = json.loads(book.path.read_text())
    bad = [good | {"score": 7}, good | {"score": 9}, good | {"rated_at": "2026-01-01T00:00:00"}, [1], {"rater": "A"}]
    lines = [*map(json.dumps, bad), "", "no JSON", json.dumps(good | {"edit_id": "e2", "later": "field"})]
    book.path.write_text(book.path.read_text() + "\n".join(lines) + "\n")
    assert scores(book) == [("e1", "A", 1), ("e2", "A", 1)]
    reasons = book.not_understood
    assert sum(reasons.values()) == 6
    assert max(n for reason, n in reasons.items() if reason.startswith("score: ")) == 2
    assert any(reason.startswith("rated_at: ") for reason in reasons)
    assert reasons[NOT_JSON] == 2
    assert [line.line for line in book.passed_over] == [2, 3, 4, 5, 6, 8]
    assert (book.passed_over[-1].text, book.passed_over[-1].reason) == ("no JSON", NOT_JSON)


def test_another_file_in_its_place_is_read_from_the_start(book):
    book.rate("e1", "A", 1)
    book.rate("e2", "A", 1)
    book.ratings()
    first = book.path.read_bytes().splitlines(keepends=True)[0]
    book.path.unlink()
    assert book.ratings() == []
    book.path.write_bytes(first)
    assert scores(book) == [("e1", "A", 1)]


def test_processes_that_write_at_once_lose_nothing(book):
    code = (
        "import sys; from pathlib import Path; from tasks.rating.ratings import RatingBook\n"
        "book, rater = RatingBook(Path(sys.argv[1])), sys.argv[2]\n"
        "for n in range(40): book.rate(f'e{n}', rater, n % 6); n % 10 or book.undo(rater)"
    )
    raters = ["A", "B" * 60, "Ü"]
    command = [sys.executable, "-c", code, str(book.path)]
    running = [subprocess.Popen([*command, rater], cwd=ROOT) for rater in raters]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert not book.not_understood
    assert Counter(rating.rater for rating in book.ratings()) == dict.fromkeys(raters, 36)
    assert len(book.path.read_text().split()) > 3 * 44


def test_a_full_disk_is_told(book):
    book.path.parent.mkdir()
    book.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        book.rate("e1", "A", 1)


@pytest.mark.parametrize("change", [{"edit_id": "../x"}, {"edit_id": ""}, {"source": b"GIF89a"}, {"edited": b""}])
def test_items_that_cannot_be_served_are_refused(change):
    fields = vars(make_item(1)) | change
    with pytest.raises(ValueError, match=r"edit_id|no PNG or JPEG"):
        RatingItem(**fields)


# --- order ------------------------------------------------------------------------------------------------------------


def ids(items):
    return [item.edit_id for item in items]


def test_every_rater_has_an_own_order_that_does_not_depend_on_how_items_are_given():
    items = make_items(40)
    order = ids(blind_order(items, 0, "A"))
    assert sorted(order) == ids(items)
    assert order == ids(blind_order(items[::-1], 0, "A"))
    others = [ids(blind_order(items, 0, "B")), ids(blind_order(items, 1, "A"))]
    assert len({tuple(order), *map(tuple, others)}) == 3


def test_whoever_stops_early_has_rated_all_edit_types_alike():
    items = make_items(8 * 3 * BLOCK, tuple(EditType))
    order = [item.edit_type for item in blind_order(items, 0, "A")]
    for round_ in range(3):
        of_round = order[round_ * 8 * BLOCK : (round_ + 1) * 8 * BLOCK]
        blocks = [set(of_round[start : start + BLOCK]) for start in range(0, len(of_round), BLOCK)]
        assert sorted(blocks, key=str) == sorted(({str(edit_type)} for edit_type in EditType), key=str)


def test_what_was_skipped_comes_last():
    items = make_items(5)
    left = still_to_rate(items, {"edit0001"}, ["edit0002", "nobody knows", "edit0000"])
    assert ids(left) == ["edit0003", "edit0004", "edit0002", "edit0000"]


def test_the_pace_leaves_out_breaks_and_what_arrives_all_at_once():
    start = datetime(2026, 1, 1, tzinfo=UTC)
    seconds = [0, 10, 20, 20.01, 4000, 4012, 4024]
    assert pace_seconds([start + timedelta(seconds=s) for s in seconds]) == 11
    assert pace_seconds([start, start + timedelta(seconds=9)]) is None


def test_counts_know_only_these_items(book):
    book.rate("edit0000", "A", 1)
    book.rate("edit0001", "A", 1)
    book.rate("of another study", "B", 1)
    assert counts(make_items(2), book.ratings()) == {"A": {"bokeh": 1, "object_removal": 1}}
