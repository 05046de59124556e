"""Every command, as somebody types it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from storage.__main__ import main
from storage.files import path_of
from storage.store import Store
from tests.storage.samples import commit_cases, commit_child, files_in, manifest_of, place_on_s3

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(store, capsys):
    """Runs a command; gives its exit status, and what it printed."""

    def run(*words):
        status = main(["--store", store.root, *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def family(store):
    cases = commit_cases(store, "train")
    edits = store.commit(
        manifest_of(store, artifact="edits", stage="edit", parents={"cases": cases.as_parent()}),
        flow_run_id="00000000-0000-0000-0000-000000000001",
        seconds=1.5,
        done=1,
    )
    return {"cases": cases, "edits": edits}


def test_list_shows_versions_with_their_tags(run, store, family):
    rejected = store.commit(manifest_of(store, "bad"), latest=False)
    store.tag(rejected, "rejected", ["too few rows"])
    store.tag(family["cases"], "good")
    status, out, _ = run("list")
    rows = [line.split() for line in out.splitlines()]
    assert status == 0
    assert rows[0] == ["version", "rows", "MB", "made", "at", "stage", "tags"]
    assert [(row[0], row[1], row[4:]) for row in rows[1:]] == [
        ("cases@v1", "2", ["collect", "good", "latest"]),
        ("cases@v2", "2", ["collect", "rejected"]),
        ("edits@v1", "2", ["edit", "latest"]),
    ]
    status, out, _ = run("list", "edits")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["version", "edits@v1"]


def test_show_tells_of_one_version(run, store, family, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.delenv("PREFECT_UI_URL", raising=False)
    store.tag(family["edits"], "rejected", ["mean 1 below 2"])
    status, out, _ = run("show", "edits@v1")
    assert status == 0
    assert f"edits@v1  manifest {family['edits'].ref.manifest}" in out
    assert "made by edit (code 1)" in out
    assert "1.5 s, 1 items worked on, the others taken over" in out
    assert "http://127.0.0.1:4200/v2/runs/flow-run/00000000-0000-0000-0000-000000000001" in out
    assert "from cases: cases@v1" in out
    assert "table t: 2 rows, 1 files" in out
    assert "rejected" not in out, "it was accepted by whoever moved latest"
    assert '"cases": 2' in run("show", "cases")[1]


def test_show_says_why_a_version_was_rejected(run, store):
    store.tag(store.commit(manifest_of(store), latest=False), "rejected", ["too few rows", "mean too low"])
    assert "rejected: too few rows; mean too low" in run("show", "cases@v1")[1]


def test_tree_goes_up_and_down(run, family):
    assert [line.split()[0] for line in run("tree", "edits")[1].splitlines()] == ["edits@v1", "└─"]
    assert run("tree", "edits", "--up") == run("tree", "edits@latest")
    assert "└─ edits@v1" in run("tree", "cases@v1", "--down")[1]


def test_diff_tells_rows(run, store, family):
    commit_child(store, "edits", family["cases"], rows=(1, 2, 3))
    status, out, _ = run("diff", "edits@v1", "edits@v2")
    assert status == 0
    assert "t: 1 added (row 3); 2 the same" in out


def test_tag_gives_a_name_and_latest_accepts_a_rejected_version(run, store, family):
    assert run("tag", "cases@v1", "good", "--reason", "looked at it")[:2] == (0, "cases@good is cases@v1\n")
    assert store.tags("cases")["good"].reasons == ("looked at it",)
    store.tag(store.commit(manifest_of(store, "bad"), latest=False), "rejected")
    assert run("tag", "cases@v2", "latest")[0] == 0
    assert store.resolve("cases").number == 2
    assert store.rejections("cases") == {}
    for name, why in (("v7", "such names mean versions already"), ("../x", "use up to 64")):
        status, _, err = run("tag", "cases@v2", name)
        assert (status, why in err) == (2, True)


def test_verify_ends_with_1_where_something_is_damaged(run, store, family):
    assert run("verify")[:2] == (0, "2 versions, 0 damages\n")
    path = path_of(family["cases"].manifest.tables["train"][1])
    store.put(path, store.read(path)[:-1] + b"?")
    assert run("verify", "--quick")[:2] == (0, "2 versions, 0 damages\n")
    assert run("verify", "edits")[:2] == (0, "1 versions, 0 damages\n")
    for words in (["verify"], ["verify", "cases"], ["verify", "cases@v1"]):
        status, out, _ = run(*words)
        assert status == 1
        assert out.startswith(f"cases@v1: {path}: ")
    store.remove([path])
    assert run("verify", "--quick")[0] == 1


def test_gc_removes_only_when_told_to(run, store, family):
    for night in range(3):
        commit_child(store, "cases", rows=(night,))
    before = files_in(store)
    words = ["gc", "--keep-newest", "1", "--grace-hours", "0"]
    status, out, _ = run(*words)
    assert status == 0
    assert out.splitlines()[-1] == "nothing was removed: say --delete"
    assert {"version cases@v2", "version cases@v3"} <= {*out.splitlines()}
    assert files_in(store) == before
    assert run("gc", "--keep-newest", "1")[1].startswith("0 files"), "all are young"
    status, out, _ = run(*words, "--delete")
    assert (status, out.splitlines()[-1]) == (0, "removed")
    assert store.numbers("cases") == [1, 4], "the edits' cases, and the newest"
    assert run("verify")[0] == 0


def test_export_writes_a_folder_and_says_where_its_card_is(run, family, tmp_path):
    status, out, _ = run("export", "cases", str(tmp_path / "folder"))
    assert (status, out) == (0, f"{tmp_path}/folder/README.md\n")
    assert "HP-Edit cases@v1" in (tmp_path / "folder" / "README.md").read_text()
    status, _, err = run("export", "cases", str(tmp_path / "folder"))
    assert (status, "is not empty" in err) == (2, True)


def test_compact_makes_fewer_files(run, store, family):
    status, out, _ = run("compact", "cases")
    assert (status, out) == (0, "cases@v1: 3 files\ncases@v2: 1 files\n")
    for words, why in (
        (["compact", "edits"], "compact those, then run the stages"),
        (["compact", "cases", "--rows-per-file", "0"], "files of 0 rows"),
    ):
        status, _, err = run(*words)
        assert (status, why in err) == (2, True)


def test_doctor_says_that_the_disk_is_fine(run, store, family):
    before = files_in(store)
    status, out, _ = run("doctor")
    assert status == 0
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}
    assert files_in(store) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["show", "cases@v7"], "cases@v7: .* has v1 to v1 of it"),
        (["show", "caes"], "caes@latest: .* no version of it; run the stage that makes it first"),
        (["list", "caes"], "caes@latest: .* no version of it"),
        (["verify", "caes"], "caes@latest: .* no version of it"),
        (["verify", "cases@good"], "cases@good: .* has v1 to v1 of it"),
        (["tree", "cases@"], "is not of the form"),
        (["diff", "cases@v1", "cases@v2"], "cases@v2"),
        (["tag", "edits@v9", "good"], "edits@v9"),
        (["export", "../cases", "x"], "use up to 64"),
        (["compact", "nobody"], "nobody@latest"),
        (["gc", "--keep-newest", "0"], "keep_newest"),
        (["gc", "--grace-hours", "-1"], "grace_hours"),
    ],
)
def test_a_mistake_ends_with_2_and_says_what_is_wrong(run, family, words, why):
    status, out, err = run(*words)
    assert status == 2
    assert err.startswith("error: ")
    assert re.search(why, err)
    assert "Traceback" not in out + err


def test_a_damaged_ref_is_named(run, store, family):
    store.put("versions/cases/000001.json", b"")
    status, _, err = run("show", "cases@v1")
    assert (status, "versions/cases/000001.json is no Ref" in err) == (2, True)


def test_an_empty_store_is_no_mistake(run):
    assert [run(*words)[0] for words in (["list"], ["verify"], ["gc"])] == [0, 0, 0]


@pytest.mark.parametrize("words", [[], ["unheard-of"], ["show"], ["tree", "cases", "--up", "--down"]])
def test_a_line_that_makes_no_sense_is_explained(capsys, words):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "usage: python -m storage" in capsys.readouterr().err


def test_it_runs_by_itself_on_s3_with_credentials_from_the_environment(s3, tmp_path):
    url = place_on_s3()
    commit_child(Store(url, **s3.options), "cases")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= s3.environment | {"HP_EDIT_STORE": url, "PYTHONPATH": str(ROOT)}

    def run(*words, **changes):
        command = [sys.executable, "-m", "storage", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment | changes)

    done = run("show", "cases")
    assert done.returncode == 0, done.stderr
    assert "table t: 2 rows" in done.stdout
    wrong = run("show", "cases", AWS_SECRET_ACCESS_KEY="of-nobody")
    assert wrong.returncode == 2
    assert f"in {url}: " in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert not any(secret in wrong.stderr + done.stdout for secret in (s3.key, s3.secret, "of-nobody"))


def test_the_name_of_a_block_is_not_taken_for_a_folder(capsys):
    """It showed an empty store, as if there were no version at all."""
    assert main(["--store", "remote-file-system/lake", "list"]) == 2
    assert "is a Prefect block" in capsys.readouterr().err
