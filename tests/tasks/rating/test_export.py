"""Triplets and ratings as files for other tools, and back again."""

import json

import pyarrow as pa
import pytest

from storage.manifest import Manifest
from storage.schemas import with_image_features
from tasks.calibration.rating_files import read_ratings
from tasks.calibration.ratings import Rating
from tasks.collect_labels import CollectLabels, LabelConfig
from tasks.pick_triplets import TRIPLETS
from tasks.rating.export import main
from tasks.rating.ratings import RatingBook
from tasks.stage import execute
from tests.tasks.rating.served import NASTY, make_item


@pytest.fixture
def labels(store, tmp_path):
    """Three triplets, of which two people rated some."""
    items = [make_item(number, instruction=NASTY if number == 2 else None) for number in range(3)]
    rows = [
        {"edit_id": i.edit_id, "edit_type": i.edit_type, "instruction": i.instruction}
        | {"source": {"bytes": i.source, "path": None}, "edited": {"bytes": i.edited, "path": None}}
        for i in items
    ]
    table = store.add_table(pa.Table.from_pylist(rows, schema=with_image_features(TRIPLETS)))
    told = {"stage": "pick-triplets", "stage_version": 1, "key": "by-hand", "config": {}}
    triplets = store.commit(Manifest(artifact="triplets", tables={"triplets": (table,)}, **told))
    book = RatingBook(tmp_path / "ratings.jsonl")
    for name, rater, score in (("edit0000", "Anna", 4), ("edit0002", "=1+1", 0), ("edit0002", "Anna", 5)):
        book.rate(name, rater, score)
    return execute(CollectLabels(store, LabelConfig(), triplets, [book.path])).version


@pytest.mark.parametrize("name", ["ratings.csv", "ratings.json"])
def test_labels_come_back_as_they_went(labels, tmp_path, capsys, name):
    path = tmp_path / name
    assert main(["labels@latest", "--to", str(path), "--store", labels.store.url]) == 0
    assert capsys.readouterr().out.split() == [str(path)]
    found, skipped = read_ratings(path)
    rows = labels.table("labels", ["edit_id", "rater", "score", "rated_at"]).to_pylist()
    assert sorted(found, key=str) == sorted((Rating(**row) for row in rows), key=str)
    assert (len(found), skipped) == (3, [])


def test_triplets_become_tasks_with_their_interface(labels, tmp_path):
    path = tmp_path / "tasks.json"
    assert main(["triplets@latest", "--to", str(path), "--store", labels.store.url]) == 0
    tasks = [task["data"] for task in json.loads(path.read_text())]
    assert [task["edit_id"] for task in tasks] == ["edit0000", "edit0001", "edit0002"]
    assert tasks[2]["instruction"] == NASTY
    assert tasks[0]["source"].startswith("data:image/png;base64,")
    assert tasks[0]["edited"].startswith("data:image/jpeg;base64,")
    interface = (tmp_path / "tasks.xml").read_text()
    assert all(f'"${name}"' in interface for name in ("edit_type", "instruction", "source", "edited"))
    assert "first_score" not in path.read_text(), "nobody who rates may see what it was picked by"


def test_what_cannot_be_written_is_said(labels, tmp_path, capsys):
    for version, name, told in (
        ("triplets@latest", "t.csv", "triplets become .json"),
        ("labels@latest", "ratings", "no suffix"),
        ("labels@v9", "r.csv", "labels@v9"),
    ):
        assert main([version, "--to", str(tmp_path / name), "--store", labels.store.url]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / name).exists()
