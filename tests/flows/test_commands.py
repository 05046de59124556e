"""The command lines of the stages, as a user gives them: a model of one's own is encoded and trained by them."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from storage.store import Store
from tasks.post_training.job import PostTrainConfig
from tests.tasks.post_training.made import commit_realpref, row
from tests.training.editors.tiny_qwen import make_tiny_qwen_image_edit
from training import config as training
from training.editors.settings import DiffusersSettings

ROOT = Path(__file__).parents[2]


def command(words, **environment):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, env=environment)


@pytest.mark.prefect
def test_a_model_of_ones_own_is_encoded_and_trained_by_the_commands_in_the_docs(prefect_server, tmp_path):
    folder = str(make_tiny_qwen_image_edit(tmp_path / "tiny"))
    areas = {"target_area": 64 * 64, "condition_area": 64 * 64, "vision_area": 56 * 56}
    settings = asdict(DiffusersSettings(model=folder, dtype="float32", **areas))
    (tmp_path / "model.json").write_text(json.dumps({"kind": "diffusers", "settings": settings}))
    grpo = replace(training.tiny(), group_size=2, max_missing_share=1.0)
    train = PostTrainConfig(grpo=grpo, scorer={"kind": "measured", "knows": "nothing", "mode": "continuous"})
    (tmp_path / "train.json").write_text(train.model_dump_json(exclude={"model"}))
    store = Store(str(tmp_path / "store"))
    commit_realpref(store, [row(0), row(1), row(2)])
    here = {
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "HP_EDIT_STORE": store.url,
        "HP_EDIT_SCRATCH": str(tmp_path / "scratch"),
    }
    model = ["--model", str(tmp_path / "model.json")]
    config = ["--config", str(tmp_path / "train.json")]
    for words in (["flows.encode_cases", *model], ["flows.post_train", *model, *config]):
        ran = command(words, **here)
        assert not ran.returncode, ran.stderr
    adapter = store.resolve("adapter@latest")
    assert adapter.manifest.config["model"]["settings"]["model"] == "tiny", "the name, and no path of a machine"
    assert adapter.manifest.parents["encodings"].version == 1
    ran = command(["flows.post_train", *config], **here)
    assert ran.returncode
    assert "encodings@v1 are by another model" in ran.stderr, "the miniature's was not encoded"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["flows.post_train", "--config", '{"gpro": {}}'], "argument --config: gpro: Extra inputs are not permitted"),
        (["flows.encode_cases", "--config", "encode.json"], "argument --config: 'encode.json' is neither JSON nor"),
        (["flows.edit_baseline", "--editor", '{"kind": "remote"}'], "argument --editor: remote.model: Field required"),
        (["flows.run_benchmark", "--config", '{"sed": 3}'], "argument --config: sed: Extra inputs are not permitted"),
    ],
)
def test_a_mistaken_configuration_is_told_by_field(words, said, tmp_path):
    ran = command(words, HP_EDIT_STORE=str(tmp_path / "store"))
    assert ran.returncode == 2
    assert f"error: {said}" in ran.stderr
    assert "Traceback" not in ran.stderr
