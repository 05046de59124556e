"""What a rerun must not take over: each of these had gone wrong."""

import json
import shutil

import numpy as np
import pytest

from storage.records import Case
from storage.schemas import from_table
from storage.verify import verify
from tasks import rows
from tasks.build_realpref import BuildConfig
from tasks.collection.coco import decode_mask, encode_mask
from tasks.limits import Limit
from tasks.miniature.coco import write_coco
from tasks.rate_edits import RateConfig
from tasks.stage import RejectedError
from tests.tasks.stand_ins import CountingEditor, CountingJudge
from tests.tasks.test_reruns import COLLECT, Night, case_ids, files, worlds  # noqa: F401 - a fixture

FREE = {"rate": RateConfig(limits={}), "build": BuildConfig(limits={})}


def changed(folder, to, change):
    """A copy of a dataset with other annotations."""
    shutil.copytree(folder, to)
    path = to / "annotations" / "instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return to


def test_a_corrected_mask_is_edited_and_rated_again(store, worlds, tmp_path):  # noqa: F811
    """An editor that reads the mask had made something else of the old one."""
    first = Night(store, worlds[24], **FREE)
    image = next(iter(first.cases.parts("train", ["source_id"])))["source_id"][0].as_py()

    def smaller(content):
        (number,) = (entry["id"] for entry in content["images"] if entry["file_name"] == image)
        (annotation,) = (entry for entry in content["annotations"] if entry["image_id"] == number)
        mask = decode_mask(annotation["segmentation"])
        mask[np.flatnonzero(mask.any(1))[0]] = False
        annotation["segmentation"] = encode_mask(mask)

    second = Night(store, changed(worlds[24], tmp_path / "corrected", smaller), **FREE)
    of_image = {c.case_id for p in second.cases.parts("train") for c in from_table(p, Case) if c.source_id == image}
    assert of_image & case_ids(first), "the case is the same"
    assert set(second.editor.asked) == set(second.judge.asked) == of_image


def test_an_edit_that_comes_out_the_same_keeps_its_score_under_its_own_name(store, worlds):  # noqa: F811
    class Renamed(CountingEditor):
        fingerprint = "turns-colours-2"

    first = Night(store, worlds[24], **FREE)
    second = Night(store, worlds[24], editor=Renamed(), **FREE)
    assert second.cost() == (len(case_ids(first)), 0)
    assert second.realpref.manifest.num_rows() == len(case_ids(first))


@pytest.mark.parametrize("later", [24, 28])
def test_ratings_in_doubt_are_not_taken_over(store, worlds, later):  # noqa: F811
    """A judge that gave only fives was never asked again, and new cases made its fives acceptable."""
    with pytest.raises(RejectedError, match="full_share 1 is above"):
        Night(store, worlds[24], judge=CountingJudge(always=5.0))
    night = Night(store, worlds[later])
    assert len(night.judge.asked) == len(case_ids(night))
    assert store.resolve("scores").number == 2


def test_good_ratings_survive_a_night_in_doubt(store, worlds):  # noqa: F811
    Night(store, worlds[24])
    with pytest.raises(RejectedError, match="full_share"):
        Night(store, worlds[24], judge=CountingJudge(always=5.0), refresh=True)
    night = Night(store, worlds[24])
    assert night.cost() == (0, 0), "an accepted version has them"
    assert night.scores.manifest.statistics["per_edit_type"]["bokeh"]["full_share"] < 1


def test_collections_of_two_datasets_do_not_mix(store, worlds, tmp_path):  # noqa: F811
    other = write_coco(tmp_path, 6, 24)
    alone = Night(store, worlds[24], **FREE)
    Night(store, other, **FREE)
    again = Night(store, worlds[28], **FREE)
    assert case_ids(alone) < case_ids(again)
    assert set(files(alone.cases)["train"]) < set(files(again.cases)["train"])


def test_fewer_cases_are_fewer(store, worlds):  # noqa: F811
    Night(store, worlds[24], **FREE)
    second = Night(store, worlds[24], collect=COLLECT.model_copy(update={"train_per_edit_type": 4}), **FREE)
    assert len(case_ids(second)) == 32


def test_the_gate_compares_with_the_last_version_of_the_same_configuration(store, worlds):  # noqa: F811
    """A run with another one in between had made a rejected version acceptable."""
    strict = RateConfig(limits={"mean_score": Limit(may_change_by=0.5)})
    Night(store, worlds[24], rate=strict, build=BuildConfig(limits={}))
    with pytest.raises(RejectedError, match="mean_score went from"):
        Night(store, worlds[24], judge=CountingJudge(always=4.9), rate=strict, refresh=True)
    other = RateConfig(limits={}, scorer=strict.scorer.model_copy(update={"mode": "continuous"}))
    Night(store, worlds[24], rate=other, build=BuildConfig(limits={}))
    night = Night(store, worlds[24], rate=strict, build=BuildConfig(limits={}))
    assert night.scores.manifest.statistics["measures"]["mean_score"] < 4


def test_a_refresh_is_not_undone_by_the_journal_of_before(store, worlds, monkeypatch):  # noqa: F811
    monkeypatch.setattr(rows, "JOURNAL_SECONDS", 0.0)
    Night(store, worlds[24], judge=CountingJudge(always=1.0), **FREE)
    Night(store, worlds[24], judge=CountingJudge(always=4.0, dies_after=150), refresh=True, **FREE)
    last = Night(store, worlds[24], judge=CountingJudge(always=4.0), retry_failed=True, **FREE)
    assert set(last.scores.table("scores", ["score"])["score"].to_pylist()) == {4.0}
    assert store.walk("journal") == {}


def test_damage_in_an_old_version_stops_no_night(store, worlds):  # noqa: F811
    first = Night(store, worlds[24], **FREE)
    lost = first.scores.files("scores")[0]
    store.remove([f"files/{lost.sha256[:2]}/{lost.sha256}.parquet"])
    night = Night(store, worlds[28], judge=CountingJudge(always=2.0), refresh=True, **FREE)
    assert not verify([night.scores])
    third = Night(store, worlds[28], build=BuildConfig(limits={}, full_at=3.0), rate=FREE["rate"])
    assert third.realpref.manifest.num_rows() == len(case_ids(night))


def test_an_image_that_changed_under_the_same_size_is_a_counted_loss(store, worlds, tmp_path):  # noqa: F811
    folder = tmp_path / "changed"
    shutil.copytree(worlds[24], folder)
    few = COLLECT.model_copy(update={"train_per_edit_type": 4})
    Night(store, folder, collect=few, **FREE)
    path = sorted((folder / "images").iterdir())[3]
    path.write_bytes(bytes(path.stat().st_size))
    second = Night(store, folder, **FREE)
    assert second.cases.manifest.statistics["left_out"]["the image is not what it was when it was looked at"] > 0
