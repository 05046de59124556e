"""A real pipeline of diffusers, tiny, goes through encoding and training; plain diffusers loads what comes out."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import QwenImageEditPlusPipeline
from PIL import Image

from storage.export import export
from storage.store import Store
from tasks.editing.adapters import adapter_of
from tasks.editing.settings import DiffusersModel, ModelEditorConfig
from tasks.encode_cases import EncodeCases, EncodeConfig
from tasks.hp_scorer.settings import MeasuredConfig
from tasks.post_train import PostTrain
from tasks.post_training.job import PostTrainConfig, Running
from tasks.stage import execute
from tests.tasks.post_training.made import commit_realpref, row
from tests.training.editors.tiny_qwen import make_tiny_qwen_image_edit
from training import config as training
from training.editors.settings import DiffusersSettings
from training.lora import adapter_parameters

ROWS = [row(0), row(1, 32, 64), row(2), row(3)]
"""Two shapes."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = str(make_tiny_qwen_image_edit(tmp_path_factory.mktemp("tiny")))
    areas = {"target_area": 64 * 64, "condition_area": 64 * 64, "vision_area": 56 * 56}
    return DiffusersModel(settings=DiffusersSettings(model=folder, dtype="float32", **areas))


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = commit_realpref(Store(str(folder / "store")), ROWS)
    encodings = execute(EncodeCases(data.store, EncodeConfig(model=model), data)).version
    config = PostTrainConfig(
        model=model,
        scorer=MeasuredConfig(knows="nothing", mode="continuous"),
        grpo=replace(training.tiny(), groups=4, group_size=2, max_missing_share=1.0),
        running=Running(pictures_every=1),
    )
    return execute(PostTrain(data.store, config, encodings, folder)).version


def test_it_trains_in_batches_of_one_shape(adapter):
    gate = json.loads(adapter.file("gate"))
    assert gate["ratio deviation"] < 2e-5
    assert adapter.table("curves").num_rows == 2
    assert adapter.manifest.statistics["largest_ratio_deviation"] < 2e-5


def test_plain_diffusers_loads_it(adapter, model, tmp_path):
    """As the README says: export the version, then `load_lora_weights`."""
    export(adapter, tmp_path / "adapter")
    pipe = QwenImageEditPlusPipeline.from_pretrained(model.settings.model, processor=None)
    pipe.load_lora_weights(tmp_path / "adapter")
    loaded = adapter_parameters(pipe.transformer)
    assert loaded
    assert any(p.abs().sum() > 0 for name, p in pipe.transformer.named_parameters() if "lora_B" in name)
    assert pipe.transformer.peft_config["default_0"].lora_alpha == 8, "not the rank, which would be half the strength"


def test_the_snippet_of_the_readme_runs(adapter, model, tmp_path, monkeypatch):
    """With this model for the large one, and a CPU for a GPU."""
    export(adapter, tmp_path / "adapter")
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    text = (Path(__file__).parents[3] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(import torch\n.*?)```", text, flags=re.S)
    assert "load_lora_weights" in code
    code = code.replace("runs/export/adapter", str(tmp_path / "adapter"))
    code = code.replace("Qwen/Qwen-Image-Edit-2509", model.settings.model).replace("bfloat16", "float32")
    code = code.replace('"cuda"', '"cpu"').replace("photo.jpg", str(tmp_path / "photo.jpg"))
    code = code.replace("num_inference_steps=40", "num_inference_steps=2, height=64, width=64")
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module
    from transformers import Qwen2VLProcessor

    from training.editors.qwen_processor import image_only

    # The stock processor wants torchvision, which is broken beside a CPU's torch.
    load = QwenImageEditPlusPipeline.from_pretrained
    processor = image_only(Qwen2VLProcessor).from_pretrained(Path(model.settings.model) / "processor")
    monkeypatch.setattr(
        QwenImageEditPlusPipeline, "from_pretrained", lambda name, **more: load(name, processor=processor, **more)
    )
    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 64 * 64)
    monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 56 * 56)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    with Image.open(tmp_path / "edited.png") as edited:
        assert edited.size == (64, 64)


def test_an_adapter_is_for_its_own_base_alone(adapter, tmp_path):
    with pytest.raises(ValueError, match="trained on"):
        adapter_of(ModelEditorConfig(adapter=str(adapter)), adapter.store)
