"""FLUX.1 Kontext: our sampling is the pipeline's, at sizes of our own."""

import pytest
import torch
from diffusers import FluxKontextPipeline
from diffusers.pipelines.flux import pipeline_flux_kontext

from tests.training.editors import against_diffusers as check
from tests.training.editors.tiny_flux import loaded, save_kontext
from training.editors.flux_kontext import FluxKontextEditor
from training.editors.flux_latents import image_coordinates, pack, unpack
from training.editors.interface import Shape
from training.editors.pipelines import load_editor

SQUARE = check.SIZES["square"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save_kontext(tmp_path_factory.mktemp("kontext"))


@pytest.fixture(scope="session")
def pipeline(folder):
    return loaded(FluxKontextPipeline, folder)


def editor_of(pipeline, size=SQUARE, **settings):
    return FluxKontextEditor(pipeline, check.settings_for(size, **settings), weights="tiny")


def own_edit(editor, monkeypatch):
    """diffusers' own call, with one preferred size of the source, ours, instead of seventeen of a megapixel."""
    settings = editor.settings

    def edit(image, size, instruction, noise, num_steps, output_type):
        height, width = size
        preferred = editor.condition_size(image.height, image.width)[::-1]
        monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", [preferred])
        (edited,) = editor.pipeline(
            image=image,
            prompt=instruction,
            negative_prompt=settings.negative_prompt,
            true_cfg_scale=settings.guidance,
            guidance_scale=settings.embedded_guidance,
            height=height,
            width=width,
            max_area=height * width,
            num_inference_steps=num_steps,
            latents=noise,
            max_sequence_length=settings.max_text_tokens,
            output_type=output_type,
            return_dict=False,
        )
        return edited if output_type == "latent" else edited[0]

    return edit


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("size", check.SIZES.values(), ids=check.SIZES)
def test_an_edit_is_the_pipelines(pipeline, size, guidance, monkeypatch):
    editor = editor_of(pipeline, size, guidance=guidance, negative_prompt="blurred")
    check.assert_same_edits(editor, size, own_edit(editor, monkeypatch))


def test_a_model_without_embedded_guidance_is_given_none(tmp_path, monkeypatch):
    pipeline = loaded(FluxKontextPipeline, save_kontext(tmp_path, guidance_embeds=False))
    editor = editor_of(pipeline)
    check.assert_same_edits(editor, SQUARE, own_edit(editor, monkeypatch))


def test_embedded_guidance_matters(pipeline):
    condition = editor_of(pipeline).encode([check.source_for(SQUARE)], check.INSTRUCTIONS[:1])
    noise, t = check.noise_for(condition), torch.tensor([0.5])
    with torch.no_grad():
        weak, strong = (
            editor_of(pipeline, embedded_guidance=guidance).velocity(noise, t, condition) for guidance in (1.0, 4.0)
        )
    assert not torch.allclose(weak, strong, atol=1e-3)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_company_in_the_batch_changes_nothing(pipeline, guidance):
    check.assert_company_changes_nothing(editor_of(pipeline, guidance=guidance), SQUARE)


def test_the_source_has_a_size_of_its_own(pipeline, monkeypatch):
    editor = editor_of(pipeline, (128, 64), condition_area=64 * 32)
    assert editor.shape_of(192, 96) == Shape((8, 4), ((4, 2),))
    check.assert_same_edits(editor, (128, 64), own_edit(editor, monkeypatch))


def test_coordinates_are_image_row_and_column():
    coordinates = image_coordinates(Shape((1, 2), ((2, 1),)), target=0, source=1, start=5)
    assert coordinates.tolist() == [[0, 5, 5], [0, 5, 6], [1, 5, 5], [1, 6, 5]]


def test_latents_are_packed_as_diffusers_packs_them():
    latents = torch.randn(2, 3, 4, 6)
    packed = pack(latents)
    assert torch.equal(packed, FluxKontextPipeline._pack_latents(latents, 2, 3, 4, 6))
    assert torch.equal(unpack(packed, (2, 3)), latents)


def test_the_adapter_is_on_every_projection_of_the_blocks(folder):
    check.assert_adapter_covers_blocks(editor_of(loaded(FluxKontextPipeline, folder)))


def test_an_adapter_is_read_by_diffusers(folder, tmp_path):
    editor, fresh = (editor_of(loaded(FluxKontextPipeline, folder)) for _ in range(2))
    check.assert_adapter_travels(editor, fresh, fresh.pipeline.load_lora_weights, tmp_path)


def test_it_trains_in_bfloat16(folder):
    pipeline = loaded(FluxKontextPipeline, folder, dtype=torch.bfloat16)
    check.assert_trains_in_bfloat16(editor_of(pipeline, dtype="bfloat16"))


def test_it_is_the_editor_of_its_pipeline(folder):
    check.assert_loads(load_editor, FluxKontextEditor, check.settings_for(SQUARE, model=str(folder)))
