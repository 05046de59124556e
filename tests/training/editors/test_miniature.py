"""The miniature editor: diffusers' transformer underneath, conditioned as Qwen-Image-Edit is."""

import numpy as np
import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from training.editors.interface import Shape
from training.editors.miniature import MiniatureConfig, MiniatureEditor
from training.rollout import generate, generator_of


@pytest.fixture
def pictures():
    return list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))


def noise(condition, seed=1):
    return torch.randn(condition.noise_shape, generator=generator_of(seed))


def test_it_is_the_transformer_of_qwen_image(tiny_editor_factory):
    assert type(tiny_editor_factory().transformer) is QwenImageTransformer2DModel


def test_untrained_it_returns_the_source(tiny_editor_factory, pictures):
    """Training starts from an editor that does nothing, not from noise."""
    editor = tiny_editor_factory(zero_output=True)
    condition = editor.encode(pictures, ["remove the cat", "make it darker"])
    edited = editor.decode(generate(editor, condition, 4, noise(condition)), condition.shape)
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(edited, pictures, strict=True)) <= 1


def test_source_and_instruction_both_matter(tiny_editor_factory, pictures):
    editor = tiny_editor_factory()
    one = editor.encode(pictures, ["remove the cat"] * 2)
    other_words = editor.encode(pictures, ["add a bird"] * 2)
    other_source = editor.encode(pictures[::-1], ["remove the cat"] * 2)
    x, t = noise(one), torch.tensor([0.5, 0.5])
    with torch.no_grad():
        velocity = editor.velocity(x, t, one)
        assert velocity.shape == x.shape
        assert velocity.dtype == torch.float32
        assert not torch.allclose(velocity, editor.velocity(x, t, other_words), atol=1e-4)
        assert not torch.allclose(velocity, editor.velocity(x, t, other_source), atol=1e-4)


def test_company_in_the_batch_changes_nothing(tiny_editor_factory, pictures):
    """A short instruction is padded beside a long one; the mask must keep the padding out."""
    editor = tiny_editor_factory()
    texts = ["remove the cat", "please replace the background of this picture with a beach"]
    both = editor.encode(pictures, texts)
    alone = editor.encode(pictures[:1], texts[:1])
    x = noise(both)
    with torch.no_grad():
        together = editor.velocity(x, torch.tensor([0.5, 0.5]), both)[:1]
        torch.testing.assert_close(together, editor.velocity(x[:1], torch.tensor([0.5]), alone), rtol=1e-4, atol=1e-4)


def test_unknown_words_are_one_word(tiny_editor_factory):
    table = tiny_editor_factory().text_encoder
    rows, mask = table.tokenize(["Remove the zeppelin", ""])
    assert rows[0, 2] == 1
    assert mask.tolist() == [[True] * 3, [False] * 3]


def test_saved_and_read_it_draws_the_same(tiny_editor_factory, pictures, tmp_path):
    editor = tiny_editor_factory()
    editor.save_pretrained(tmp_path)
    one, two = MiniatureEditor.from_pretrained(tmp_path), MiniatureEditor.from_pretrained(tmp_path)
    assert one.fingerprint == two.fingerprint
    assert one.config == editor.config
    condition = editor.encode(pictures, ["remove the cat"] * 2)
    x = noise(condition)
    with torch.no_grad():
        again = one.decode(generate(one, one.encode(pictures, ["remove the cat"] * 2), 4, x), condition.shape)
        first = editor.decode(generate(editor, condition, 4, x), condition.shape)
    # bfloat16 on the disk
    assert np.abs(np.stack(again).astype(int) - np.stack(first)).mean() < 2
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".json", ".safetensors"}


def test_times_go_from_noise_to_image(tiny_editor_factory):
    times = tiny_editor_factory().sampling_times(8, Shape((2, 2), ((2, 2),)))
    assert (times[0], times[-1]) == (1, 0)
    assert (times.diff() < 0).all()
    assert times[4] == pytest.approx(0.75)


def test_no_editor_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m tasks\.miniature\.pretrain"):
        MiniatureEditor.from_pretrained(tmp_path)


def test_a_head_that_cannot_be_rotated_is_refused():
    with pytest.raises(ValueError, match="head_dim 20"):
        MiniatureConfig(words=("cat",), head_dim=20)
