"""The stage edit-baseline with editors that are elsewhere: what is kept, what is asked for again, what the docs say."""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from perf.editor_server import darken, editor_server
from perf.loopback import error
from storage.__main__ import main as storage_command
from storage.store import Store
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditBaseline, EditConfig
from tasks.editing.interface import EditorError
from tasks.editing.settings import ClassicalEditorConfig, FolderEditorConfig, RemoteEditorConfig, editor_argument
from tasks.images import decode
from tasks.miniature.coco import write_coco
from tasks.stage import RejectedError, execute

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "editors.md").read_text()
COLLECT = CollectConfig(train_per_edit_type=2, bench_per_edit_type=1, cases_per_image=8)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("world"), 5, 12)


@pytest.fixture
def cases(store, world):
    return execute(CollectCases(store, COLLECT, world)).version


def remote(url, **settings):
    return EditConfig(editor=RemoteEditorConfig(base_url=url, model="scripted", **({"tries": 2} | settings)))


def edits_of(cases, config, **options):
    return execute(EditBaseline(cases.store, config, cases), **options)


def test_edits_of_a_server_are_rows_and_the_manifest_tells_no_address(cases):
    with editor_server() as (url, server):
        run = edits_of(cases, remote(url))
        assert edits_of(cases, remote(url)).reused
    rows = run.version.table("edits").to_pylist()
    assert server.books.requests == len(rows) == cases.manifest.rows("train") > 8
    sources = {row["case_id"]: row["source"]["bytes"] for row in cases.table("train").to_pylist()}
    for row in rows:
        assert abs(decode(row["edited"]["bytes"])[1:].mean() - decode(sources[row["case_id"]])[1:].mean() / 2) < 1
    manifest = run.version.manifest
    assert manifest.config["editor"]["kind"] == "remote"
    assert url not in manifest.model_dump_json()
    assert manifest.fingerprints["editor"] == rows[0]["editor"]


def test_failures_are_rows_that_are_counted_and_asked_for_again(cases):
    asked = Counter()
    blocked = {row["instruction"] for row in cases.table("train").to_pylist() if row["edit_type"] == "object_removal"}

    def script(request):
        asked[request.name] += 1
        if request.fields["prompt"] in blocked:
            return error(400, "content_policy_violation")
        return darken(request)

    with editor_server(script) as (url, _):
        first = edits_of(cases, remote(url)).version
        counts = first.manifest.statistics["counts"]
        assert counts["failed: filtered"] == 2
        assert sum(counts.values()) == cases.manifest.rows("train")
        again = edits_of(cases, remote(url), retry_failed=True).version
    assert Counter(asked.values()) == {1: counts["edited"], 2: 2}, "only what had failed"
    assert again.table("edits").equals(first.table("edits"))


def test_a_run_that_stops_loses_nothing_that_came(cases):
    """The money is gone: what was paid for is in the journal, and the next run asks for the rest alone."""
    total = cases.manifest.rows("train")
    with editor_server(latency_seconds=0.01) as (url, server):
        with pytest.raises(EditorError, match="spent on 5 pictures"):
            edits_of(cases, remote(url, price=1.0, spend_at_most=5, concurrency=2))
        assert cases.store.latest("edits") is None
        assert server.books.requests == 5
        edits_of(cases, remote(url, price=1.0, spend_at_most=100))
    assert server.books.requests == total
    assert set(server.books.delivered.values()) == {1}


def test_what_it_will_cost_is_told_before(cases):
    lines = []
    with editor_server() as (url, _):
        edits_of(cases, remote(url, price=0.04), tell=lines.append)
        edits_of(cases, remote(url, revision="2"), tell=lines.append)
    edits_of(cases, EditConfig(editor=ClassicalEditorConfig()), tell=lines.append)
    total = cases.manifest.rows("train")
    assert lines == [
        f"at most {total} pictures asked of scripted; at most ${total * 0.04:.2f}",
        f"at most {total} pictures asked of scripted; price unknown (set editor.price)",
    ]


# --- docs/editors.md -------------------------------------------------------------------------------------------------


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCS, flags=re.S)


def words_of(command):
    """The words of the one command in the docs that begins like this."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    (line,) = (line for line in lines if command in line)
    return shlex.split(line, comments=True)


def test_every_editor_in_the_docs_is_one():
    for text in blocks("json"):
        assert editor_argument(text).kind in ("model", "remote")
    for text in re.findall(r"--editor '(.*?)'", DOCS):
        assert editor_argument(text)


def test_the_round_trip_in_the_docs(cases, tmp_path, monkeypatch):
    """Export, edit elsewhere, take back: the commands as they stand there, but for the server around the flow."""
    monkeypatch.chdir(tmp_path)
    python, dash_m, module, *words = words_of("python -m storage export")
    assert (python, dash_m, module) == ("python", "-m", "storage")
    assert storage_command(["--store", cases.store.url, *words]) == 0
    (script,) = blocks("python")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment, capture_output=True)
    command = words_of('"folder": "runs/edited"')
    config = EditConfig(editor=editor_argument(command[command.index("--editor") + 1]))
    first = edits_of(cases, config)
    assert first.version.manifest.statistics["counts"] == {"edited": cases.manifest.rows("train")}
    for row in first.version.table("edits").to_pylist():
        pixels = decode(row["edited"]["bytes"])
        assert (pixels[..., 0] == pixels[..., 1]).all()
        assert (pixels[..., 0] == pixels[..., 2]).all()
    assert str(tmp_path) not in first.version.manifest.model_dump_json()
    assert edits_of(cases, config).reused
    gone = next((tmp_path / "runs" / "edited").iterdir())
    gone.unlink()
    second = edits_of(cases, config).version
    assert second.manifest.statistics["counts"]["failed: missing"] == 1
    assert Store(cases.store.url).resolve("edits@latest").number == 2


def test_a_folder_of_nothing_stops_before_anything_is_done(cases, tmp_path):
    config = EditConfig(editor=FolderEditorConfig(folder=str(tmp_path)))
    with pytest.raises(ValueError, match="no picture here"):
        edits_of(cases, config)
    assert cases.store.latest("edits") is None


def test_where_most_edits_fail_latest_stays(cases, tmp_path):
    """A folder with another data set's pictures: all rows have their reasons, and nothing is built on them."""
    good = edits_of(cases, EditConfig()).version
    (tmp_path / "0123456789abcdef.png").write_bytes(cases.table("train").to_pylist()[0]["source"]["bytes"])
    nothing = EditConfig(editor=FolderEditorConfig(folder=str(tmp_path)))
    with pytest.raises(RejectedError, match=r"coverage 0 is below 0\.5"):
        edits_of(cases, nothing)
    assert cases.store.latest("edits") == good
