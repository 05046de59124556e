"""prefect.yaml: every entrypoint loads, and a real server schedules the nightly rebuild."""

import os
import re
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.flows import load_flow_from_entrypoint

from flows.nightly_rebuild import nightly_rebuild
from tasks.local_server import local_server

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
FLOWS = sorted(path.stem for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["flow_name"])
def test_every_entrypoint_loads(deployment):
    """Without a placeholder: `prefect deploy` hides a broken import behind one."""
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert flow.name == deployment["flow_name"]
    assert flow.description
    flow.validate_parameters(deployment.get("parameters", {}))


def test_the_parameters_in_the_docs_are_valid():
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "deployment.md").read_text(), flags=re.S)
    parameters = nightly_rebuild.validate_parameters(yaml.safe_load(block)["parameters"])
    assert parameters["source"].folder == "/data/coco"
    assert parameters["config"].edit.editor.kind == "classical"


def test_every_flow_is_deployed():
    deployed = {deployment["entrypoint"].split(".")[1] for deployment in DEPLOYMENTS}
    assert set(FLOWS) - deployed == {"controls"}


def test_the_nightly_rebuild_runs_alone():
    (nightly,) = (d for d in DEPLOYMENTS if d["flow_name"] == "nightly-rebuild")
    assert nightly["schedules"][0]["cron"]
    assert nightly["concurrency_limit"]["limit"] == 1


def test_flows_import_no_model_code():
    """A worker that only hands out work needs no torch."""
    code = "import sys, flows.hp_edit, flows.controls; print({'torch', 'diffusers'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "set()"


def test_what_follows_a_version_is_off_until_somebody_wants_it():
    following = {d["flow_name"]: d["triggers"] for d in DEPLOYMENTS if "triggers" in d}
    assert set(following) == {"encode-cases", "post-train", "benchmark"}
    assert all(trigger["enabled"] is False for (trigger,) in following.values())


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A client of a server that `prefect deploy --all` was run on, from where no worker is."""
    with local_server(tmp_path_factory.mktemp("deployed") / "prefect") as environment:
        environment = {name: value for name, value in environment.items() if name != "HP_EDIT_HOME"}
        prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
        run = {"env": environment, "cwd": ROOT, "check": True, "capture_output": True, "text": True}
        subprocess.run([*prefect, "work-pool", "create", "hp-edit", "--type", "process"], **run)
        subprocess.run([*prefect, "deploy", "--all"], **run)
        with SyncPrefectClient(environment["PREFECT_API_URL"]) as client:
            yield client


def runs_of(client, deployment):
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id={"any_": [client.read_deployment_by_name(deployment).id]}),
        flow_run_filter=FlowRunFilter(state={"type": {"any_": ["SCHEDULED"]}}),
    )


def wait_for_runs(client, deployment, seconds):
    deadline = time.monotonic() + seconds
    while not (runs := runs_of(client, deployment)) and time.monotonic() < deadline:
        time.sleep(1)
    return runs


@pytest.mark.prefect
@pytest.mark.slow
def test_each_worker_says_where_it_has_the_project(deployed):
    """Deployed without HP_EDIT_HOME, it is asked for where the run begins."""
    for deployment in deployed.read_deployments():
        (step,) = deployment.pull_steps
        assert step["prefect.deployments.steps.set_working_directory"]["directory"] == "{{ $HP_EDIT_HOME }}"


@pytest.mark.prefect
@pytest.mark.slow
def test_training_follows_a_new_data_set_where_that_is_switched_on(deployed):
    automations = {automation.name: automation for automation in deployed.read_automations()}
    assert {name: automation.enabled for name, automation in automations.items()} == {
        "hp-edit: encode a new realpref": False,
        "hp-edit: post-train on new encodings": False,
        "hp-edit: benchmark a new adapter": False,
    }

    def made(version):
        event = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.asset.materialization.succeeded",
            "resource": {"prefect.resource.id": f"hpedit://{version}"},
            "payload": {},
        }
        deployed.request("POST", "/events", json=[event]).raise_for_status()

    made("encodings@v1")
    time.sleep(10)
    assert not runs_of(deployed, "post-train/default"), "it is off"
    deployed.resume_automation(automations["hp-edit: post-train on new encodings"].id)
    made("adapter@v1")
    made("cases@v1")
    made("encodings@v2")
    assert len(wait_for_runs(deployed, "post-train/default", 60)) == 1
    assert not runs_of(deployed, "benchmark/default"), "it is off"


@pytest.mark.prefect
@pytest.mark.slow
def test_a_real_server_schedules_the_night(deployed):
    """With the wrong SQLAlchemy the server looks healthy and schedules nothing at all."""
    assert wait_for_runs(deployed, "nightly-rebuild/nightly", 150), (
        "the server scheduled no run of the nightly deployment"
    )


def test_the_server_listens_on_loopback_only():
    source = (ROOT / "tasks" / "local_server.py").read_text()
    assert '"127.0.0.1"' in source
    assert "0.0.0.0" not in source
    assert os.environ.get("PREFECT_SERVER_ANALYTICS_ENABLED") == "false"
