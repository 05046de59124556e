"""How many floating-point operations training takes at least, and how fast a device does them: the floor of its time.

They are counted, not estimated: the real model runs with PyTorch's counter looking on, without memory or time on the
meta device. Counted are the multiplications and additions of matrix products and convolutions, 2 m n k; all else
(norms, activations, softmax, rotary embeddings) moves memory and hardly computes. A frozen weight has no gradient, and
none is counted: that halves a backward pass.

Attention over N tokens of d features counts as 4 N^2 d, scores and weighted sum, and as 8 N^2 d backward. Fused kernels
compute the scores once more on the way back, 2 N^2 d. Like the recomputation of activations that is a price of memory,
not of the gradient, so a floor is without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.config import FlowGrpoConfig, paper
from training.editors.full_size import (
    FullSize,
    Module,
    build_vae,
    full_size_editor,
    random_condition,
    random_latents,
    random_pixels,
)
from training.editors.interface import Condition, Shape, TrainableEditor
from training.lanes import one_thread_per_operation
from training.lora import adapter_parameters, add_adapter, reference

SMALLEST_DEPTH = 2
"""Blocks from which on each further one costs the same: the first has inputs without gradient, the last one outputs
that nothing reads."""


def count(function: Callable[[], object]) -> int:
    """The operations of one call in this thread, in FLOP, on whatever device."""
    # The counter knows no fused attention of CPUs and would leave it out silently; unfused it is matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


class Passes(NamedTuple):
    """One sample going through a transformer with an adapter once, in FLOP."""

    reference: int
    """Forward, the adapter switched off."""
    forward: int
    """With the adapter, without gradient."""
    training: int
    """Forward and backward to the adapter."""
    recomputing: int
    """The same where activations are not kept but computed again, block by block (gradient checkpointing)."""


def count_passes(transformer: Module, predict: Callable[[], Tensor]) -> Passes:
    """Count the passes of a transformer that has an adapter.

    Args:
        predict: runs it for one sample; what it returns is what a loss is made of.
    """
    parameters = adapter_parameters(transformer)

    @torch.enable_grad()
    def train() -> None:
        torch.autograd.grad(predict().sum(), parameters, allow_unused=True)

    recomputes = transformer.is_gradient_checkpointing
    with torch.no_grad():
        forward = count(predict)
        with reference(transformer):
            base = count(predict)
    try:
        transformer.disable_gradient_checkpointing()
        training = count(train)
        transformer.enable_gradient_checkpointing()
        recomputing = count(train)
    finally:
        if not recomputes:
            transformer.disable_gradient_checkpointing()
    return Passes(base, forward, training, recomputing)


def editor_passes(editor: TrainableEditor, condition: Condition) -> Passes:
    """The passes of a condition of one sample through an editor that has an adapter; with guidance where it has any."""
    if len(condition) != 1:
        raise ValueError(f"a condition of {len(condition)} samples: passes are counted for one")
    latents_BNC = torch.zeros(condition.noise_shape, device=condition.device)
    t_B = torch.full((1,), 0.5, device=condition.device)
    return count_passes(editor.transformer, lambda: editor.velocity(latents_BNC, t_B, condition))


def full_size_passes(size: FullSize, shape: Shape, lora_rank: int = 32) -> Passes:
    """The passes of one sample through a published transformer, without guidance.

    Counted in models of two and three blocks and continued, which is exact, see `SMALLEST_DEPTH`.
    """
    smallest = dict.fromkeys(size.depths, SMALLEST_DEPTH)
    start = passes_at_depth(size, shape, smallest, lora_rank)
    total = list(start)
    for name in size.depths:
        longer = passes_at_depth(size, shape, {**smallest, name: SMALLEST_DEPTH + 1}, lora_rank)
        more = size.config[name] - SMALLEST_DEPTH
        total = [sum_ + more * (after - before) for sum_, before, after in zip(total, start, longer, strict=True)]
    return Passes(*total)


def passes_at_depth(size: FullSize, shape: Shape, depths: Mapping[str, int], lora_rank: int = 32) -> Passes:
    """The passes of one sample with these numbers of blocks, all of them counted."""
    editor = full_size_editor(size, depths=depths)
    config = replace(paper(), lora_rank=lora_rank)
    with torch.device("meta"):
        add_adapter(editor.transformer, config, 0, editor.lora_targets)
        return editor_passes(editor, random_condition(size, editor, shape))


class Encoding(NamedTuple):
    """What happens around the transformer, in FLOP."""

    decode: int
    """Latents of one sample to an image."""
    encode: int
    """The source image and the instruction of one case, without a negative prompt."""


def count_encoding(size: FullSize, shape: Shape) -> Encoding:
    """The VAE counted; the text encoder, which is small beside it all, as 2 FLOP per parameter and token.

    A VAE that is not published counts as nothing.
    """
    text = 2 * size.text_encoder_parameters * (size.text_tokens(shape) + size.template)
    if size.vae is None:
        return Encoding(0, text)
    vae = build_vae(size.vae)
    latents = random_latents(size.vae, shape.target, "meta")
    sources = [random_pixels(size.vae, grid, "meta") for grid in shape.sources]
    with torch.no_grad(), torch.device("meta"):
        decode = count(partial(vae.decode, latents))
        encode = sum(count(partial(vae.encode, pixels)) for pixels in sources)
    return Encoding(decode, text + encode)


NOTHING = Encoding(0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFlops:
    """What one trained image takes, in FLOP. The judge, whatever it is, is not in it."""

    rollout: float
    replay: float
    """Forward and backward of the trained steps."""
    reference: float
    """The trained steps without adapter, for the KL."""
    old_log_prob: float
    """The trained steps once more, where the rollout's own probabilities are not used."""
    decode: float
    encode: float
    """This image's share of its case's source and instruction."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.rollout + self.replay + self.reference + self.old_log_prob + self.decode + self.encode


def image_flops(
    passes: Passes,
    config: FlowGrpoConfig,
    encoding: Encoding = NOTHING,
    *,
    guided: bool = False,
    recomputing: bool = False,
    encode_every_sample: bool = False,
) -> ImageFlops:
    """What one image takes that has an advantage; one without is rolled out and decoded only.

    Args:
        guided: two passes instead of one, everywhere, as rollout and replay must agree; for passes that were counted
            unguided.
        recomputing: activations are computed again instead of kept.
        encode_every_sample: as loops do that encode within a step, instead of once per case.
    """
    both = 2 if guided else 1
    steps = both * config.window_length
    return ImageFlops(
        rollout=both * config.num_steps * passes.forward,
        replay=steps * (passes.recomputing if recomputing else passes.training),
        reference=steps * passes.reference if config.kl_weight > 0 else 0,
        old_log_prob=steps * passes.forward if config.old_log_prob == "replay" else 0,
        decode=encoding.decode,
        encode=encoding.encode / (1 if encode_every_sample else config.group_size),
    )


class Product(NamedTuple):
    """A matrix product (m, k) x (k, n)."""

    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """2 m n k."""
        return 2 * self.m * self.n * self.k


def products_of(tokens: int, dim: int = 3072) -> tuple[Product, ...]:
    """The products a transformer is made of: queries, keys and values; the MLP up and down."""
    return (Product(tokens, dim, dim), Product(tokens, dim, 4 * dim), Product(tokens, 4 * dim, dim))


def usual_products(device: torch.device | str) -> tuple[Product, ...]:
    """Large enough for the device's best, small enough for it to take seconds: squares and a transformer's own."""
    if torch.device(device).type == "cuda":
        return (*(Product(side, side, side) for side in (4096, 8192, 16384)), *products_of(8192), *products_of(32768))
    return (Product(1024, 1024, 1024), *products_of(256))


@dataclass(frozen=True, slots=True)
class MatmulRate:
    """How fast a device multiplies matrices, in FLOP/s."""

    device: str
    dtype: str
    rates: dict[Product, float]
    """The best of several tries, by product."""

    @property
    def best(self) -> float:
        """Of all products: what nothing on this device is faster than."""
        return max(self.rates.values())


def measure_matmul_rate(
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    products: Sequence[Product] | None = None,
    tries: int = 5,
    seconds: float = 0.1,
) -> MatmulRate:
    """Measure; a CPU with one thread, so what several cores can is at most a multiple of it.

    Args:
        seconds: that each try takes, about. Short tries find the highest rate: long ones heat a GPU until it slows.
    """
    device = torch.device(device)
    with one_thread_per_operation():
        rates = {
            product: _rate(product, device, dtype, tries, seconds) for product in products or usual_products(device)
        }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one thread of this machine's CPU"
    return MatmulRate(name, str(dtype).removeprefix("torch."), rates)


def _rate(product: Product, device: torch.device, dtype: torch.dtype, tries: int, seconds: float) -> float:
    # Random numbers: a GPU multiplies zeros with less power, hence faster.
    left = torch.randn(product.m, product.k, device=device, dtype=dtype)
    right = torch.randn(product.n, product.k, device=device, dtype=dtype).T  # as a linear layer keeps its weight
    out = torch.empty(product.m, product.n, device=device, dtype=dtype)

    def timed(repeats: int) -> float:
        _wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, right, out=out)
        _wait(device)
        return (time.perf_counter() - started) / repeats

    timed(1)  # the first one chooses a kernel
    repeats = max(1, round(seconds / timed(1)))
    return product.flops / min(timed(repeats) for _ in range(tries))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def floor_seconds(flops: float, flops_per_second: float) -> float:
    """The time that so many operations take at least."""
    return flops / flops_per_second
