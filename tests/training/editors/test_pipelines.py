"""Pipelines are found, named without being loaded, and refused where no editor is written for them."""

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.editors.tiny_qwen import make_tiny_qwen_image_edit
from training.editors.diffusers_editor import DiffusersEditor
from training.editors.pipelines import EDITORS, fingerprint_of, identity_of, load_editor
from training.editors.settings import DiffusersSettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return make_tiny_qwen_image_edit(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of its own, which a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "pipeline"))


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
    """The hub's cache, with one pipeline; there is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--tiny--editor"
    shutil.copytree(saved, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


def settings_of(folder, **changes):
    return DiffusersSettings(model=str(folder), **{"dtype": "float32"} | changes)


def test_the_fingerprint_off_the_files_is_the_loaded_editors(saved):
    settings = settings_of(saved)
    assert load_editor(settings, "cpu").fingerprint == fingerprint_of(settings)
    assert load_editor(settings, "cpu", encoders=False).fingerprint == fingerprint_of(settings)


def test_the_fingerprint_is_of_weights_and_settings_not_of_the_place(saved, folder):
    before = fingerprint_of(settings_of(saved))
    (folder / "README.md").write_text("What the hub also keeps there.")
    (folder / "single-file.safetensors").write_bytes(b"")
    assert fingerprint_of(settings_of(folder)) == before
    for change in ({"guidance": 4.0}, {"condition_area": 256 * 256}, {"dtype": "bfloat16"}):
        assert fingerprint_of(settings_of(folder, **change)) != before


def test_trained_weights_of_the_same_size_are_others(saved, folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["transformer_blocks.1.attn.to_q.weight"][0, 0] += 0.1
    save_file(weights, file, {"format": "pt"})
    assert file.stat().st_size == (saved / "transformer" / file.name).stat().st_size
    assert identity_of(settings_of(folder)) != identity_of(settings_of(saved))


def test_another_scheduler_is_another_editor(saved, folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("0.9", "1.1"))
    assert fingerprint_of(settings_of(folder)) != fingerprint_of(settings_of(saved))


def test_no_tensor_of_a_layer_is_too_small_to_be_seen_in_a_large_file(folder):
    """A large file is read in places: an adapter that was merged into some layers changes neither start nor end."""
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = {f"layer{i}": torch.zeros(5 * 2**20, dtype=torch.bfloat16) for i in range(6)}  # 10 MiB each
    names = set()
    for changed in ("none", *tensors):
        save_file(tensors | ({} if changed == "none" else {changed: tensors[changed] + 1}), file)
        names.add(identity_of(settings_of(folder)))
    assert len(names) == 7


def test_a_pipeline_of_the_hub_is_named_by_its_commit(hub, saved):
    settings = settings_of("tiny/editor")
    assert identity_of(settings) == COMMIT
    assert identity_of(settings_of("tiny/editor", revision=COMMIT)) == COMMIT
    editor = load_editor(settings, "cpu", encoders=False)
    assert editor.fingerprint == fingerprint_of(settings) == fingerprint_of(settings_of("tiny/editor", revision=COMMIT))
    assert editor.pipeline.text_encoder is None


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("/no/such/folder", "no such folder"),
        ("./weights", "no such folder"),
        ("weights", "no such folder"),
        ("nobody/nothing", "the hub gave no model_index.json"),
    ],
)
def test_what_is_not_there_is_told_as_such(hub, model, told):
    for function in (fingerprint_of, lambda settings: load_editor(settings, "cpu")):
        with pytest.raises(FileNotFoundError, match=told):
            function(settings_of(model))


def test_a_folder_of_something_else_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model_index\.json in this folder"):
        fingerprint_of(settings_of(tmp_path))


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", ["pipeline", "Own"], None])
def test_a_pipeline_without_an_editor_is_named_with_those_that_have_one(folder, kind):
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": kind}))
    for function in (fingerprint_of, lambda settings: load_editor(settings, "cpu")):
        with pytest.raises(ValueError, match=r"(StableDiffusionPipeline|Own|None).*QwenImageEditPlusPipeline"):
            function(settings_of(folder))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_pickled_weights_are_not_read(folder, part):
    (file,) = (folder / part).glob("*.safetensors")
    torch.save(load_file(file), folder / part / ("pytorch_model.bin" if part == "text_encoder" else f"{file.stem}.bin"))
    file.unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_editor(settings_of(folder), "cpu")


def test_code_beside_the_weights_is_not_run(folder):
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"transformer": ["own_code", "Own"]}))
    (folder / "transformer" / "own_code.py").write_text("raise SystemExit('this ran')")
    with pytest.raises((ValueError, ImportError)):
        load_editor(settings_of(folder), "cpu")


@pytest.mark.parametrize(("pipeline", "editor"), EDITORS.items())
def test_every_pipeline_has_its_editor(pipeline, editor):
    import diffusers

    module, _, name = editor.rpartition(".")
    assert issubclass(getattr(import_module(module), name), DiffusersEditor)
    assert hasattr(diffusers, pipeline)


def test_naming_weights_loads_no_library(saved):
    code = (
        "import sys\nfrom training.editors.pipelines import fingerprint_of\n"
        "from training.editors.settings import DiffusersSettings\n"
        f"fingerprint_of(DiffusersSettings(model={str(saved)!r}))\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
