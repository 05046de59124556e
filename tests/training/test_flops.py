"""Operations: what is counted without numbers is what is computed with them, and what the formulas say."""

from dataclasses import replace

import pytest
import torch

from perf.floor import levers
from training import config as configs
from training.editors.full_size import FULL_SIZES, full_size_editor, random_condition, square_shape
from training.editors.interface import Shape
from training.flops import (
    Encoding,
    Passes,
    Product,
    count,
    count_encoding,
    editor_passes,
    floor_seconds,
    full_size_passes,
    image_flops,
    measure_matmul_rate,
    passes_at_depth,
    usual_products,
)
from training.lora import add_adapter

QWEN = FULL_SIZES["Qwen-Image-Edit-2509"]
SHAPE = Shape((3, 4), ((2, 3),))
TINY = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 24}


def tiny(name):
    size = FULL_SIZES[name]
    axes = (4, 4, 4, 4) if "klein" in name else (4, 6, 6)
    return replace(size, config={**size.config, **TINY, "axes_dims_rope": axes}, words=5, vision_side=0, vae=None)


FAMILIES = ("Qwen-Image-Edit-2511", "FLUX.1-Kontext-dev", "FLUX.2-klein-base-4B", "LongCat-Image-Edit")
"""One of each transformer."""


def test_a_product_is_two_operations_per_term():
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert count(lambda: left @ right) == Product(3, 5, 7).flops == 2 * 3 * 5 * 7


def test_attention_counts_on_a_cpu_as_well():
    """PyTorch's counter knows no fused kernel of CPUs, and left attention out."""
    heads, tokens, dim = 2, 8, 16
    query, key, value = (torch.randn(1, heads, tokens, dim, requires_grad=True) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    forward = 4 * heads * tokens**2 * dim
    assert count(lambda: attend(query, key, value)) == forward
    assert count(lambda: attend(query, key, value).sum().backward()) == 3 * forward


@pytest.mark.parametrize("name", FAMILIES)
def test_without_numbers_as_with_them(name):
    size = tiny(name)
    depths = dict.fromkeys(size.depths, 2)
    editor = full_size_editor(size, "cpu", depths=depths)
    add_adapter(editor.transformer, configs.paper(), 0, editor.lora_targets)
    real = editor_passes(editor, random_condition(size, editor, SHAPE))
    assert passes_at_depth(size, SHAPE, depths) == real
    assert not editor.transformer.is_gradient_checkpointing


def test_the_miniature_editor_counts_as_it_is(tiny_editor_factory):
    editor = tiny_editor_factory()
    condition = editor.encode([torch.zeros(32, 48, 3, dtype=torch.uint8).numpy()], ["remove the cat"])
    add_adapter(editor.transformer, configs.tiny(), 0)
    passes = editor_passes(editor, condition)
    assert 0 < passes.reference < passes.forward < passes.training < passes.recomputing
    with pytest.raises(ValueError, match="2 samples"):
        editor_passes(editor, condition.take([0, 0]))


def forward_flops(size, shape, depths=None, samples=1):
    """Of a batch, without adapter."""
    editor = full_size_editor(size, depths=depths)
    condition = random_condition(size, editor, shape, samples)
    latents, t = torch.zeros(condition.noise_shape, device="meta"), torch.zeros(samples, device="meta")
    with torch.no_grad(), torch.device("meta"):
        return count(lambda: editor.velocity(latents, t, condition))


def test_a_batch_takes_its_samples_times_one():
    size, depths = tiny(FAMILIES[0]), {"num_layers": 2}
    assert forward_flops(size, SHAPE, depths, samples=3) == 3 * forward_flops(size, SHAPE, depths)


def test_deep_models_are_counted_from_shallow_ones():
    size = tiny("FLUX.1-Kontext-dev")
    depths = dict(zip(size.depths, (4, 3), strict=False))
    deep = replace(size, config={**size.config, **depths})
    assert full_size_passes(deep, SHAPE) == passes_at_depth(deep, SHAPE, depths)


def test_all_sixty_blocks_at_once():
    shape = square_shape(512, 512)
    assert forward_flops(QWEN, shape) == full_size_passes(QWEN, shape).reference


def test_a_block_of_the_large_model_term_by_term():
    """What one block more costs: base weights once forward and once backward, and not once more for their gradients."""
    shape, dim, rank = square_shape(512, 512), 3072, 32
    tokens = QWEN.tokens(shape)
    shallow, deep = (passes_at_depth(QWEN, shape, {"num_layers": layers}, rank) for layers in (2, 3))
    block = Passes(*(more - less for less, more in zip(shallow, deep, strict=True)))

    linear = 2 * 12 * dim**2 * tokens
    attention = 4 * tokens**2 * dim
    modulation = 2 * 12 * dim**2  # of both streams, from the time alone: one row, and nothing to learn before it
    square, wide = 2 * rank * (dim + dim) * tokens, 2 * rank * (dim + 4 * dim) * tokens
    adapter = 4 * square + 2 * wide

    assert block.reference == linear + attention + modulation
    assert block.forward == block.reference + adapter
    assert block.training - block.forward == linear + 2 * attention + 2 * adapter
    assert block.recomputing - block.training == block.forward
    assert 1.0 < (block.training - block.forward) / block.forward < 1.15


@pytest.mark.parametrize(
    ("name", "target", "source", "tflop"),
    [
        ("Qwen-Image-Edit", 512, 1024, 120),
        ("Qwen-Image-Edit-2509", 512, 1024, 94),
        ("Qwen-Image-Edit-2509", 384, 1024, 84),
        ("Qwen-Image-Edit-2509", 1024, 1024, 167),
        ("Qwen-Image-Edit-2509", 512, 512, 35),
        ("Qwen-Image-Edit-2509", 384, 384, 20),
    ],
)
def test_estimates_of_others(name, target, source, tflop):
    """24 d^2 per token and block, 4 d N^2 per block: 60 blocks, d = 3072."""
    size, shape = FULL_SIZES[name], square_shape(target, source)
    tokens = size.tokens(shape)
    two, three = (forward_flops(size, shape, {"num_layers": layers}) for layers in (2, 3))
    forward = two + 58 * (three - two)
    assert forward == pytest.approx(60 * (24 * 3072**2 * tokens + 4 * 3072 * tokens**2), rel=1e-3)
    assert forward / 1e12 == pytest.approx(tflop, rel=0.012)


def test_encoding_is_counted_where_it_is_known():
    shape = square_shape(64, 128)
    text = 2 * QWEN.text_encoder_parameters * (230 + 64)
    small, large = count_encoding(QWEN, shape), count_encoding(QWEN, square_shape(64, 256))
    assert small.decode == large.decode > 0
    # Four times the pixels; a little more, as its middle block attends to all of them.
    assert large.encode - text == pytest.approx(4 * (small.encode - text), rel=0.1)
    longcat = FULL_SIZES["LongCat-Image-Edit"]
    assert count_encoding(longcat, shape) == (0, 2 * longcat.text_encoder_parameters * (514 + 18 * 18 + 70))


PASSES = Passes(reference=100, forward=110, training=230, recomputing=340)
AROUND = Encoding(decode=8, encode=64)


def test_an_image_part_by_part():
    config = replace(configs.paper(), old_log_prob="replay")
    image = image_flops(PASSES, config, AROUND)
    assert (image.rollout, image.replay, image.reference) == (10 * 110, 3 * 230, 3 * 100)
    assert (image.old_log_prob, image.decode, image.encode) == (3 * 110, 8, 64 / 16)
    assert image.total == 1100 + 690 + 300 + 330 + 8 + 4


def test_what_is_not_done_costs_nothing():
    image = image_flops(PASSES, replace(configs.paper(), kl_weight=0.0))
    assert image.reference == image.old_log_prob == image.decode == image.encode == 0
    assert image.total == image.rollout + image.replay


def test_an_image_costs_in_proportion_to_its_steps():
    once, twice = (
        image_flops(PASSES, replace(configs.paper(), num_steps=n, window_length=w, window_end=w), AROUND)
        for n, w in ((10, 2), (20, 4))
    )
    assert twice.rollout == 2 * once.rollout
    assert twice.replay == 2 * once.replay
    assert twice.reference == 2 * once.reference
    assert (twice.decode, twice.encode) == (once.decode, once.encode)


def test_groups_share_their_encoding_and_nothing_else():
    small, large = (image_flops(PASSES, replace(configs.paper(), group_size=g, groups=g), AROUND) for g in (4, 16))
    assert small.encode == 4 * large.encode
    assert small.total - small.encode == large.total - large.encode
    alone = image_flops(PASSES, configs.paper(), AROUND, encode_every_sample=True)
    assert alone.encode == 64


def test_guidance_doubles_the_transformer():
    plain, guided = (image_flops(PASSES, configs.paper(), AROUND, guided=guided) for guided in (False, True))
    around = plain.decode + plain.encode
    assert guided.total - around == 2 * (plain.total - around)
    recomputed = image_flops(PASSES, configs.paper(), recomputing=True)
    assert recomputed.replay == 3 * 340


def test_levers_save_and_begin_with_what_is_published():
    rows = [recipe for _, recipe in levers()]
    first, last = rows[0], rows[-1]
    assert (first.guided, first.resolution, first.config.window_length) == (True, (512, 1024), 9)
    assert (last.guided, last.resolution, last.config.window_length) == (False, (512, 512), 3)
    assert first.config.old_log_prob == "replay"
    assert last.config == replace(configs.paper(), kl_weight=0.0)
    assert len({str(row) for row in rows}) == len(rows) == 8


def test_a_rate_is_the_best_of_its_products():
    products = (Product(64, 64, 64), Product(32, 64, 128))
    rate = measure_matmul_rate("cpu", torch.float32, products, tries=2, seconds=0.002)
    assert set(rate.rates) == set(products)
    assert rate.best == max(rate.rates.values()) > 1e6
    assert rate.dtype == "float32"
    assert floor_seconds(6e9, 2e9) == 3
    assert Product(256, 3072, 4 * 3072) in usual_products("cpu")
    assert Product(8192, 3072, 4 * 3072) in usual_products("cuda")
