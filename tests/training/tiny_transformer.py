"""A Qwen-Image transformer of two blocks with an adapter that does something, and passes through it."""

from dataclasses import replace

import torch
from diffusers import QwenImageTransformer2DModel

from training.config import LORA_TARGETS, tiny
from training.lora import adapter_parameters, add_adapter

CHANNELS, TEXT_DIM, GRID = 16, 24, (4, 4)


def make(with_adapter=True, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = QwenImageTransformer2DModel(
            patch_size=1,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=TEXT_DIM,
            axes_dims_rope=(8, 12, 12),
        )
    transformer.requires_grad_(False)
    return put_adapter_on(transformer) if with_adapter else transformer


def put_adapter_on(transformer):
    add_adapter(transformer, replace(tiny(), lora_targets=LORA_TARGETS), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(transformer):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return transformer


def velocity(transformer, rows=slice(None), samples=4):
    """Of some of the same few samples every time."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(samples, 2 * GRID[0] * GRID[1], CHANNELS, generator=generator)[rows]
    text = torch.randn(samples, 5, TEXT_DIM, generator=generator)[rows]
    (predicted,) = transformer(
        hidden_states=tokens,
        timestep=torch.linspace(0.3, 0.9, samples)[rows],
        encoder_hidden_states=text,
        encoder_hidden_states_mask=None,
        img_shapes=[[(1, *GRID), (1, *GRID)]] * len(tokens),
        return_dict=False,
    )
    return predicted


def gradients(transformer, rows=slice(None), samples=4):
    """Of the part that these rows have in a mean over all samples."""
    loss = velocity(transformer, rows, samples).pow(2).mean(dim=(1, 2)).sum() / samples
    parameters = adapter_parameters(transformer)
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


def apart(first, second):
    """The largest difference between two tensors, or two lists of them."""
    if isinstance(first, torch.Tensor):
        return float((first - second).detach().abs().max())
    return max(apart(a, b) for a, b in zip(first, second, strict=True))
