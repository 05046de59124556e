"""A pipeline of diffusers, real and tiny: what is stored is what it encodes, and using it needs no encoders."""

import pytest
import torch

from storage.records import Encoding
from storage.schemas import from_table
from storage.store import Store
from tasks.editing.models import fingerprint_of_model, load_model
from tasks.editing.settings import DiffusersModel
from tasks.encode_cases import EncodeCases, EncodeConfig
from tasks.images import decode
from tasks.post_training.encoded import EncodedConditions
from tasks.stage import execute
from tests.tasks.post_training.made import commit_realpref, row
from tests.training.editors.tiny_qwen import make_tiny_qwen_image_edit
from training.editors.interface import join
from training.editors.settings import DiffusersSettings
from training.lanes import one_thread_per_operation

ROWS = [row(0), row(1, 32, 64), row(2), row(3)]
IDS = [r["case_id"] for r in ROWS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Settings of a pipeline by what is to be different."""
    folder = str(make_tiny_qwen_image_edit(tmp_path_factory.mktemp("tiny")))
    areas = {"target_area": 64 * 64, "condition_area": 64 * 64, "vision_area": 56 * 56}

    def tiny(**settings):
        return DiffusersModel(settings=DiffusersSettings(model=folder, **areas | {"dtype": "float32"} | settings))

    return tiny


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    return commit_realpref(Store(str(tmp_path_factory.mktemp("data") / "store")), ROWS)


def test_conditions_are_the_pipelines_and_draw_without_its_encoders(data_set, tiny, tmp_path):
    model = tiny(guidance=2.0)
    version = execute(EncodeCases(data_set.store, EncodeConfig(model=model), data_set)).version
    assert version.manifest.statistics["shapes"] == {"4x4 from 4x4": 3, "2x6 from 2x6": 1}
    assert {e.editor for e in from_table(version.table("encodings"), Encoding)} == {fingerprint_of_model(model)}
    conditions = EncodedConditions(version, tmp_path, fingerprint_of_model(model))
    whole, editor = load_model(model), load_model(model, encoders=False)
    assert whole.fingerprint == editor.fingerprint == fingerprint_of_model(model)
    with torch.no_grad(), one_thread_per_operation():
        for given, condition in zip(ROWS, conditions(IDS), strict=True):
            alone = whole.encode([decode(given["source"]["bytes"])], [given["instruction"]])
            assert condition.shape == alone.shape
            assert condition.negative is not None
            assert condition.tensors().keys() == alone.tensors().keys()
            for name, tensor in alone.tensors().items():
                assert torch.equal(condition.tensors()[name], tensor)
        batch = join(conditions([IDS[0], IDS[2]])).to(editor.device)
        drawn = editor.velocity(torch.zeros(batch.noise_shape), torch.full((2,), 0.5), batch)
    assert drawn.isfinite().all()


def test_another_setting_is_another_model(data_set, tiny, tmp_path):
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        model = tiny(dtype=dtype)
        version = execute(EncodeCases(data_set.store, EncodeConfig(model=model), data_set)).version
        assert version.ref.done == 4
        (condition,) = EncodedConditions(version, tmp_path, fingerprint_of_model(model))(IDS[:1])
        assert condition.text.tokens_BLD.dtype == getattr(torch, dtype)
        sizes[dtype] = version.manifest.statistics["bytes"]["total"]
    assert sizes["bfloat16"] < 0.6 * sizes["float32"]
    with pytest.raises(ValueError, match="was encoded by the editing model"):
        EncodedConditions(version, tmp_path, fingerprint_of_model(tiny()))


def test_company_changes_no_more_than_rounding(data_set, tiny, tmp_path):
    """Which is why a case is encoded alone unless somebody sets otherwise."""
    model, found = tiny(), {}
    for batch_size in (1, 4):
        config = EncodeConfig(model=model, batch_size=batch_size)
        version = execute(EncodeCases(data_set.store, config, data_set), refresh=True).version
        found[batch_size] = EncodedConditions(version, tmp_path, fingerprint_of_model(model))(IDS)
    for one, two in zip(found[1], found[4], strict=True):
        for name, tensor in one.tensors().items():
            assert torch.allclose(tensor, two.tensors()[name], atol=1e-4), name
