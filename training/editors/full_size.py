"""Editing models in their published sizes with random weights, for counting operations and for measuring speeds.

What a transformer draws depends on its weights; what it costs does not. So everything about the cost of training a
model of 20 billion parameters can be found out without its weights: counted on PyTorch's meta device, which has shapes
and no numbers, and measured on a GPU. Such an editor takes conditions that are encoded already, of noise as well.

Axes: see `training.editors.interface`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from training.editors.diffusers_editor import DiffusersEditor
from training.editors.interface import Condition, Grid, Shape, Text
from training.editors.settings import DiffusersSettings

PIXELS_PER_TOKEN = 16
"""Per side of an image token, in every model here: the autoencoder makes 8 pixels one, and tokens are two by two."""
VISION_TOKEN = 28
"""Pixels per side of what is one token to the text encoder Qwen2.5-VL."""

Module = Any
"""A model of diffusers; type checkers do not see into its lazily loaded modules."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vae:
    """The autoencoder between pixels and latents."""

    name: str
    """Its class in diffusers."""
    config: Mapping[str, Any]
    """What differs from the defaults of the class."""
    latent_channels: int
    of_films: bool = False
    """Whether an image is a film of one frame to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FullSize:
    """One published editor. Its parameters are counted, not noted, see `count_parameters`."""

    pipeline: str
    """Its class in diffusers; `training.editors.pipelines` has the editor for it."""
    transformer: str
    """Its class in diffusers."""
    config: Mapping[str, Any]
    """What differs from the defaults of the transformer's class, and the numbers of blocks in any case."""
    depths: tuple[str, ...]
    """The names of the numbers of blocks in the config."""
    words: int
    """Text tokens that the transformer sees, those of the source image left out."""
    vision_side: int | Literal["source"] = 0
    """Pixels per side in which the text encoder sees a square source; "source": as the transformer does; 0: it does
    not."""
    template: int = 0
    """Tokens that the text encoder reads in addition, and that are dropped then."""
    text_encoder_parameters: int
    vae: Vae | None
    """None where its shape is not established."""

    def text_tokens(self, shape: Shape) -> int:
        """L, of a usual instruction."""
        if not self.vision_side:
            return self.words
        rows, columns = shape.sources[0]
        height, width = (
            (rows * PIXELS_PER_TOKEN, columns * PIXELS_PER_TOKEN)
            if self.vision_side == "source"
            else (self.vision_side, self.vision_side)
        )
        return self.words + round(height / VISION_TOKEN) * round(width / VISION_TOKEN)

    def tokens(self, shape: Shape) -> int:
        """All that the transformer attends to: of the image that is drawn, its source and the text."""
        return shape.num_tokens + shape.num_source_tokens + self.text_tokens(shape)


_QWEN_VAE = Vae(name="AutoencoderKLQwenImage", config={}, latent_channels=16, of_films=True)
_FLUX_VAE = Vae(
    name="AutoencoderKL",
    config={
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    latent_channels=16,
)
_FLUX2_VAE = Vae(name="AutoencoderKLFlux2", config={}, latent_channels=32)
_QWEN_25_VL_7B = 8_292_166_656
_T5_XXL_ENCODER = 4_762_310_656
_QWEN_3_4B = 4_022_468_096
_QWEN_3_8B = 8_190_735_360

# transformer/config.json of Qwen/Qwen-Image-Edit: what the class has as its defaults. 2511 adds zero_cond_t. Some 34
# tokens of the instruction and what surrounds it are left after the template's 64.
_QWEN_2509 = FullSize(
    pipeline="QwenImageEditPlusPipeline",
    transformer="QwenImageTransformer2DModel",
    config={"num_layers": 60},
    depths=("num_layers",),
    words=34,
    vision_side=384,
    template=64,
    text_encoder_parameters=_QWEN_25_VL_7B,
    vae=_QWEN_VAE,
)
# Klein4BParams and Klein9BParams in src/flux2/model.py of black-forest-labs/flux2. Its pipeline pads texts to 512.
_KLEIN_4B = FullSize(
    pipeline="Flux2KleinPipeline",
    transformer="Flux2Transformer2DModel",
    config={
        "num_layers": 5,
        "num_single_layers": 20,
        "num_attention_heads": 24,
        "joint_attention_dim": 3 * 2560,
        "guidance_embeds": False,
    },
    depths=("num_layers", "num_single_layers"),
    words=512,
    text_encoder_parameters=_QWEN_3_4B,
    vae=_FLUX2_VAE,
)
_KLEIN_9B = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 3 * 4096}

FULL_SIZES: dict[str, FullSize] = {
    "Qwen-Image-Edit": replace(_QWEN_2509, pipeline="QwenImageEditPipeline", vision_side="source"),
    "Qwen-Image-Edit-2509": _QWEN_2509,
    "Qwen-Image-Edit-2511": replace(_QWEN_2509, config={"num_layers": 60, "zero_cond_t": True}),
    # transformer/config.json of black-forest-labs/FLUX.1-Kontext-dev. Its pipeline pads texts to 512. Its second text
    # encoder, CLIP on 77 tokens, is left out: a thousandth of the first.
    "FLUX.1-Kontext-dev": FullSize(
        pipeline="FluxKontextPipeline",
        transformer="FluxTransformer2DModel",
        config={"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True},
        depths=("num_layers", "num_single_layers"),
        words=512,
        text_encoder_parameters=_T5_XXL_ENCODER,
        vae=_FLUX_VAE,
    ),
    "FLUX.2-klein-base-4B": _KLEIN_4B,
    "FLUX.2-klein-base-9B": replace(
        _KLEIN_4B, config={**_KLEIN_4B.config, **_KLEIN_9B}, text_encoder_parameters=_QWEN_3_8B
    ),
    # Two ports agree on 10 + 20 blocks (mflux, AWS NeuronX Distributed Inference), and with them it has the 6 billion
    # parameters that were announced; all else are the defaults of diffusers' class. Its pipeline pads texts to 512 and
    # shows the text encoder a quarter of 1024 x 1024 pixels, between two marks.
    "LongCat-Image-Edit": FullSize(
        pipeline="LongCatImageEditPipeline",
        transformer="LongCatImageTransformer2DModel",
        config={"num_layers": 10, "num_single_layers": 20},
        depths=("num_layers", "num_single_layers"),
        words=512 + 2,
        vision_side=512,
        template=70,
        text_encoder_parameters=_QWEN_25_VL_7B,
        vae=None,
    ),
}
"""By the name on the hub, without the owner."""


def square_shape(target_side: int, source_side: int) -> Shape:
    """A square image drawn after one square source, sides in pixels."""
    return Shape(_grid(target_side), (_grid(source_side),))


def _grid(side: int) -> Grid:
    if side % PIXELS_PER_TOKEN:
        raise ValueError(f"side {side}: must be a multiple of {PIXELS_PER_TOKEN} pixels")
    return side // PIXELS_PER_TOKEN, side // PIXELS_PER_TOKEN


def full_size_editor(
    size: FullSize,
    device: torch.device | str = "meta",
    dtype: Literal["bfloat16", "float32"] = "float32",
    guidance: float = 1.0,
    depths: Mapping[str, int] | None = None,
) -> DiffusersEditor:
    """The editor over random weights, without text encoder: it takes conditions, see `random_condition`.

    Weights are made where and in the precision in which they are used, so that memory holds them once.

    Args:
        device: "meta" takes no memory and no time; there, float32 alone.
        depths: other numbers of blocks, by their names in `size.depths`.
    """
    import diffusers  # takes seconds, as do the editors

    from training.editors.pipelines import EDITORS

    module, _, name = EDITORS[size.pipeline].rpartition(".")
    precision = getattr(torch, dtype)
    parts = SimpleNamespace(
        transformer=_build(size.transformer, {**size.config, **(depths or {})}, device, precision),
        vae=None if size.vae is None else build_vae(size.vae, device, precision),
        # The times are not those of every model here, but then they cost nothing.
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae_scale_factor=PIXELS_PER_TOKEN // 2,
        config=SimpleNamespace(is_distilled=False),
    )
    settings = DiffusersSettings(model=size.pipeline, guidance=guidance, dtype=dtype)
    return getattr(import_module(module), name)(parts, settings, "random")


def build_vae(vae: Vae, device: torch.device | str = "meta", dtype: torch.dtype = torch.float32) -> Module:
    """The autoencoder with random weights, frozen."""
    return _build(vae.name, vae.config, device, dtype)


def _build(name: str, config: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype) -> Module:
    import diffusers

    with torch.device(device), _default_dtype(dtype):
        return getattr(diffusers, name)(**config).requires_grad_(False).eval()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def count_parameters(module: Module) -> int:
    """How many numbers it has learnt."""
    return sum(parameter.numel() for parameter in module.parameters())


def random_condition(size: FullSize, editor: DiffusersEditor, shape: Shape, samples: int = 1) -> Condition:
    """A batch of noise in place of encoded sources and instructions, guided where the editor is."""
    config = editor.transformer.config

    def noise(*dims: int) -> Tensor:
        return torch.randn(dims, device=editor.device, dtype=editor.dtype)

    def text() -> Text:
        tokens_BLD = noise(samples, size.text_tokens(shape), config.joint_attention_dim)
        # The mask is looked at, which nobody can on the meta device.
        where = "cpu" if editor.device.type == "meta" else editor.device
        mask_BL = torch.ones(tokens_BLD.shape[:2], dtype=torch.bool, device=where)
        pooled = config.get("pooled_projection_dim")
        return Text(tokens_BLD, mask_BL, noise(samples, pooled) if pooled else None)

    return Condition(
        shape,
        noise(samples, shape.num_source_tokens, config.in_channels),
        text(),
        text() if editor.settings.guidance > 1 else None,
    )


def random_latents(vae: Vae, grid: Grid, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Latents of one image as `vae.decode` takes them."""
    rows, columns = (2 * side for side in grid)
    return torch.randn(1, vae.latent_channels, *_frames(vae), rows, columns, device=device, dtype=dtype)


def random_pixels(vae: Vae, grid: Grid, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """One image as `vae.encode` takes it."""
    height, width = (PIXELS_PER_TOKEN * side for side in grid)
    return torch.randn(1, 3, *_frames(vae), height, width, device=device, dtype=dtype)


def _frames(vae: Vae) -> tuple[int, ...]:
    return (1,) if vae.of_films else ()
