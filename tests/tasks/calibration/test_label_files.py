"""People's ratings from the files that people really send, and back."""

import base64
import csv
import io
import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.calibration.label_files import read_csv, write_csv
from tasks.calibration.label_studio import (
    LABELING_CONFIG,
    EditToLabel,
    read_label_studio,
    write_label_studio,
    write_label_studio_ratings,
)
from tasks.calibration.ratings import Rating, Skipped, check_known, keep_latest

TEXT = st.text(max_size=12).filter(lambda t: t == t.strip() and "\x00" not in t)
NAME = TEXT.filter(bool) | st.sampled_from(
    ["=1+1", "'=1+1", "'", "''", "'tHooft", "007", "'007", "@a", "-", 'a"b', "a;b\n,c"]
)
RATING = st.builds(Rating, NAME, NAME, st.integers(0, 5), TEXT | st.just("2026-11-26T10:00:00Z"))
RATINGS = st.lists(RATING, max_size=8, unique_by=lambda rating: (rating.edit_id, rating.rater))
GOOD = [Rating("e1", "Anna", 4, "2026-11-26T10:00:00"), Rating("e2", "Anna", 0)]
PNG, JPEG = b"\x89PNG\r\n\x1a\nrest", b"\xff\xd8\xffrest"
ITEM = EditToLabel(edit_id="e1", edit_type="bokeh", instruction="Blur <it>", source=JPEG, edited=PNG)


@pytest.mark.parametrize(
    "text",
    [
        "edit_id,rater,score,rated_at\ne1,Anna,4,2026-11-26T10:00:00\ne2,Anna,0,\n",
        "\ufeffedit_id;rater;score;rated_at\r\ne1;Anna;4;2026-11-26T10:00:00\r\ne2;Anna;0;\r\n",
        "edit_id\trater\tscore\trated_at\ne1\tAnna\t4.0\t2026-11-26T10:00:00\ne2\tAnna\t0\n",
        '"edit_id","rater","score","rated_at"\n"e1","Anna","4","2026-11-26T10:00:00"\n"e2","Anna","0",""\n',
        "sep=;\r\nedit_id;rater;score;rated_at\r\ne1;Anna;4,0;2026-11-26T10:00:00\r\ne2;Anna;0;\r\n",
        "\n Rater , Score ,comment,EDIT_ID,rated_at\n Anna ,4,\"a, b\nc\",e1,2026-11-26T10:00:00\n,,,,\nAnna,0,,e2\n\n",
    ],
    ids=["plain", "excel", "tabs", "quoted", "sep line", "other order"],
)  # fmt: skip
def test_the_dialects_of_spreadsheets(text):
    assert read_csv(text) == (GOOD, [])


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        ("", "no score"),
        (" ", "no score"),
        *((s, "not a whole number from 0 to 5") for s in ("4/5", "NaN", "6", "-1", "3.5", "five", "1e0", "４", "4.01")),
    ],
)
def test_a_score_that_is_none_is_skipped_with_its_reason(score, reason):
    kept, skipped = read_csv(f"edit_id,rater,score\ne1,Anna,{score}\ne2,Anna,5\n")
    assert kept == [Rating("e2", "Anna", 5)]
    assert skipped == [Skipped("line 2", reason, score)]


def test_a_row_without_a_name_is_skipped():
    kept, skipped = read_csv("edit_id,rater,score\n,Anna,5\ne1,,4\n")
    assert kept == []
    assert [(s.where, s.reason) for s in skipped] == [("line 2", "no edit_id"), ("line 3", "no rater")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing"),
        ("edit_id,score\ne1,5\n", "rater"),
        ("edit_id,rater,score,score\n", "twice"),
        (f"edit_id,rater,score,image\ne1,Anna,5,{'x' * 200_000}\n", "line 2: field larger"),
    ],
)
def test_what_is_no_such_table_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_csv(text)


@given(RATINGS)
def test_a_table_is_read_back(ratings):
    assert read_csv(write_csv(ratings)) == (ratings, [])


@given(RATINGS)
def test_no_cell_is_a_formula(ratings):
    for row in csv.reader(io.StringIO(write_csv(ratings), newline="")):
        assert not any(cell and cell[0] in "=+-@\t\r\n" for cell in row)


def test_a_formula_is_a_name():
    rating = Rating("1234567890123456", "=1+1", 3)
    assert write_csv([rating]).splitlines()[1] == "'1234567890123456,'=1+1,3,"
    assert read_csv(write_csv([rating])) == ([rating], [])


def test_of_two_ratings_the_later_counts():
    old, new = Rating("e", "a", 1, "2026-11-26T10:00:00+02:00"), Rating("e", "a", 2, "2026-11-26T09:00:00Z")
    for order in ([old, new], [new, old]):
        kept, skipped = keep_latest(order)
        assert kept == [new]
        assert skipped == [Skipped(f"rating {order.index(old) + 1}", "rated again", "1")]
    without = Rating("e", "a", 3)
    assert keep_latest([new, without])[0] == [new], "a rating without a time is earlier"
    assert keep_latest([without, Rating("e", "a", 4, "yesterday")])[0] == [Rating("e", "a", 4, "yesterday")]
    assert keep_latest([old, Rating("e", "b", 5), Rating("f", "a", 5)])[1] == []


def test_a_doubled_row_is_skipped_and_told():
    kept, skipped = read_csv("edit_id,rater,score\ne,a,1\ne,a,5\n")
    assert (kept, skipped) == ([Rating("e", "a", 5)], [Skipped("line 2", "rated again", "1")])


def test_unknown_edits_are_skipped():
    kept, skipped = check_known(GOOD, {"e2"})
    assert kept == [GOOD[1]]
    assert skipped == [Skipped("rating of e1 by Anna", "unknown edit_id", "e1")]


@pytest.mark.parametrize(
    "fields", [("", "a", 1), ("e", " a", 1), ("e", "a", 6), ("e", "a", True), ("e", "a", 4.0), ("e", "a", 1, " ")]
)
def test_a_rating_is_checked(fields):
    with pytest.raises(ValueError, match=r"padded|whole number"):
        Rating(*fields)


def annotation(score, kind="choices", name="score", **more):
    value = {kind: [score] if kind == "choices" else score}
    result = [{"from_name": name, "to_name": "edited", "type": kind, "value": value}]
    return {"completed_by": 7, "result": result, "was_cancelled": False, **more}


def read(*annotations, **task):
    return read_label_studio(json.dumps([{"id": 1, "data": {"edit_id": "e1"}, "annotations": annotations, **task}]))


@pytest.mark.parametrize(("score", "kind"), [("4", "choices"), (4, "rating"), (4, "number"), (4.0, "number")])
def test_an_export_of_label_studio(score, kind):
    mine = annotation(score, kind, updated_at="2026-11-26T10:00:00Z", created_at="2026-11-25T10:00:00Z")
    theirs = annotation("0", completed_by={"id": 3, "email": "b@example.org"})
    predictions = [annotation("5")]
    assert read(mine, theirs, predictions=predictions) == (
        [Rating("e1", "7", 4, "2026-11-26T10:00:00Z"), Rating("e1", "b@example.org", 0)],
        [],
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (annotation("4", was_cancelled=True), "cancelled"),
        (annotation("4/5"), "not a whole number from 0 to 5"),
        (annotation(4.5, "number"), "not a whole number from 0 to 5"),
        (annotation(0, "rating"), "no star: Label Studio's stars cannot say 0"),
        (annotation(True, "number"), "no score"),
        (annotation("4", completed_by=None), "no rater"),
        (annotation("4", result=[]), "no rating"),
        (annotation("4", result=None), "no rating"),
        (annotation("4", result=[{"type": "textarea", "value": {"text": ["5"]}}]), "no rating"),
        (annotation("4", result=[{"type": "choices", "value": {"choices": ["4", "5"]}}]), "several choices"),
        (annotation("4", result=[{"type": "choices", "value": {"choices": []}}]), "no score"),
        (annotation("4", result=[{"type": "rating", "value": None}]), "no score"),
        (annotation("4", result=annotation(1, "rating", "a")["result"] + annotation(2, "rating", "b")["result"]),
         "several ratings in one annotation"),
        ("text", "not an annotation"),
    ],
)  # fmt: skip
def test_an_annotation_that_is_no_rating_is_skipped(given, reason):
    kept, skipped = read(given)
    assert kept == []
    assert [(s.where, s.reason) for s in skipped] == [("task 1, annotation 1", reason)]


def test_the_control_named_score_counts():
    both = annotation("4")["result"] + annotation("blurry", name="flaw")["result"]
    assert read(annotation("4", result=both))[0] == [Rating("e1", "7", 4)]


def test_the_short_export_of_label_studio():
    text = json.dumps(
        [
            {"edit_id": "e1", "source": "data:...", "score": "4", "id": 1, "annotator": 7, "updated_at": "2026-11-26"},
            {"edit_id": "e2", "stars": [{"rating": 3}], "annotator": {"email": "b@example.org"}},
            {"edit_id": "e3", "score": {"choices": ["4", "5"]}, "annotator": 7},
            {"edit_id": "e4", "annotator": 7},
            {"score": "4", "annotator": 7},
        ]
    )
    kept, skipped = read_label_studio(text)
    assert kept == [Rating("e1", "7", 4, "2026-11-26"), Rating("e2", "b@example.org", 3)]
    assert [(s.where, s.reason) for s in skipped] == [
        ("task 3", "several choices"),
        ("task 4", "no rating"),
        ("task 5", "no edit_id"),
    ]


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", "no json", "[" * 100_000], ids=range(6))
def test_what_is_no_export_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        read_label_studio(text)


KEYS = st.sampled_from(
    ["data", "annotations", "result", "value", "choices", "score", "edit_id", "type", "completed_by"]
)
LEAF = st.none() | st.booleans() | st.integers() | st.sampled_from(["4", "choices", ""])


@given(st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20))
def test_any_list_of_objects_is_read_without_an_error(value):
    read_label_studio(json.dumps([{"data": {"edit_id": "e"}, "annotations": value}, {"edit_id": "e", "score": value}]))


@given(RATINGS)
def test_ratings_go_to_label_studio_and_back(ratings):
    kept, skipped = read_label_studio(write_label_studio_ratings(ratings))
    assert skipped == []
    assert sorted(kept, key=repr) == sorted(ratings, key=repr)


def test_what_a_person_sees_in_label_studio():
    (task,) = json.loads(write_label_studio([ITEM]))
    data = task["data"]
    assert (data["edit_id"], data["edit_type"], data["instruction"]) == ("e1", "bokeh", "Blur <it>")
    assert data["source"] == f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"
    assert data["edited"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    (rated,) = json.loads(write_label_studio_ratings([GOOD[0]], [ITEM]))
    assert rated["data"] == data
    with pytest.raises(ValueError, match="e1: source is neither"):
        write_label_studio([EditToLabel(edit_id="e1", edit_type="", instruction="", source=b"GIF", edited=PNG)])


def test_the_interface_asks_for_what_is_read():
    """Its controls refer to what there is, it can say 0, and what it gives is what the reader reads."""
    config = ElementTree.fromstring(LABELING_CONFIG)
    shown = {element.get("value")[1:] for element in config.iter() if (element.get("value") or "").startswith("$")}
    assert shown <= set(json.loads(write_label_studio([ITEM]))[0]["data"])
    (choices,) = config.iter("Choices")
    assert choices.get("toName") in {image.get("name") for image in config.iter("Image")}
    assert [(c.get("value"), c.get("hotkey")) for c in choices] == [(str(i), str(i)) for i in range(6)]
    (written,) = json.loads(write_label_studio_ratings([GOOD[0]]))
    result = written["annotations"][0]["result"][0]
    assert (result["from_name"], result["to_name"]) == (choices.get("name"), choices.get("toName"))
