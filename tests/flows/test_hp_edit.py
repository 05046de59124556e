"""The whole chain through a real Prefect server, tiny: every stage, the report, and a second run that does nothing."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from prefect.client.orchestration import get_client
from prefect.exceptions import ParameterTypeError

from flows.collect_cases import Source, collect_cases
from flows.hp_edit import all_stages, hp_edit
from flows.hp_edit import main as hp_edit_command
from storage.__main__ import main as storage_command
from storage.lineage import ancestors
from storage.records import EditType
from storage.store import VersionNotFoundError
from tasks.build_realpref import BuildConfig
from tasks.collection.coco import CocoError
from tasks.hp_scorer.settings import MeasuredConfig
from tasks.plan import plan_lines
from tasks.prefect_stage import RunOptions
from tasks.report import write_report
from tasks.sizes import miniature
from training import config as training

pytestmark = pytest.mark.prefect
ROOT = Path(__file__).parents[2]
ARTIFACTS = [
    "cases",
    "edits",
    "triplets",
    "labels",
    "scorer",
    "scores",
    "realpref",
    "encodings",
    "adapter",
    "benchmark",
]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hp-edit")
    return RunOptions(store=str(folder / "store"), scratch=str(folder / "scratch"))


@pytest.fixture(scope="module")
def config():
    full = miniature(3)
    return full.model_copy(
        update={
            "collect": full.collect.model_copy(update={"train_per_edit_type": 2, "bench_per_edit_type": 2}),
            # So few edits may all be good: then nothing hard would be left to train on.
            "build": BuildConfig(drop_full=False),
            "train": full.train.model_copy(update={"grpo": replace(training.tiny(), seed=3)}),
        }
    )


@pytest.fixture(scope="module")
def refs(prefect_server, options, config):
    return hp_edit(Source(world=3, scenes=48), (), config, options)


def test_every_stage_makes_its_artifact(refs, options):
    assert list(refs) == ARTIFACTS
    assert not any(ref.reused for ref in refs.values())
    store = options.open_store()
    benchmark = store.version("benchmark", refs["benchmark"].version)
    assert {f"{v.artifact}" for v in ancestors(benchmark)} >= set(ARTIFACTS)
    assert benchmark.manifest.rows("samples") == 16
    assert set(benchmark.manifest.statistics["referee"]["per_edit_type"]) == set(EditType)


def test_nothing_changed_nothing_done(refs, options, config):
    again = hp_edit(Source(world=3, scenes=48), (), config, options)
    assert all(ref.reused for ref in again.values())
    assert {n: r.version for n, r in again.items()} == {n: r.version for n, r in refs.items()}


def test_one_stage_alone_on_another_version(refs, options):
    from flows.build_realpref import build_realpref

    built = build_realpref(f"scores@v{refs['scores'].version}", BuildConfig(), options)
    assert built.version == refs["realpref"].version + 1
    with pytest.raises(VersionNotFoundError, match="scores@v9"):
        build_realpref("scores@v9", BuildConfig(), options)


def test_train_and_bench_share_no_scene(refs, options):
    cases = options.open_store().version("cases", refs["cases"].version)
    train, bench = (set(cases.table(split)["source_id"].to_pylist()) for split in ("train", "bench"))
    assert train
    assert bench
    assert not train & bench


def test_the_pages_are_in_prefect(refs):
    with get_client(sync_client=True) as client:
        pages = client.request("POST", "/artifacts/latest/filter", json={}).json()
    by_key = {page["key"]: page for page in pages}
    assert set(ARTIFACTS) <= set(by_key)
    page = by_key["adapter"]["data"]
    assert "```mermaid" in page
    assert re.search(r"\[realpref@v1\]\(http://127\.0\.0\.1:\d+/v2/artifacts/key/realpref\)", page)
    assert re.search(r"\[build-realpref\]\(http://127\.0\.0\.1:\d+/v2/runs/flow-run/[0-9a-f-]{36}\)", page)
    assert "data:image/png;base64," in by_key["realpref"]["data"]


def test_the_report_stands_by_itself(refs, options, tmp_path):
    summary = write_report(
        options.open_store(), refs, tmp_path, seed=3, seconds=12.0, peak_memory_mb=900.0, ui_hint="make ui"
    )
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["referee"]["n"] == 16
    assert list(summary["versions"]) == ARTIFACTS
    assert set(summary["stages"]) == {
        "collect-cases",
        "edit-baseline",
        "pick-triplets",
        "collect-labels",
        "calibrate-scorer",
        "rate-edits",
        "build-realpref",
        "encode-cases",
        "post-train",
        "benchmark",
    }
    samples = pq.read_table(summary["samples"]).to_pylist()
    gains = [row["post_trained_referee"] - row["baseline_referee"] for row in samples]
    assert sum(gains) / 16 == pytest.approx(summary["referee"]["gain"], abs=1e-3)
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page), "the report must open without a network"
    assert "make ui" in page
    assert "simulated" in (tmp_path / "calibration.html").read_text().lower()


@pytest.fixture
def folder_of_project(options, monkeypatch, tmp_path):
    """As a user has it after `make run`: the store below runs/, and the shell in the folder above."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "store").symlink_to(options.store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def test_the_way_back_to_the_data_in_the_docs_works(refs, folder_of_project):
    """The Python block of docs/stages.md, run as it stands there."""
    text = (ROOT / "docs" / "stages.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    names: dict = {}
    exec(block, names)
    row = names["rows"][0]
    assert row["source"].size == (64, 64)
    assert row["edited"].size == (64, 64)


def test_the_commands_in_the_docs_work(refs, folder_of_project, capsys):
    """Every `python -m storage` of docs/storage.md, in order, on the versions of this run."""
    text = (ROOT / "docs" / "storage.md").read_text()
    commands = re.findall(r"^python -m storage ([^#\n]*)", text, flags=re.M)
    assert len(commands) >= 10
    for command in commands:
        assert storage_command(shlex.split(command)) == 0, command
    assert "└─ cases@v1" in capsys.readouterr().out
    assert load_dataset("runs/export/realpref", split="train")[0]["edited"].size == (64, 64)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebooks_run(refs, folder_of_project, path):
    """Every cell, in order, on the versions of this run."""
    names: dict = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "committed without outputs"
            exec("".join(cell["source"]), names)
    assert len(names["rows"]) == 16


def test_a_misspelt_key_is_named(prefect_server, options):
    with pytest.raises(ParameterTypeError, match="bench_per_edit_typ: Extra inputs"):
        collect_cases(Source(scenes=8), {"bench_per_edit_typ": 3}, options)


def test_a_folder_without_annotations_is_a_clear_error(prefect_server, options, tmp_path):
    with pytest.raises(CocoError, match=r"instances\.json does not exist"):
        collect_cases(Source(folder=str(tmp_path)), options=options)


def plan_of(config, options, ratings=()):
    return list(plan_lines(options.open_store(), all_stages(Source(world=3, scenes=48), ratings, config, options)))


def test_a_dry_run_tells_what_a_run_with_a_judge_of_the_benchmarks_own_does(refs, options, config):
    """The calibration of each judge goes where the flow takes it: the benchmark's refuses that of the reward's."""
    judge = MeasuredConfig()
    evaluate = config.calibrate.model_copy(update={"scorer": judge})
    benchmark = config.benchmark.model_copy(update={"scorer": judge})
    two = config.model_copy(update={"evaluate": evaluate, "benchmark": benchmark})
    store = options.open_store()
    stages = [line for line in plan_of(two, options) if not line.startswith(" ")]
    assert stages[4].startswith("calibrate-scorer (evaluation): would run")
    stand = {"scorer": "calibrate-scorer", "scores": "rate-edits", "adapter": "post-train"}
    assert {f"{stage}: stands, {refs[name]}" for name, stage in stand.items()} <= set(stages)
    assert stages[-1] == "1 later stage: depends on what calibrate-scorer (evaluation) makes"

    ran = hp_edit(Source(world=3, scenes=48), (), two, options)
    assert [name for name, ref in ran.items() if not ref.reused] == ["benchmark"]
    made = store.version("benchmark", ran["benchmark"].version)
    by = made.manifest.parents["scorer"].version
    assert by == store.numbers("scorer")[-1] > ran["scorer"].version
    stages = plan_of(two, options)
    assert f"calibrate-scorer (evaluation): stands, scorer@v{by}" in stages
    stands = [line.rpartition(" ")[2] for line in stages if "(evaluation)" not in line]
    assert stands == [str(ref) for ref in ran.values()]
    assert store.resolve("scorer@latest").number == ran["scorer"].version, "the judge that filters and rewards"

    again = two.model_copy(update={"evaluate": evaluate.model_copy(update={"held_out_share": 0.5})})
    reasons = [line.strip() for line in plan_of(again, options) if "because" in line]
    assert reasons == [f"because config held_out_share: 0.4 -> 0.5 (since scorer@v{by})"]


@pytest.fixture
def for_people(config, options, monkeypatch):
    """The command of the paper's size, on the tiny run, with people who are to rate."""
    people = config.model_copy(update={"label": config.label.model_copy(update={"raters": "people"})})
    monkeypatch.setattr("flows.hp_edit.paper", lambda seed, processes: people)
    monkeypatch.setattr("flows.hp_edit.estimate_lines", lambda config, costs: iter(["the estimate"]))
    folder = str(Source(world=3, scenes=48).prepare(options.scratch))
    monkeypatch.setenv("HP_EDIT_SCRATCH", options.scratch)
    return ["hp_edit", "--size", "paper", "--photographs", folder, "--store", options.store]


@pytest.mark.parametrize("only_tell", [False, True], ids=["run", "dry run"])
def test_where_people_have_still_to_rate_it_says_how(refs, options, for_people, monkeypatch, capsys, only_tell):
    monkeypatch.setattr("sys.argv", for_people + ["--dry-run"] * only_tell)
    before = options.open_store().numbers("labels")
    with pytest.raises(SystemExit) as stopped:
        hp_edit_command()
    told = str(stopped.value)
    triplets = refs["triplets"]
    rating = f"python -m tasks.rating {triplets} --ratings runs/ratings.jsonl --store {options.store}"
    assert told.startswith(f"stopped: {triplets} are for people to rate: `{rating}`")
    assert "run this again with `--ratings runs/ratings.jsonl`" in told
    assert options.open_store().numbers("labels") == before
    if only_tell:
        assert capsys.readouterr().out.splitlines() == [
            "the estimate",
            f"collect-cases: stands, {refs['cases']}",
            f"edit-baseline: stands, {refs['edits']}",
            f"pick-triplets: stands, {triplets}",
        ]


@pytest.mark.parametrize(
    ("options_told", "said"),
    [
        ("--size paper", "--size paper takes --photographs FOLDER"),
        ("--size paper --dry-run --processes 5", "groups 32: must be a multiple of updates_per_rollout x"),
        ("--size paper --dry-run --attained 2", "attained: Input should be less than or equal to 1"),
        ("--size paper --photographs nowhere", "argument --photographs: nowhere/annotations/instances.json: no such"),
        ("--ratings nothing.jsonl", "argument --ratings: nothing.jsonl: no such file"),
        ("--processes 4", "--processes is of --size paper"),
    ],
)
def test_a_mistaken_command_is_told_before_anything_runs(options_told, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hp_edit", *options_told.split()])
    with pytest.raises(SystemExit) as stopped:
        hp_edit_command()
    assert stopped.value.code == 2
    assert f"error: {said}" in capsys.readouterr().err
