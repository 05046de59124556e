"""What is exported opens without this project, and says where it comes from."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from storage.export import ADAPTER_FILE, export, paths_of
from storage.files import path_of
from storage.manifest import DataFile, sha256_of
from storage.schemas import CASES, to_table
from tests.storage.samples import case, commit_cases, commit_child, manifest_of, png


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "exported" / "cases"


def header_of(card):
    _, header, text = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), text


def load(folder, name=None, split="train"):
    return datasets.load_dataset(str(folder), name, split=split, cache_dir=str(folder.parent / "cache"))


def test_the_hubs_library_opens_it_and_sees_images(any_store, folder):
    told = []
    version = commit_cases(any_store, "train", "bench")
    export(version, folder, told.append)
    train = load(folder)
    assert train["case_id"] == ["case-0", "case-1"]
    assert [image.size for image in train["source"]] == [(6, 4), (6, 4)]
    assert train[1]["source"].getpixel((0, 0)) == (1, 1, 1)
    assert load(folder, "bench")["case_id"] == ["case-2", "case-3"]
    assert sorted(told) == sorted(f.size for files in version.manifest.tables.values() for f in files if f.rows)


def test_splits_have_the_names_that_others_know(store, folder):
    version = commit_cases(store, "validation", "test")
    export(version, folder)
    assert load(folder, "test", split="test").num_rows == load(folder, split="test").num_rows == 2, (
        "the first is default"
    )
    assert load(folder, "validation", split="validation")["case_id"] == ["case-0", "case-1"]


def test_it_is_the_same_data_in_files_without_empty_ones(store, folder):
    version = commit_cases(store, "train")
    export(version, folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "data/train/train-00000-of-00002.parquet",
        "data/train/train-00001-of-00002.parquet",
        "manifest.json",
    ]
    assert [sha256_of((folder / path).read_bytes()) for path in files[1:3]] == [
        file.sha256 for file in version.manifest.tables["train"][1:]
    ]
    assert sha256_of((folder / "manifest.json").read_bytes()) == version.ref.manifest


def test_the_card_says_what_it_is_and_where_it_comes_from(store, folder):
    cases = commit_cases(store, "train", "bench")
    edits = commit_child(store, "edits", cases, config={"editor": {"kind": "miniature"}}, statistics={"edited": 2})
    header, text = header_of(export(edits, folder))
    assert header["pretty_name"] == "HP-Edit edits@v1"
    assert header["task_categories"] == ["image-to-image"]
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"] == [
        {"config_name": "t", "data_files": [{"split": "train", "path": "data/t/*.parquet"}], "default": True}
    ]
    assert "license" not in header, "this table does not tell"
    assert f"manifest `{edits.ref.manifest}`" in text
    assert "└─ cases@v1  collect, 4 rows" in text
    statistics, configs = (json.loads(part.split("```")[0]) for part in text.split("```json\n")[1:])
    assert statistics == {"edited": 2}
    assert configs == {
        "cases@v1": {"stage": "collect", "config": {"seed": 1}},
        "edits@v1": {"stage": "make-edits", "config": {"editor": {"kind": "miniature"}}},
    }


def test_the_configuration_of_each_version_of_a_stage_is_told(store, folder):
    """They were told by stage once, and the first round's hid the second's."""
    first = commit_child(store, "edits", config={"round": 1})
    second = store.commit(
        manifest_of(
            store, artifact="edits", stage="make-edits", config={"round": 2}, parents={"edits": first.as_parent()}
        )
    )
    _, text = header_of(export(second, folder))
    assert '"round": 1' in text
    assert '"round": 2' in text


def test_licences_are_counted_behind_an_empty_file_too(store, folder):
    version = commit_cases(store, "train", "bench", licence="CC0")
    header, text = header_of(export(version, folder))
    assert (header["license"], header["license_name"]) == ("other", "per-image")
    assert "| `CC BY 2.0 https://example.org/by` | 2 |" in text
    assert "| `CC0 https://example.org/by` | 2 |" in text


def test_text_of_strangers_does_no_harm(store, folder):
    """Licences and statistics come from annotations that anybody may have written."""
    evil = "CC|BY` <script>alert(1)</script>\n---\n![x](https://spy.example/x.png) \\| 999 |"
    cases = [case(0, licence=evil, licence_url=""), case(1, licence="", licence_url="")]
    tables = {"train": (store.add_table(to_table(cases, CASES)),)}
    statistics = {"per_category": {"```\n# <script>": 1, "---": 2}}
    header, text = header_of(export(store.commit(manifest_of(store, tables=tables, statistics=statistics)), folder))
    assert header["pretty_name"] == "HP-Edit cases@v1"
    (row,) = [line for line in text.splitlines() if "spy.example" in line]
    assert row == "| `CC BY <script>alert(1)</script> --- ![x](https://spy.example/x.png) 999` | 1 |", (
        "code, in its cell"
    )
    assert "| `none` | 1 |" in text
    assert not any(line.strip().startswith(("<script", "# <")) for line in text.splitlines())
    fences = [line for line in text.splitlines() if line.startswith("```")]
    assert fences == ["```", "```", "```json", "```", "```json", "```"]


@pytest.mark.parametrize("name", ["no", "null", "1.0", "1e3", "2026-01-01", "true", "y"])
def test_table_names_that_yaml_takes_for_something_else_stay_names(store, folder, name):
    header, _ = header_of(
        export(store.commit(manifest_of(store, tables={name: (store.add_table(pa.table({"x": [1]})),)})), folder)
    )
    assert header["configs"][0]["config_name"] == name
    assert load(folder, name)["x"] == [1]


def test_an_adapter_lies_where_diffusers_looks_for_it(store, folder):
    tables = {
        "weights": (store.add_file(b"weights", ".safetensors"),),
        "gate": (store.add_table(pa.table({"iteration": [1, 2]})),),
        "curves": (store.add_table(pa.table({"iteration": [1], "reward": [0.5]})),),
        "notes": (store.add_file(b"{}", ".json"),),
        "empty": (store.add_table(pa.table({"iteration": pa.array([], pa.int64())})),),
    }
    version = store.commit(manifest_of(store, artifact="adapter", tables=tables))
    header, text = header_of(export(version, folder))
    assert (folder / ADAPTER_FILE).read_bytes() == b"weights"
    assert (folder / "notes.json").read_bytes() == b"{}"
    assert header["library_name"] == "diffusers"
    assert [config["config_name"] for config in header["configs"]] == ["curves", "gate"]
    assert "| weights | 0 | 1 | 0.00 |" in text
    assert load(folder)["reward"] == [0.5]
    assert load(folder, "gate")["iteration"] == [1, 2]


def test_a_version_without_rows_is_exported(store, folder):
    version = store.commit(manifest_of(store, tables={"t": (store.add_table(pa.table({"x": []})),), "u": ()}))
    header, _ = header_of(export(version, folder))
    assert "configs" not in header
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "manifest.json"]


def test_a_folder_with_something_in_it_is_left_alone(store, folder):
    version = commit_cases(store, "train")
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not empty: name a new folder"):
        export(version, folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    with pytest.raises(OSError, match=r"mine\.txt"):
        export(version, folder / "mine.txt")


def test_a_damaged_file_leaves_no_card_that_says_all_is_well(store, folder):
    version = commit_cases(store, "train")
    store.put(path_of(version.manifest.tables["train"][2]), png())
    with pytest.raises(OSError, match="damaged"):
        export(version, folder)
    assert not (folder / "README.md").exists()


def test_two_files_never_get_one_name():
    files = [DataFile(sha256=sha256_of(data), suffix=".bin", size=1) for data in (b"1", b"2")]
    with pytest.raises(ValueError, match="several files of one kind"):
        paths_of("weights", files)
    with pytest.raises(ValueError, match=r"name '\.\./x'"):
        paths_of("../x", files[:1])


def test_other_readers_open_the_files(store, folder):
    export(commit_cases(store, "train"), folder)
    assert pq.read_table(folder / "data" / "train").column("case_id").to_pylist() == ["case-0", "case-1"]
