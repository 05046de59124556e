"""The miniature editor: diffusers' Qwen-Image transformer, small, over a fixed codec and a table of words.

It conditions on the source image as Qwen-Image-Edit does: the source's tokens stand behind the noisy ones in one
sequence. Three things let minutes of training on a small computer do what takes the large model GPU-years:

- The network predicts the clean image, and the velocity follows, v = (x_t - x_0) / t. A narrow network cannot carry a
  patch of 768 independent noise values through some 200 channels, but it can carry a picture.
- It predicts the image as a change of the source: a mask over its pixels, a filter of its frequencies, one colour to
  paint a shape with, and something new, x_0 = source + mask * source + filter * source + shape * colour + new. What is
  not to be edited then needs nothing to be learnt, and a shape learnt in one colour is known in all.
- Every noisy token also sees the source's token of its own place, which attention would have to learn to look up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImageTransformer2DModel
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from storage.records import identity
from training.config import LORA_TARGETS
from training.editors.codec import BLOCK, Codec
from training.editors.interface import Condition, Pixels, Shape, Text

SMALLEST_T = 0.05
"""Below this time the velocity is computed as if t were this large, so that it stays finite."""
_CONFIG, _TRANSFORMER, _WORDS = "editor.json", "transformer", "text_encoder.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniatureConfig:
    """The shape of a miniature editor."""

    words: tuple[str, ...]
    """The words it knows, in the order of their rows in the table; all others are one unknown word."""
    num_layers: int = 5
    num_heads: int = 4
    head_dim: int = 48
    text_dim: int = 96
    token_size: int = 16
    """Pixels per side of an image token."""
    time_shift: float = 3.0
    """Evenly spaced s become t = shift * s / (1 + (shift - 1) * s): more steps where the picture is decided, as
    Qwen-Image's resolution-dependent shift does."""

    def __post_init__(self) -> None:
        if self.head_dim % 16:
            raise ValueError(f"head_dim {self.head_dim}: must be a multiple of 16, for the rotary embedding's axes")


class WordTable(nn.Module):
    """The text encoder: one trained vector per word; positions are the transformer's business."""

    def __init__(self, words: Sequence[str], dim: int) -> None:
        super().__init__()
        self.rows = {word: row for row, word in enumerate(words, start=2)}
        # Unit scale: vectors of the usual small initialisation never reach the image tokens in a short training.
        self.table = nn.Embedding(len(words) + 2, dim)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rows, (B, L) int64, and the mask of real words, (B, L) bool. Row 0 pads, row 1 is the unknown word."""
        split = [text.lower().split() for text in texts]
        length = max((len(words) for words in split), default=1) or 1
        rows = torch.zeros(len(texts), length, dtype=torch.long)
        for i, words in enumerate(split):
            rows[i, : len(words)] = torch.tensor([self.rows.get(word, 1) for word in words], dtype=torch.long)
        return rows, rows > 0

    def forward(self, rows_BL: Tensor) -> Tensor:
        return self.table(rows_BL)


class MiniatureEditor:
    """See `TrainableEditor`. Images have sides of whole tokens; one resolution per batch."""

    def __init__(self, config: MiniatureConfig, seed: int = 0) -> None:
        self.config = config
        self.codec = Codec(config.token_size)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.text_encoder = WordTable(config.words, config.text_dim)
            self.transformer = QwenImageTransformer2DModel(
                patch_size=1,
                in_channels=2 * self.codec.channels,
                out_channels=sum(self._parts()),
                num_layers=config.num_layers,
                attention_head_dim=config.head_dim,
                num_attention_heads=config.num_heads,
                joint_attention_dim=config.text_dim,
                axes_dims_rope=(config.head_dim // 4, config.head_dim * 3 // 8, config.head_dim * 3 // 8),
            )
        # Blocks begin as the identity and the output as the source: training starts from an editor that does nothing.
        blocks = self.transformer.transformer_blocks
        modulations = [modulation[1] for block in blocks for modulation in (block.img_mod, block.txt_mod)]
        for layer in (self.transformer.proj_out, self.transformer.norm_out.linear, *modulations):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text_encoder.table.weight.device

    @property
    def fingerprint(self) -> str:
        """The hash of the configuration and of all weights, adapters excepted."""
        weights = {name: value for name, value in self.transformer.state_dict().items() if "lora_" not in name}
        weights |= {f"words.{name}": value for name, value in self.text_encoder.state_dict().items()}
        # An adapter renames the layers that it wraps.
        named = sorted((name.replace(".base_layer", ""), value) for name, value in weights.items())
        parts = [part for name, value in named for part in (name, value.float().cpu().numpy().tobytes())]
        return identity(asdict(self.config), *parts)

    def to(self, device: torch.device | str) -> MiniatureEditor:
        """Move the modules, in place."""
        self.text_encoder.to(device)
        self.transformer.to(device)
        return self

    def parameters(self) -> list[nn.Parameter]:
        """What supervised training trains: the transformer and the words."""
        return [*self.transformer.parameters(), *self.text_encoder.parameters()]

    @property
    def passes_vary(self) -> bool:
        return False

    @property
    def lora_targets(self) -> tuple[str, ...]:
        return LORA_TARGETS

    def shape_of(self, height: int, width: int) -> Shape:
        grid = self.codec.grid(height, width)
        return Shape(grid, (grid,))

    def encode_images(self, images: Sequence[Pixels]) -> Tensor:
        pixels = torch.from_numpy(np.stack(images)).to(self.device)
        return self.codec.encode(pixels.float() / 255)

    def latent_mask(self, region_BHW: NDArray[np.floating]) -> Tensor:
        return self.codec.encode_mask(torch.from_numpy(region_BHW).float()).to(self.device)

    def encode(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Condition:
        rows, mask = self.text_encoder.tokenize(instructions)
        return Condition(
            shape=self.shape_of(*sources[0].shape[:2]),
            source_BMC=self.encode_images(sources),
            text=Text(self.text_encoder(rows.to(self.device)), mask.to(self.device)),
        )

    def velocity(self, latents_BNC: Tensor, t_B: Tensor, condition: Condition) -> Tensor:
        source_BNC = condition.source_BMC  # as many as are drawn: both have one size
        noisy = torch.cat([latents_BNC, source_BNC], dim=2)
        given = torch.cat([torch.zeros_like(source_BNC), source_BNC], dim=2)
        (predicted,) = self.transformer(
            hidden_states=torch.cat([noisy, given], dim=1),
            timestep=t_B,
            encoder_hidden_states=condition.text.tokens_BLD,
            encoder_hidden_states_mask=condition.text.mask_BL,
            img_shapes=[[(1, *grid) for grid in (condition.shape.target, *condition.shape.sources)]] * len(latents_BNC),
            return_dict=False,
        )
        parts = predicted[:, : latents_BNC.shape[1]].float().split(self._parts(), dim=2)
        new_BNC, mask_BNC, filter_BNF, shape_BNF, colour_BN3 = parts
        # Not around zero: a product of two zeros would have no gradient to leave it.
        paint_BNC = (shape_BNF[..., None] * (1 + colour_BN3[:, :, None])).flatten(2)
        gains = filter_BNF.reshape(*filter_BNF.shape[:2], self.codec.blocks, BLOCK, BLOCK, 1)
        filtered_BNC = self.codec.from_frequencies(self.codec.to_frequencies(source_BNC) * gains)
        image_BNC = source_BNC + mask_BNC * source_BNC + filtered_BNC + paint_BNC + new_BNC
        return (latents_BNC - image_BNC) / t_B.clamp(min=SMALLEST_T)[:, None, None]

    def _parts(self) -> list[int]:
        """Channels of what the network predicts: the new, the mask, the filter, the shape, the colour."""
        pixels = self.codec.channels // 3
        return [self.codec.channels, self.codec.channels, pixels, pixels, 3]

    def decode(self, latents_BNC: Tensor, shape: Shape) -> list[Pixels]:
        pixels = self.codec.decode(latents_BNC, shape.target).clamp(0, 1)
        return list((pixels * 255).round().to(torch.uint8).cpu().numpy())

    def sampling_times(self, num_steps: int, shape: Shape) -> Tensor:
        return self.shift_times(torch.linspace(1, 0, num_steps + 1))

    def shift_times(self, even: Tensor) -> Tensor:
        return self.config.time_shift * even / (1 + (self.config.time_shift - 1) * even)

    def save_pretrained(self, folder: Path) -> None:
        """Write the editor, weights in bfloat16: half the size, and nothing that a picture shows."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CONFIG).write_text(json.dumps(asdict(self.config), indent=1) + "\n")
        transformer = QwenImageTransformer2DModel.from_config(self.transformer.config).to(torch.bfloat16)
        transformer.load_state_dict(self.transformer.state_dict())
        transformer.save_pretrained(folder / _TRANSFORMER)
        words = {name: value.to(torch.bfloat16) for name, value in self.text_encoder.state_dict().items()}
        save_file(words, folder / _WORDS)

    @classmethod
    def from_pretrained(cls, folder: Path) -> MiniatureEditor:
        """Read an editor, in float32. Raises: FileNotFoundError that says how to make one."""
        if not (folder / _CONFIG).exists():
            raise FileNotFoundError(f"no editor in {folder}; `python -m tasks.miniature.pretrain` makes one")
        values = json.loads((folder / _CONFIG).read_text())
        editor = cls(MiniatureConfig(**values | {"words": tuple(values["words"])}))
        editor.transformer = QwenImageTransformer2DModel.from_pretrained(
            folder / _TRANSFORMER, torch_dtype=torch.float32
        )
        editor.text_encoder.load_state_dict({n: v.float() for n, v in load_file(folder / _WORDS).items()})
        return editor
