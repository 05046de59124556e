"""Two workers of one pool on one store, on a folder and on S3; and a store whose credentials are in a Prefect block."""

import io
import json
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.workers.process import ProcessWorker

from perf.s3_server import BUCKET
from storage.lineage import ancestors
from storage.store import FOLDERS, Store
from storage.verify import verify
from tasks.local_server import local_server
from tests.flows.prefect_worker import worker

pytestmark = [pytest.mark.prefect, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
POOL = "two"
ARTIFACTS = ["cases", "edits", "scores", "realpref"]
IN_A_BLOCK = """
import json, sys
from prefect.filesystems import RemoteFileSystem
from flows.nightly_rebuild import DataConfig, RunOptions, Source, nightly_rebuild
night, settings = json.loads(sys.argv[1]), json.loads(sys.stdin.read())
for name, more in (("lake", ""), ("wrong", "-mistyped")):
    RemoteFileSystem(basepath=sys.argv[2], settings=settings | {"secret": settings["secret"] + more}).save(name)
def run(name, **workers):
    options = RunOptions(store=f"remote-file-system/{name}", scratch=sys.argv[3], workers=workers)
    return nightly_rebuild(Source(**night["source"]), "", DataConfig(**night["config"]), options)
try:
    run("wrong")
except OSError:
    print("refused")
print(*run("lake", **{"rate-edits": {"engine": "processes"}}).values())
"""


def night(seed, cases=2):
    """Parameters of a tiny rebuild."""
    return {
        "source": {"world": seed, "scenes": 40},
        "config": {
            "collect": {"train_per_edit_type": cases, "bench_per_edit_type": 1, "seed": seed},
            "edit": {"seed": seed},
            "rate": {},
            "build": {"drop_full": False},
        },
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of a server of its own."""
    with local_server(tmp_path_factory.mktemp("workers") / "prefect") as environment:
        yield {name: value for name, value in environment.items() if not name.startswith("AWS_")}


@pytest.fixture(scope="module")
def client(environment):
    with SyncPrefectClient(environment["PREFECT_API_URL"]) as client:
        yield client


@pytest.fixture(scope="module")
def deployments(client):
    """Two of the data side, for one pool."""
    template = ProcessWorker.get_default_base_job_template()
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    flow = client.create_flow_from_name("nightly-rebuild")
    here = {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
    entrypoint = "flows.nightly_rebuild.nightly_rebuild"
    return [
        client.create_deployment(flow, name, entrypoint=entrypoint, work_pool_name=POOL, pull_steps=[here])
        for name in ("one", "two")
    ]


@pytest.mark.parametrize("place", ["file", "s3"])
def test_two_workers_on_one_store_lose_nothing(place, request, environment, client, deployments, tmp_path):
    """Three rebuilds at once: two of the same work, which must come to the same, and one of other work."""
    if place == "s3":
        server = request.getfixturevalue("s3")
        url, secrets = f"s3://{BUCKET}/{uuid.uuid4().hex}", server.environment
        store = Store(url, **server.options)
    else:
        url, secrets = str(tmp_path / "store"), {}
        store = Store(url)
    environment = environment | secrets | {"HP_EDIT_STORE": url, "HP_EDIT_SCRATCH": str(tmp_path / "scratch")}
    environment |= {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_PREFETCH_SECONDS": "1"}
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    with ExitStack() as stack:
        for log in logs:
            stack.enter_context(worker(environment, POOL, log, "--name", log.stem, "--limit", "2"))
        deadline = time.monotonic() + 60
        while len(client.read_workers_for_work_pool(POOL)) < 2:
            assert time.monotonic() < deadline, "the workers did not start"
            time.sleep(0.5)
        one, two = deployments
        works = [(one, night(1)), (two, night(1)), (two, night(2))]
        runs = [client.create_flow_run_from_deployment(which, parameters=parameters) for which, parameters in works]
        while not all(client.read_flow_run(run.id).state.is_final() for run in runs):
            assert time.monotonic() < deadline + 300, "the runs did not end"
            time.sleep(1)
    ended = [client.read_flow_run(run.id) for run in runs]
    told = "".join(log.read_text() for log in logs)
    assert [run.state.name for run in ended] == ["Completed"] * 3, told
    assert max(run.start_time for run in ended) < min(run.end_time for run in ended), "they did not run at once"
    assert all(any(str(run.id) in log.read_text() for run in runs) for log in logs), "one worker did all"
    versions = [version for name in ARTIFACTS for version in store.versions(name)]
    assert verify(versions) == []
    for seed, least in ((1, 1), (2, 1)):
        for name in ARTIFACTS:
            made = [v.manifest.tables for v in versions if v.artifact == name and seed_of(v) == seed]
            assert len(made) >= least, f"{name} of world {seed} is lost"
            assert all(tables == made[0] for tables in made), f"{name} of world {seed}: the same work, other files"
    assert {seed_of(store.resolve(name)) for name in ARTIFACTS} <= {1, 2}


def seed_of(version):
    """Of the work that a version comes from."""
    (cases,) = (one for one in ancestors(version) if one.artifact == "cases")
    return cases.manifest.config["seed"]


def everything_in(store):
    """All that a store holds, as text: tables row by row, since Parquet compresses, and other files as they are."""
    for path in [path for folder in FOLDERS for path in store.walk(folder)]:
        data = store.read(path)
        if path.endswith(".parquet"):
            yield path, str(pq.read_table(io.BytesIO(data)).to_pylist())
        yield path, data.decode(errors="replace")


def test_credentials_in_a_block_open_a_store_and_show_nowhere(environment, client, s3, tmp_path):
    """Also not where opening it fails, nor in another process that shards are worked on in."""
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    ran = subprocess.run(
        [sys.executable, "-c", IN_A_BLOCK, json.dumps(night(1, cases=1)), url, str(tmp_path)],
        input=json.dumps(s3.options),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.splitlines() == ["refused", "cases@v1 edits@v1 scores@v1 realpref@v1"], ran.stderr
    store = Store(url, **s3.options)
    assert verify(version for name in ARTIFACTS for version in store.versions(name)) == []
    shown = {"output": ran.stdout + ran.stderr} | dict(everything_in(store))
    for kind in ("logs", "artifacts", "events", "flow_runs", "task_runs"):
        shown[kind] = "\n".join(pages_of(client, kind))
    assert "realpref@v1 committed" in shown["logs"]
    assert "realpref@v1" in shown["artifacts"]
    assert "hpedit://realpref@v1" in shown["events"]
    for path in Path(environment["PREFECT_HOME"]).rglob("*"):  # the whole database, where the block is encrypted
        if path.is_file():
            shown[str(path)] = path.read_bytes().decode(errors="replace")
    assert [where for where, text in shown.items() if s3.secret in text] == []


def pages_of(client, kind):
    """Everything that the server shows of a kind."""
    if kind == "events":
        page = client.request("POST", "/events/filter", json={"limit": 50}).json()
        while True:
            yield json.dumps(page["events"])
            if not page["next_page"]:
                return
            page = client.request("GET", page["next_page"].split("/api")[-1]).json()
    offset = 0
    while page := client.request("POST", f"/{kind}/filter", json={"limit": 200, "offset": offset}).json():
        yield json.dumps(page)
        offset += len(page)
