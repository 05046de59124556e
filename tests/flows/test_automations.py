"""The shipped automations on a real server: who is told what, and what becomes of the runs of dead workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from storage.store import Store
from storage.verify import verify
from tasks.automations import crash_silent_runs, main, notification_block, notify_of_missing_night, put
from tasks.local_server import local_server
from tests.flows.prefect_worker import worker

pytestmark = pytest.mark.prefect
ROOT = Path(__file__).parents[2]
ALWAYS = "hp-edit: crash silent runs"
NOTIFYING = {
    "hp-edit: notify of a rejected version",
    "hp-edit: notify of a training's alarm",
    "hp-edit: notify of a bad night",
    "hp-edit: notify of a missing night",
}
BLOCKS = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
content = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="ops", url=sys.argv[1], json_data=content).save("ops")
Secret(value="not for notifications").save("ops")
"""
REJECTED_NIGHT = """
import sys
from flows.nightly_rebuild import DataConfig, RunOptions, Source, miniature_data, nightly_rebuild
from tasks.limits import Limit
full = miniature_data()
config = full.model_copy(update={
    "collect": full.collect.model_copy(update={"train_per_edit_type": 1, "bench_per_edit_type": 0}),
    "build": full.build.model_copy(update={"drop_full": False, "limits": {"rows": Limit(at_least=1000)}}),
})
nightly_rebuild(Source(scenes=24), "", config, RunOptions(store=sys.argv[1], scratch=sys.argv[1]))
"""
SLEEPING = """
import sys, time
from prefect import flow
@flow
def sleeping():
    time.sleep(float(sys.argv[1]))
sleeping()
"""
NIGHT = {
    "source": {"scenes": 240},
    "config": {
        "collect": {"train_per_edit_type": 24, "bench_per_edit_type": 0},
        "edit": {},
        "rate": {},
        "build": {"drop_full": False},
    },
}


def wait_for(what, seconds, message):
    """What a function gives as soon as it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, message
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of a server of its own."""
    with local_server(tmp_path_factory.mktemp("automations") / "prefect") as environment:
        yield environment | {"HP_EDIT_HOME": str(ROOT)}


@pytest.fixture(scope="module")
def client(environment):
    with SyncPrefectClient(environment["PREFECT_API_URL"]) as client:
        yield client


@pytest.fixture(scope="module")
def notices():
    """What a chat would show: the messages that arrive at a web server, and its address."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield received, f"http://127.0.0.1:{server.server_port}/notices"
        server.shutdown()


@pytest.fixture(scope="module")
def blocks(environment, notices):
    subprocess.run([sys.executable, "-c", BLOCKS, notices[1]], env=environment, check=True, capture_output=True)


@pytest.fixture
def here(environment):
    """Lets this process talk to that server."""
    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
        yield


def names(client):
    return sorted(automation.name for automation in client.read_automations())


def test_a_dry_run_prints_and_creates_nothing(here, client, blocks, capsys):
    assert main(["--dry-run", "--notify", "custom-webhook/ops"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in {ALWAYS, *NOTIFYING})
    assert names(client) == []


def test_twice_leaves_one_of_each(here, client, blocks, capsys):
    assert main([]) == 0
    assert "without --notify" in capsys.readouterr().out
    assert names(client) == [ALWAYS]
    for _ in range(2):
        assert main(["--notify", "custom-webhook/ops"]) == 0
    said = capsys.readouterr().out
    assert said.count("created") == len(NOTIFYING)
    assert said.count("unchanged") == 2 + len(NOTIFYING)
    assert names(client) == sorted({ALWAYS, *NOTIFYING})


def test_what_was_paused_stays_paused_and_doubles_go(here, client, capsys):
    (automation,) = client.read_automations_by_name(ALWAYS)
    client.pause_automation(automation.id)
    crash_silent_runs().create()
    assert main(["--silent-seconds", "300"]) == 0
    assert f"updated   {ALWAYS}" in capsys.readouterr().out
    (automation,) = client.read_automations_by_name(ALWAYS)
    assert automation.trigger.within == timedelta(seconds=300)
    assert not automation.enabled
    client.resume_automation(automation.id)


def test_a_block_that_cannot_notify_is_a_clear_error(here, blocks, capsys):
    assert main(["--notify", "slack-webhook/ops"]) == 2
    assert "no block 'slack-webhook/ops'; those that notify: custom-webhook/ops" in capsys.readouterr().err
    assert main(["--notify", "secret/ops"]) == 2
    assert "'secret/ops' cannot notify" in capsys.readouterr().err


def test_a_rejected_version_and_the_bad_night_are_told(here, environment, blocks, notices, tmp_path):
    """A real rebuild whose last stage breaks a limit."""
    main(["--notify", "custom-webhook/ops"])
    night = subprocess.run(
        [sys.executable, "-c", REJECTED_NIGHT, str(tmp_path)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert "RejectedError" in night.stderr
    received, _ = notices
    wait_for(lambda: len(received) >= 2, 30, f"only {received} arrived")
    told = {notice["subject"]: notice["body"] for notice in received}
    assert set(told) == {"HP-Edit: realpref@v1 is rejected", "HP-Edit: the nightly rebuild failed"}
    assert told["HP-Edit: realpref@v1 is rejected"].startswith("rows 8 is below 1000")
    for body in told.values():
        assert "/runs/flow-run/" in body
    assert "realpref@v1 is rejected, latest stays" in told["HP-Edit: the nightly rebuild failed"]


def end_of_a_night(client):
    """The event of a nightly rebuild that ended well, as the server itself sends it."""
    related = [
        {
            "prefect.resource.id": f"prefect.flow.{uuid.uuid4()}",
            "prefect.resource.role": "flow",
            "prefect.resource.name": "nightly-rebuild",
        }
    ]
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.Completed",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{uuid.uuid4()}"},
        "related": related,
        "payload": {},
    }
    client.request("POST", "/events", json=[event]).raise_for_status()


@pytest.mark.slow
def test_a_night_that_is_missing_is_told_and_good_ones_are_not(here, client, blocks, notices):
    received, _ = notices

    def told():
        return any(notice["subject"] == "HP-Edit: no nightly rebuild" for notice in received)

    put(notify_of_missing_night(notification_block("custom-webhook/ops"), timedelta(seconds=15)))
    for _ in range(20):
        end_of_a_night(client)
        time.sleep(2)
    assert not told()
    wait_for(told, 60, "nobody was told")
    client.delete_automation(client.read_automations_by_name("hp-edit: notify of a missing night")[0].id)


def kill(process):
    """As when the machine goes out: the worker and the runs that it started, at once and without a last word."""
    for one in [process, *process.children(recursive=True)]:
        os.kill(one.pid, signal.SIGKILL)


@pytest.mark.slow
def test_the_run_of_a_dead_worker_crashes_and_the_next_one_goes_on(here, environment, client, tmp_path):
    """The worker's machine dies in the night. The run, and that of its stage, say so; a run that lives is let be."""
    environment = environment | {"HP_EDIT_STORE": str(tmp_path / "store"), "HP_EDIT_SCRATCH": str(tmp_path / "scratch")}
    run = {"env": environment, "cwd": ROOT, "check": True, "capture_output": True}
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    subprocess.run([*prefect, "work-pool", "create", "hp-edit", "--type", "process"], **run)
    subprocess.run([*prefect, "deploy", "--name", "nightly"], **run)
    main(["--silent-seconds", "45"])
    deployment = client.read_deployment_by_name("nightly-rebuild/nightly")
    assert deployment.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]

    def state(run):
        return client.read_flow_run(run.id).state

    def states(flow):
        return [run.state.name for run in client.read_flow_runs(flow_filter=FlowFilter(name={"any_": [flow]}))]

    beating = environment | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    with subprocess.Popen([sys.executable, "-c", SLEEPING, "90"], env=beating, stderr=subprocess.DEVNULL) as alive:
        first = client.create_flow_run_from_deployment(deployment.id, parameters=NIGHT)
        with worker(environment, "hp-edit", tmp_path / "first.log") as process:
            wait_for(lambda: "Running" in states("edit-baseline"), 90, "the night did not begin")
            kill(process)
        assert state(first).name == "Running", "nobody is there to say otherwise"
        wait_for(lambda: state(first).name == "Crashed", 120, "it says Running for ever")
        assert "No heartbeat" in state(first).message
        wait_for(lambda: "Running" not in states("edit-baseline"), 60, "its stage says Running for ever")
        assert "Crashed" in states("edit-baseline")
        second = client.create_flow_run_from_deployment(deployment.id, parameters=NIGHT)
        with worker(environment, "hp-edit", tmp_path / "second.log"):
            wait_for(lambda: state(second).is_final(), 120, "the second night did not end")
        assert state(second).name == "Completed", "a dead run must not hold the only slot"
        assert alive.wait() == 0
    (sleeping,) = client.read_flow_runs(flow_filter=FlowFilter(name={"any_": ["sleeping"]}))
    assert [one.name for one in client.read_flow_run_states(sleeping.id)] == ["Pending", "Running", "Completed"]
    store = Store(environment["HP_EDIT_STORE"])
    versions = [version for artifact in store.artifacts() for version in store.versions(artifact)]
    assert {str(version) for version in versions} == {"cases@v1", "edits@v1", "scores@v1", "realpref@v1"}
    assert verify(versions) == []
