"""FLUX.2 Klein: our sampling is the pipeline's, at sizes of our own."""

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from tests.training.editors import against_diffusers as check
from tests.training.editors.tiny_flux import loaded, save_klein
from training.editors.flux2_klein import Flux2KleinEditor
from training.editors.flux_latents import unpack
from training.editors.interface import Shape
from training.editors.pipelines import load_editor
from training.editors.sizes import resized

SQUARE = check.SIZES["square"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save_klein(tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="session")
def pipeline(folder):
    return loaded(Flux2KleinPipeline, folder)


def editor_of(pipeline, size=SQUARE, **settings):
    return Flux2KleinEditor(pipeline, check.settings_for(size, **settings), weights="tiny")


def own_edit(editor, guidance=None):
    """diffusers' own call; it makes sources smaller from a megapixel on, so ours are brought to their size before."""
    settings = editor.settings

    def edit(image, size, instruction, noise, num_steps, output_type):
        after_each_step = []

        def keep(pipeline, step, time, tensors):
            after_each_step.append(tensors["latents"])
            return {}

        (edited,) = editor.pipeline(
            image=Image.fromarray(resized(np.asarray(image), *editor.condition_size(image.height, image.width))),
            prompt=instruction,
            guidance_scale=settings.guidance if guidance is None else guidance,
            height=size[0],
            width=size[1],
            num_inference_steps=num_steps,
            latents=noise.mT.reshape(1, -1, size[0] // 16, size[1] // 16),
            max_sequence_length=settings.max_text_tokens,
            output_type=output_type,
            callback_on_step_end=keep,
            return_dict=False,
        )
        # Its "latent" is in the scale of the autoencoder already.
        return after_each_step[-1] if output_type == "latent" else edited[0]

    return edit


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("size", check.SIZES.values(), ids=check.SIZES)
def test_an_edit_is_the_pipelines(pipeline, size, guidance):
    editor = editor_of(pipeline, size, guidance=guidance, negative_prompt="")
    check.assert_same_edits(editor, size, own_edit(editor))


def test_a_distilled_model_is_not_guided(tmp_path):
    pipeline = loaded(Flux2KleinPipeline, save_klein(tmp_path, is_distilled=True))
    editor = editor_of(pipeline)
    check.assert_same_edits(editor, SQUARE, own_edit(editor, guidance=4.0))
    with pytest.raises(ValueError, match=r"guidance 4\.0: tiny is distilled"):
        editor_of(pipeline, guidance=4.0)


def test_latents_are_scaled_by_the_statistics_of_the_autoencoder(pipeline):
    editor = editor_of(pipeline)
    source = resized(check.source_for(SQUARE), *SQUARE)
    packed = editor.encode_sources([source])
    pixels = torch.from_numpy(source.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mode()
    assert not torch.allclose(unpack(packed, (4, 4)), latents, atol=0.1)
    torch.testing.assert_close(unpack(editor.unscaled(packed), (4, 4)), latents, rtol=1e-5, atol=1e-5)


def test_the_times_depend_on_the_number_of_steps(pipeline):
    """The fewer they are, the longer they stay near the noise; the two lines are those of FLUX.2's authors."""
    editor, shape = editor_of(pipeline), Shape((64, 64), ((64, 64),))
    assert editor.shift(10, shape) == pytest.approx(8.73809524e-05 * 4096 + 1.89833333)
    assert editor.shift(200, shape) == pytest.approx(0.00016927 * 4096 + 0.45666666)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_company_in_the_batch_changes_nothing(pipeline, guidance):
    check.assert_company_changes_nothing(editor_of(pipeline, guidance=guidance), SQUARE)


def test_the_source_has_a_size_of_its_own(pipeline):
    editor = editor_of(pipeline, (128, 128), condition_area=64 * 64)
    assert editor.shape_of(192, 192) == Shape((8, 8), ((4, 4),))
    check.assert_same_edits(editor, (128, 128), own_edit(editor))


def test_the_adapter_is_on_every_projection_of_the_blocks(folder):
    check.assert_adapter_covers_blocks(editor_of(loaded(Flux2KleinPipeline, folder)))


def test_an_adapter_is_read_by_diffusers(folder, tmp_path):
    editor, fresh = (editor_of(loaded(Flux2KleinPipeline, folder)) for _ in range(2))
    check.assert_adapter_travels(editor, fresh, fresh.pipeline.load_lora_weights, tmp_path)


def test_it_trains_in_bfloat16(folder):
    pipeline = loaded(Flux2KleinPipeline, folder, dtype=torch.bfloat16)
    check.assert_trains_in_bfloat16(editor_of(pipeline, dtype="bfloat16"))


def test_it_is_the_editor_of_its_pipeline(folder):
    check.assert_loads(load_editor, Flux2KleinEditor, check.settings_for(SQUARE, model=str(folder)))
