"""What the README and the docs tell a user to do is there to be done."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text() for page in PAGES}


def test_every_make_target_exists():
    told = {name for text in TEXT.values() for name in re.findall(r"make ([a-z][a-z-]*)(?=[\s`\"])", text)}
    assert {"run", "test", "ui", "run-photos", "controls", "check", "test-full"} <= told
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert told & targets >= {"run", "test", "ui", "run-photos", "controls", "check", "test-full"}
    for name in told & targets:
        subprocess.run(["make", "--dry-run", name, "COCO=x"], cwd=ROOT, check=True, capture_output=True)


def test_every_module_told_of_exists():
    told = {name for text in TEXT.values() for name in re.findall(r"python -m ((?:flows|tasks|perf)\.[\w.]+)", text)}
    assert told
    for name in told:
        path = ROOT / name.rstrip(".").replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", TEXT[page]):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_flow_is_in_the_docs():
    flows = [re.search(r'@flow\(name="([\w-]+)"', path.read_text()) for path in (ROOT / "flows").glob("*.py")]
    names = {match.group(1) for match in flows if match}
    everything = "\n".join(TEXT.values())
    assert names
    assert all(name in everything for name in names), names


def test_every_dependency_says_what_it_is_for():

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = TEXT[ROOT / "docs" / "dependencies.md"]
    for requirement in project["dependencies"]:
        assert re.split(r"[<>=]", requirement)[0] in told, requirement


def test_it_is_never_uploaded():
    assert "Private :: Do Not Upload" in (ROOT / "pyproject.toml").read_text()
