"""What an editor is set up with: one of four kinds, nothing secret, and settings of before there were these."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.edit_baseline import EditConfig
from tasks.editing.catalogue import fingerprint_of_editor
from tasks.editing.settings import (
    ClassicalEditorConfig,
    DiffusersModel,
    EditorConfig,
    FolderEditorConfig,
    ModelEditorConfig,
    RemoteEditorConfig,
    editor_argument,
)
from tasks.run_benchmark import BenchmarkConfig
from tasks.sizes import DataConfig, miniature_data
from training.editors.settings import DiffusersSettings

EDITOR = TypeAdapter(EditorConfig)
DIFFUSERS = DiffusersModel(settings=DiffusersSettings(model="Qwen/Qwen-Image-Edit-2509", guidance=4.0))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({}, ModelEditorConfig()),
        ({"num_steps": 4}, ModelEditorConfig(num_steps=4)),
        ({"kind": "miniature"}, ModelEditorConfig()),
        (
            {"kind": "miniature", "num_steps": 8, "adapter": "adapter@v3", "careful_share": 0.5},
            ModelEditorConfig(num_steps=8, adapter="adapter@v3"),
        ),
        ({"kind": "classical"}, ClassicalEditorConfig()),
        (
            {"kind": "classical", "num_steps": 8, "adapter": None, "careful_share": 0.25},
            ClassicalEditorConfig(careful_share=0.25),
        ),
    ],
)
def test_settings_of_before_are_read(written, meant):
    """As manifests and prefect.yaml have them: all fields of all editors in one, the miniature a kind of its own."""
    assert EditConfig.model_validate({"editor": written}).editor == meant
    assert EditConfig.model_validate_json(json.dumps({"editor": written})).editor == meant
    if meant.kind == "model":
        assert BenchmarkConfig.model_validate({"editor": written}).editor == meant


def test_a_whole_configuration_of_before_is_read():
    whole = miniature_data().model_dump(mode="json")
    whole["edit"]["editor"] = {"kind": "miniature", "num_steps": 8, "adapter": None, "careful_share": 0.5}
    assert DataConfig.model_validate(whole).edit.editor == ModelEditorConfig(num_steps=8)


@pytest.mark.parametrize(
    "config",
    [
        ModelEditorConfig(model=DIFFUSERS, num_steps=20, adapter="adapter@v1", batch=2),
        ClassicalEditorConfig(careful_share=0.1),
        RemoteEditorConfig(model="m", extra_body={"num_inference_steps": 4}, size="512x384"),
        FolderEditorConfig(folder="s3://bucket/edited", made_by="somebody"),
    ],
)
def test_what_is_written_is_read(config):
    assert EDITOR.validate_json(EDITOR.dump_json(config)) == config
    assert editor_argument(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"kind": "classical", "adapter": "adapter@v1"}, "classical has no weights to put adapter@v1 on"),
        ({"kind": "classical", "num_step": 3}, "num_step"),
        ({"kind": "miniature", "carefull": 3}, "carefull"),
        ({"kind": "dalle"}, "'model', 'classical', 'remote', 'folder'"),
        ({"kind": "model", "num_steps": 1}, "greater than or equal to 2"),
        ({"kind": "remote", "model": "m", "size": "64"}, "auto"),
        ({"kind": "remote", "model": "m", "extra_body": {"seed": 3}}, "seed: sent by this editor itself"),
        ({"kind": "remote", "model": "m", "extra_body": {"a": {"api_key": "sk-1"}}}, "no secret may be there"),
        ({"kind": "remote", "model": "m", "base_url": "https://me:pass@host/v1"}, "OPENAI_API_KEY"),
        ({"kind": "remote", "model": "m", "spend_at_most": 3}, "set price"),
        ({"kind": "folder"}, "folder"),
    ],
)
def test_a_slip_is_told(written, told):
    with pytest.raises(ValidationError, match=told):
        EDITOR.validate_python(written)


def test_a_comparison_is_of_a_model():
    with pytest.raises(ValidationError, match=r"editor\.kind"):
        BenchmarkConfig.model_validate({"editor": {"kind": "classical"}})


def test_the_form_shows_all_kinds():
    shown = set(EditConfig.model_json_schema()["$defs"])
    assert {"ModelEditorConfig", "ClassicalEditorConfig", "RemoteEditorConfig", "FolderEditorConfig"} <= shown
    assert {"MiniatureModel", "DiffusersModel", "DiffusersSettings"} <= shown


def test_how_work_is_done_decides_nothing():
    remote = RemoteEditorConfig(model="m", base_url="http://127.0.0.1:8000/v1", concurrency=3, price=0.1)
    assert remote.deciding() == RemoteEditorConfig(model="m").deciding()
    assert "/home" not in json.dumps(FolderEditorConfig(folder="/home/me/edited").deciding())
    assert "batch" not in ModelEditorConfig(batch=3).deciding()


def test_a_model_is_used_as_usual():
    small, large = ModelEditorConfig(), ModelEditorConfig(model=DIFFUSERS)
    assert (small.steps, small.batch_size, large.steps, large.batch_size) == (8, 64, 40, 4)
    assert (ModelEditorConfig(num_steps=3).steps, ModelEditorConfig(batch=5).batch_size) == (3, 5)


def test_the_miniatures_edits_are_known_as_before():
    """Its fingerprint is that of version 0.1 of this code: stored edits stand, whichever way the steps are said."""
    from storage.records import identity
    from tasks.miniature.editor import weights_fingerprint

    before = identity("miniature", weights_fingerprint(), "", 8)
    assert fingerprint_of_editor(ModelEditorConfig(), None) == before
    assert fingerprint_of_editor(ModelEditorConfig(num_steps=8, batch=3), None) == before
    assert fingerprint_of_editor(ModelEditorConfig(num_steps=9), None) != before


def test_where_a_model_lies_is_told_by_no_manifest():
    """A folder that is moved holds the same weights; their fingerprint says so."""
    here, there = (
        DiffusersModel(settings=DiffusersSettings(model=f"{at}/tiny-editor")) for at in ("/data", "/mnt/a/b")
    )
    assert here.deciding() == there.deciding()
    assert "/data" not in str(here.deciding())
    hub = DiffusersModel(settings=DiffusersSettings(model="Qwen/Qwen-Image-Edit-2509"))
    assert hub.deciding()["settings"]["model"] == "Qwen/Qwen-Image-Edit-2509"
