"""The tree keeps its promises: imports point down, lower packages know no Prefect."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "storage": {"storage"},
    "training": {"training", "storage"},
    "tasks": {"tasks", "storage", "training"},
    "flows": {"flows", "tasks", "storage", "training"},
    "perf": {"perf", "tasks", "storage", "training"},
}


def imports_of(path):
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_down(package):
    ours = set(ALLOWED)
    for path in (ROOT / package).rglob("*.py"):
        used = {name.split(".")[0] for name in imports_of(path)} & ours
        assert used <= ALLOWED[package], path


@pytest.mark.parametrize("package", ["storage", "training"])
def test_lower_packages_know_no_prefect(package):
    for path in (ROOT / package).rglob("*.py"):
        assert not any(name.split(".")[0] in ("prefect", "openai") for name in imports_of(path)), path


def test_only_the_top_modules_of_tasks_know_prefect():
    for path in (ROOT / "tasks").rglob("*.py"):
        if any(name.split(".")[0] == "prefect" for name in imports_of(path)):
            assert path.parent == ROOT / "tasks", path


def test_storage_knows_no_torch():
    code = "import sys, storage.store, storage.schemas; print('torch' in sys.modules, 'prefect' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.split() == ["False", "False"]


def test_training_runs_without_the_data_side():
    """A machine that only trains may lack prefect, datasets, openai and pycocotools."""
    code = (
        "import sys\n"
        "for name in ('prefect', 'datasets', 'openai', 'pycocotools'): sys.modules[name] = None\n"
        "import training.loop, training.gate, training.supervised, training.editors.miniature"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_flow_is_named_like_a_package():
    """A file entrypoint puts flows/ first on the import path: flows/training.py would hide training/."""
    taken = {path.name for path in ROOT.iterdir() if path.is_dir()} | {"prefect", "torch", "datasets", "tasks"}
    assert not {path.stem for path in (ROOT / "flows").glob("*.py")} & taken


def test_modules_hold_one_idea():
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path


def test_nothing_unpickles():
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*.py"):
            names = set(imports_of(path))
            assert not names & {"pickle", "cloudpickle", "dill", "joblib"}, path
            assert "torch.load(" not in path.read_text(), path
