"""The stage collect-cases: bad data is an error that says why, an empty split is a table all the same."""

import json

import pytest

from tasks.collect_cases import CollectCases, CollectConfig
from tasks.collection.coco import CocoError
from tasks.miniature.coco import write_coco
from tasks.stage import execute


@pytest.fixture
def world(tmp_path):
    return write_coco(tmp_path / "world", 1, 24)


def test_a_dataset_without_one_usable_image_says_why(store, world):
    path = world / "annotations" / "instances.json"
    content = json.loads(path.read_text())
    content["licenses"] = [{"id": 1, "name": "Attribution-NoDerivs License", "url": ""}]
    for image in content["images"]:
        image["license"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(CocoError, match=r"not one case could be made of 24 images: 24 licence forbids derivatives"):
        execute(CollectCases(store, CollectConfig(), world))
    assert store.numbers("cases") == []


def test_garbled_entries_are_counted_and_harm_no_other(store, world):
    path = world / "annotations" / "instances.json"
    content = json.loads(path.read_text())
    annotations = content["annotations"]
    annotations[0]["area"] = "large"
    annotations[1]["category_id"] = {"id": 3}
    del annotations[2]["image_id"]
    annotations += ["cat", {"image_id": 999}]
    content["images"][3]["license"] = [1]
    path.write_text(json.dumps(content))
    left_out = execute(CollectCases(store, CollectConfig(), world)).version.manifest.statistics["left_out"]
    found = {reason: left_out.get(reason, 0) for reason in ("annotation of no image", "category unknown")}
    assert found == {"annotation of no image": 3, "category unknown": 1}
    assert left_out["licence unknown"] == 1
    assert left_out["no object annotated"] == 1


def test_an_empty_split_is_an_empty_table(store, world):
    config = CollectConfig(train_per_edit_type=1, bench_per_edit_type=0)
    version = execute(CollectCases(store, config, world)).version
    assert version.table("bench").num_rows == 0
    assert version.table("train").num_rows > 0


def test_what_is_missing_is_told_per_edit_type(store, world):
    version = execute(CollectCases(store, CollectConfig(train_per_edit_type=50), world)).version
    train = version.manifest.statistics["train"]
    assert all(train["per_edit_type"][edit_type] + missing == 50 for edit_type, missing in train["shortfall"].items())
    assert len(train["shortfall"]) == 8


def test_a_link_among_the_images_is_followed(store, world, tmp_path):
    """Large collections are often folders of links; a name with .. in it is another matter."""
    for path in list((world / "images").iterdir())[:5]:
        moved = path.rename(tmp_path / path.name)
        path.symlink_to(moved)
    version = execute(CollectCases(store, CollectConfig(), world)).version
    assert "image missing" not in version.manifest.statistics["left_out"]
    assert "file name leaves the folder" not in version.manifest.statistics["left_out"]
