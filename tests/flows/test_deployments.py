"""prefect.yaml: every entrypoint loads, and a real server schedules the nightly rebuild."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint

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


@pytest.mark.prefect
@pytest.mark.slow
def test_a_real_server_schedules_the_night(tmp_path):
    """With the wrong SQLAlchemy the server looks healthy and schedules nothing at all."""
    with local_server(tmp_path / "prefect") as environment:
        environment = environment | {"HP_EDIT_HOME": str(ROOT)}
        prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
        run = {"env": environment, "cwd": ROOT, "check": True, "capture_output": True, "text": True}
        subprocess.run([*prefect, "work-pool", "create", "hp-edit", "--type", "process"], **run)
        subprocess.run([*prefect, "deploy", "--all"], **run)
        request = urllib.request.Request(
            f"{environment['PREFECT_API_URL']}/flow_runs/count",
            data=json.dumps({"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}).encode(),
            headers={"Content-Type": "application/json"},
        )
        deadline = time.monotonic() + 150
        count = 0
        while not count and time.monotonic() < deadline:
            time.sleep(3)
            with urllib.request.urlopen(request, timeout=10) as response:
                count = json.load(response)
    assert count > 0, "the server scheduled no run of the nightly deployment"


def test_the_server_listens_on_loopback_only():
    source = (ROOT / "tasks" / "local_server.py").read_text()
    assert '"127.0.0.1"' in source
    assert "0.0.0.0" not in source
    assert os.environ.get("PREFECT_SERVER_ANALYTICS_ENABLED") == "false"
