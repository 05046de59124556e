"""The codec: nothing is lost, tokens are squares of the image, frequencies are frequencies."""

import pytest
import torch

from training.editors.codec import BLOCK, Codec


@pytest.mark.parametrize("token_size", [8, 16])
def test_it_is_invertible(token_size):
    codec = Codec(token_size)
    images = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    latents = codec.encode(images)
    assert latents.shape == (2, (32 // token_size) * (48 // token_size), codec.channels)
    torch.testing.assert_close(codec.decode(latents, codec.grid(32, 48)), images)


def test_a_token_is_a_square_of_the_image():
    images = torch.zeros(1, 32, 32, 3)
    images[:, 16:, :16] = 1
    latents = Codec(16).encode(images)
    assert latents.mean(2).tolist() == [[-1, -1, 1, -1]]
    assert torch.equal(Codec(16).encode_mask(images[..., 0]), (latents + 1) / 2)


def test_frequencies_keep_energy_and_invert():
    codec = Codec(16)
    latents = torch.randn(2, 3, codec.channels, generator=torch.Generator().manual_seed(1))
    frequencies = codec.to_frequencies(latents)
    assert frequencies.shape == (2, 3, 4, BLOCK, BLOCK, 3)
    torch.testing.assert_close(frequencies.square().sum(), latents.square().sum(), rtol=1e-4, atol=0)
    torch.testing.assert_close(codec.from_frequencies(frequencies), latents, rtol=1e-4, atol=1e-5)


def test_a_flat_block_has_its_lowest_frequency_alone():
    frequencies = Codec(8).to_frequencies(torch.ones(1, 1, 192))
    assert frequencies[0, 0, 0, 0, 0].tolist() == pytest.approx([8, 8, 8])
    frequencies[0, 0, 0, 0, 0] = 0
    assert frequencies.abs().max() < 1e-5


def test_odd_sizes_are_refused_by_name():
    with pytest.raises(ValueError, match="30 x 32"):
        Codec(16).grid(32, 30)
    with pytest.raises(ValueError, match="token_size 12"):
        Codec(12)
