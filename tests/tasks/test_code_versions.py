"""A stage whose code changed must say so by a new code version, or it would return what the old code made.

`code_versions.json` holds, for each stage, its version and a hash of all code below it; comments, docstrings and layout
do not count. After a change that cannot change results, or after raising `code_version`, write it anew:
`python tests/tasks/test_code_versions.py`.
"""

import ast
import hashlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("code_versions.json")
STAGES = (
    "collect_cases",
    "edit_baseline",
    "pick_triplets",
    "collect_labels",
    "calibrate_scorer",
    "migrate_judge",
    "rate_edits",
    "build_realpref",
    "encode_cases",
    "post_train",
    "run_benchmark",
)
ALSO = {"post_train": ("tasks.post_training.worker",)}
"""Started as a process, not imported."""


def modules_below(*names):
    """The project's modules that these import, themselves included."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        path = ROOT / f"{name.replace('.', '/')}.py"
        if name in found or not path.exists():
            continue
        found[name] = ast.parse(path.read_text())
        for node in ast.walk(found[name]):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def meaning(tree):
    """The code without its docstrings."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [
                part for part in body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ]
    return ast.dump(tree)


def record_of(stage):
    modules = modules_below(f"tasks.{stage}", *ALSO.get(stage, ()))
    code = "".join(f"{name}\n{meaning(modules[name])}\n" for name in sorted(modules))
    (version,) = (
        part.value.value
        for part in ast.walk(modules[f"tasks.{stage}"])
        if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "code_version"
    )
    return {"code_version": version, "code": hashlib.sha256(code.encode()).hexdigest()[:16]}


@pytest.mark.parametrize("stage", STAGES)
def test_changed_code_has_a_new_version(stage):
    recorded, found = json.loads(RECORD.read_text())[stage], record_of(stage)
    assert found == recorded, (
        f"the code below tasks/{stage}.py is not the recorded one: raise its code_version if results can change "
        f"(it is {found['code_version']}, recorded {recorded['code_version']}), "
        f"then run `python {Path(__file__).relative_to(ROOT)}`"
    )


def test_a_comment_is_no_change_and_a_number_is():
    one, two, three = (
        meaning(ast.parse(text))
        for text in ('def f():\n    """Say."""\n    return 1', "def f():  # why\n    return 1", "def f(): return 2")
    )
    assert one == two != three


if __name__ == "__main__":
    RECORD.write_text(json.dumps({stage: record_of(stage) for stage in STAGES}, indent=1) + "\n")
    sys.stdout.write(f"wrote {RECORD}\n")
