"""Records to tables and back, and images that others can see."""

import io

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.parquet import starts_of, to_parquet
from storage.records import Case, Edit, EditType, Encoding, Request, Score, identity
from storage.schemas import CASES, EDITS, ENCODINGS, SCORES, from_table, to_table
from storage.store import Store

_PIXEL = io.BytesIO()
Image.fromarray(np.full((2, 3, 3), 200, np.uint8)).save(_PIXEL, "PNG")

text = st.text(max_size=12)
cases = st.builds(
    Case,
    case_id=text,
    split=st.sampled_from(["train", "bench"]),
    edit_type=st.sampled_from(EditType),
    instruction=text,
    request=st.builds(Request, colour=st.none() | text, style=st.none() | text),
    category=text,
    source_id=text,
    source=st.binary(max_size=20),
    width=st.integers(1, 9000),
    height=st.integers(1, 9000),
    mask=st.fixed_dictionaries({"size": st.lists(st.integers(1, 9), min_size=2, max_size=2), "counts": text}),
    licence=text,
    licence_url=text,
    origin_url=text,
)
edits = st.builds(
    Edit,
    edit_id=text,
    case_id=text,
    edit_type=st.sampled_from(EditType),
    edited=st.none() | st.binary(max_size=20),
    failure=text,
    editor=text,
    seed=st.integers(0, 2**31),
)
encodings = st.builds(
    Encoding,
    encoding_id=text,
    case_id=text,
    edit_type=st.sampled_from(EditType),
    shape=st.dictionaries(text, st.lists(st.integers(1, 99), max_size=2), max_size=2),
    tensors=st.none() | st.binary(max_size=20),
    failure=text,
    editor=text,
)
scores = st.builds(
    Score,
    score_id=text,
    edit_id=text,
    case_id=text,
    edit_type=st.sampled_from(EditType),
    outcome=text,
    score=st.none() | st.floats(0, 5),
    full=st.booleans(),
    answers=st.dictionaries(text, st.floats(0, 1), max_size=3),
    raw_reply=text,
    scorer=text,
    attempt=st.integers(0, 3),
)


@pytest.mark.parametrize(
    ("kind", "schema", "strategy"),
    [(Case, CASES, cases), (Edit, EDITS, edits), (Encoding, ENCODINGS, encodings), (Score, SCORES, scores)],
)
def test_any_record_written_is_read_back(kind, schema, strategy):
    @settings(max_examples=30, deadline=None)
    @given(st.lists(strategy, max_size=4))
    def check(records):
        assert list(from_table(to_table(records, schema), kind)) == records

    check()


@given(st.lists(st.none() | st.binary(max_size=300), min_size=1, max_size=600))
def test_each_value_of_bytes_is_found_in_its_file(values):
    """In several row groups, with gaps, equal values and empty ones."""
    data = to_parquet(pa.table({"n": range(len(values)), "data": pa.array(values, pa.large_binary())}))
    for value, start in zip(values, starts_of(data, "data", values), strict=True):
        assert (start is None) == (value is None)
        assert value is None or data.slice(start, len(value)).to_pybytes() == value


def test_values_of_many_pages_are_found():
    values = [bytes([n]) * 700_000 for n in range(5)]
    data = to_parquet(pa.table({"data": pa.array(values, pa.large_binary())}))
    starts = starts_of(data, "data", values)
    assert [data.slice(start, 700_000).to_pybytes() for start in starts] == values
    assert starts[2] - starts[1] > 700_004, "a page of its own, with a header"


def test_a_value_that_is_not_in_the_file_is_not_found():
    with pytest.raises(ValueError, match="a value of 3 bytes is not found"):
        starts_of(to_parquet(pa.table({"data": pa.array([b"abd"])})), "data", [b"abc"])


def test_datasets_sees_images(tmp_path):
    store = Store(str(tmp_path))
    edit = Edit(
        edit_id="e", case_id="c", edit_type=EditType.BOKEH, edited=_PIXEL.getvalue(), failure="", editor="x", seed=1
    )
    file = store.add_table(to_table([edit], EDITS))
    loaded = datasets.load_dataset(
        "parquet", data_files=store.url_of(file).removeprefix("file://"), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert loaded[0]["edited"].size == (3, 2)
    assert loaded[0]["edit_type"] == "bokeh"


def test_identity_depends_on_where_parts_end():
    assert identity("ab", "c") != identity("a", "bc")
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    assert identity(b"x") != identity("x")


def test_a_request_with_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="shape"):
        Request.from_dict({"shape": "round"})
