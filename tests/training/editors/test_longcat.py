"""LongCat-Image-Edit: our sampling is the pipeline's, at sizes of our own."""

import pytest
import torch
from diffusers import LongCatImageEditPipeline
from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit
from transformers import Qwen2VLProcessor

from tests.training.editors import against_diffusers as check
from tests.training.editors.tiny_flux import loaded, save_longcat
from training.editors.interface import Shape
from training.editors.longcat import LongCatEditor
from training.editors.pipelines import load_editor
from training.editors.qwen_processor import image_only
from training.lora import WEIGHTS_FILE

SQUARE = check.SIZES["square"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save_longcat(tmp_path_factory.mktemp("longcat"))


@pytest.fixture(scope="session")
def pipeline(folder):
    return longcat(folder)


def longcat(folder, **options):
    processor = image_only(Qwen2VLProcessor).from_pretrained(folder / "text_processor")
    return loaded(LongCatImageEditPipeline, folder, text_processor=processor, **options)


@pytest.fixture
def told_of_images(pipeline):
    """The pipeline's text encoder is told which tokens are the image's, as diffusers' issue 14194 asks for."""

    def tell(encoder, args, kwargs):
        is_image = kwargs["input_ids"] == encoder.config.image_token_id
        return args, kwargs | {"mm_token_type_ids": is_image.int()}

    hook = pipeline.text_encoder.register_forward_pre_hook(tell, with_kwargs=True)
    yield
    hook.remove()


def editor_of(pipeline, size=SQUARE, **settings):
    # The pipeline shows the source to the text encoder at half its height and width.
    area = max(32 * 32, size[0] * size[1] // 4)
    settings = {"vision_area": area, "negative_prompt": ""} | settings
    return LongCatEditor(pipeline, check.settings_for(size, **settings), weights="tiny")


def own_edit(editor, monkeypatch):
    """diffusers' own call, in one size instead of a megapixel, its texts as long as ours."""
    settings = editor.settings

    def edit(image, size, instruction, noise, num_steps, output_type):
        monkeypatch.setattr(pipeline_longcat_image_edit, "calculate_dimensions", lambda area, ratio: size[::-1])
        monkeypatch.setattr(editor.pipeline, "tokenizer_max_length", settings.max_text_tokens)
        (edited,) = editor.pipeline(
            image=image,
            prompt=instruction,
            negative_prompt=settings.negative_prompt,
            guidance_scale=settings.guidance,
            num_inference_steps=num_steps,
            latents=noise,
            output_type=output_type,
            return_dict=False,
        )
        return edited if output_type == "latent" else edited[0]

    return edit


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("size", check.SIZES.values(), ids=check.SIZES)
@pytest.mark.usefixtures("told_of_images")
def test_an_edit_is_the_pipelines(pipeline, size, guidance, monkeypatch):
    editor = editor_of(pipeline, size, guidance=guidance)
    check.assert_same_edits(editor, size, own_edit(editor, monkeypatch))


@pytest.mark.usefixtures("told_of_images")
def test_words_in_quotation_marks_are_spelt(pipeline, monkeypatch):
    editor = editor_of(pipeline)
    check.assert_same_edits(editor, SQUARE, own_edit(editor, monkeypatch), instruction=check.INSTRUCTIONS[1])
    spelt = [pipeline.tokenizer.decode(token) for token in editor._words("write 'door'")]
    assert spelt == ["write", " ", "'", "d", "o", "o", "r", "'"]


def test_diffusers_does_not_tell_its_text_encoder_of_the_image(pipeline, monkeypatch):
    """The day on which this fails, diffusers has fixed its issue 14194 and the hook above can go."""
    editor = editor_of(pipeline)
    with pytest.raises(AssertionError, match="encoder_hidden_states"):
        check.assert_same_edits(editor, SQUARE, own_edit(editor, monkeypatch))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_company_in_the_batch_changes_nothing(pipeline, guidance):
    check.assert_company_changes_nothing(editor_of(pipeline, guidance=guidance), SQUARE)


def test_long_instructions_are_cut_off(pipeline):
    editor = editor_of(pipeline)
    text = editor.encode([check.source_for(SQUARE)], ["remove the cat " * 40]).text
    same = editor.encode([check.source_for(SQUARE)], ["remove the cat " * 41]).text
    torch.testing.assert_close(text.tokens_BLD, same.tokens_BLD)


def test_the_source_has_a_size_of_its_own(pipeline):
    editor = editor_of(pipeline, target_area=128 * 64, condition_area=64 * 32, vision_area=56 * 28)
    condition = editor.encode([check.source_for((128, 64))], check.INSTRUCTIONS[:1])
    assert condition.shape == Shape((8, 4), ((4, 2),))
    # Two image tokens between their marks, then the padded instruction; the images begin where it ends.
    length = 4 + editor.settings.max_text_tokens
    assert condition.text.tokens_BLD.shape[1] == length
    with check.calls_of(pipeline.transformer) as calls:
        editor.velocity(check.noise_for(condition), torch.tensor([0.5]), condition)
    coordinates = calls[0][0]["img_ids"]
    assert coordinates[0].tolist() == [1, length, length]
    assert coordinates[-1].tolist() == [2, length + 3, length + 1]


def test_sources_of_one_shape_have_texts_of_one_length(pipeline):
    """The images' coordinates begin where the text ends, so a batch must end in one place."""
    editor = editor_of(pipeline, vision_area=112 * 112)
    sources = [check.source_for(size) for size in ((64, 64), (64, 70))]
    shapes = {editor.shape_of(*source.shape[:2]) for source in sources}
    assert len(shapes) == 1
    assert editor.encode(sources, check.INSTRUCTIONS).text.attention_mask is None


def test_the_adapter_is_on_every_projection_of_the_blocks(folder):
    check.assert_adapter_covers_blocks(editor_of(longcat(folder)))


def test_an_adapter_is_read_by_diffusers(folder, tmp_path):
    """Its pipeline has no `load_lora_weights`; its transformer reads the same file."""
    editor, fresh = (editor_of(longcat(folder)) for _ in range(2))

    def load(folder):
        fresh.transformer.load_lora_adapter(folder, weight_name=WEIGHTS_FILE, prefix="transformer")

    check.assert_adapter_travels(editor, fresh, load, tmp_path)


def test_it_trains_in_bfloat16(folder):
    check.assert_trains_in_bfloat16(editor_of(longcat(folder, dtype=torch.bfloat16), dtype="bfloat16"))


def test_it_is_the_editor_of_its_pipeline(folder):
    check.assert_loads(load_editor, LongCatEditor, check.settings_for(SQUARE, model=str(folder)))
