"""The editors whose training is timed: the miniature, a published one in its size, and a published one made small.

The small one is Qwen-Image-Edit-2509 with a sixteenth of its width, text features, tokens and adapter rank, and a
thirtieth of its blocks and of its text encoder's layers, of random weights: attention, text and adapter keep their
shares of the work, and guidance and source size are real settings of it, which the miniature does not have.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Literal

import numpy as np
import torch

from perf.training_run import Rig
from storage.records import EditType
from tasks.miniature.editor import load_miniature
from tasks.miniature.examples import make_example
from training.cases import TrainingCase
from training.config import FlowGrpoConfig
from training.editors.diffusers_editor import DiffusersEditor
from training.editors.full_size import FULL_SIZES, FullSize, full_size_editor, random_condition, square_shape
from training.editors.interface import Condition, Pixels, Shape, Text
from training.flops import (
    NOTHING,
    Encoding,
    Passes,
    count,
    count_encoding,
    editor_passes,
    full_size_passes,
    passes_at_depth,
)
from training.lora import add_adapter

SMALLER = 16
"""By how much the small editor is narrower than the published one, and its texts and images are shorter."""
_BASE = FULL_SIZES["Qwen-Image-Edit-2509"]
assert _BASE.vae is not None
SMALL = replace(
    _BASE,
    config={
        "num_layers": 2,
        "num_attention_heads": 4,
        "attention_head_dim": 48,
        "axes_dims_rope": (12, 18, 18),
        "joint_attention_dim": 3584 // SMALLER,
    },
    words=5,
    vision_side=84,
    template=4,
    # As little as there can be: a CPU is slow at narrow convolutions, and the real one is a hundredth of the work.
    vae=replace(_BASE.vae, config={"base_dim": 2, "num_res_blocks": 0, "dim_mult": [1, 1, 1, 1]}),
)


@dataclass(frozen=True, slots=True)
class Sides:
    """Of square images, in pixels."""

    target: int
    condition: int

    @property
    def shape(self) -> Shape:
        """In tokens."""
        return square_shape(self.target, self.condition)


def brightness(image: Pixels) -> float:
    """How bright an image is, 0 to 5."""
    return float(image.mean()) / 255 * 5


def checksum(image: Pixels) -> float:
    """0 to 5, another number for every image: those of random weights are all about as bright."""
    return zlib.crc32(image.tobytes()) / 2**32 * 5


def miniature_rig(config: FlowGrpoConfig) -> Rig:
    """The committed miniature editor on a CPU, on scenes of its world, as many as an iteration takes."""
    editor = load_miniature().to("cpu")
    examples = {str(index): make_example(0, index) for index in range(config.groups)}
    add_adapter(editor.transformer, config, config.seed, editor.lora_targets)

    @torch.no_grad()
    def encode(case_id: str) -> Condition:
        example = examples[case_id]
        return editor.encode([example.source], [example.instruction])

    passes = [editor_passes(editor, encode(case_id)) for case_id in examples]
    return Rig(
        editor=editor,
        cases=[TrainingCase(case_id=case_id, edit_type=one.edit_type) for case_id, one in examples.items()],
        encode=encode,
        score=brightness,
        passes=Passes(*(round(mean(of_cases)) for of_cases in zip(*passes, strict=True))),
        encoding=NOTHING,  # a table of words, and pixels in another order
    )


class SmallEditor:
    """The small editor with encoders of its own; gives rigs of it in several settings."""

    def __init__(self, config: FlowGrpoConfig) -> None:
        """With the adapter that a configuration wants."""
        from transformers import Qwen2Config, Qwen2Model  # takes seconds

        self.config = config
        self.editor = full_size_editor(SMALL, "cpu", "float32")
        add_adapter(self.editor.transformer, config, config.seed, self.editor.lora_targets)
        self.text_encoder = Qwen2Model(
            Qwen2Config(
                vocab_size=8,
                hidden_size=3584 // SMALLER,
                intermediate_size=18944 // SMALLER,
                num_hidden_layers=1,
                num_attention_heads=7,
                num_key_value_heads=1,
            )
        ).eval()

    def rig(self, sides: Sides, guided: bool, recomputing: bool) -> Rig:
        """The editor in these settings."""
        editor, transformer, shape = self.editor, self.editor.transformer, sides.shape
        pixels = np.random.default_rng(0).integers(0, 256, (sides.condition, sides.condition, 3), dtype=np.uint8)

        def set_up() -> None:
            editor.settings = replace(
                editor.settings,
                target_area=sides.target**2,
                condition_area=sides.condition**2,
                guidance=4.0 if guided else 1.0,
            )
            if recomputing:
                transformer.enable_gradient_checkpointing()
            else:
                transformer.disable_gradient_checkpointing()

        @torch.no_grad()
        def encode(case_id: str) -> Condition:
            source_BMC = editor.encode_sources([pixels])
            return Condition(shape, source_BMC, self._text(shape), self._text(shape) if guided else None)

        set_up()
        latents_BNC = torch.zeros(1, shape.num_tokens, transformer.config.in_channels)
        return Rig(
            editor=editor,
            cases=_cases(self.config),
            encode=encode,
            score=checksum,
            passes=editor_passes(editor, replace(encode(""), negative=None)),
            encoding=Encoding(count(lambda: editor.decode(latents_BNC, shape)), count(lambda: encode(""))),
            set_up=set_up,
        )

    def _text(self, shape: Shape) -> Text:
        length = SMALL.text_tokens(shape) + SMALL.template
        words_BLD = torch.randn(1, length, self.text_encoder.config.hidden_size)
        hidden_BLD = self.text_encoder(inputs_embeds=words_BLD).last_hidden_state[:, SMALL.template :]
        return Text(hidden_BLD, torch.ones(hidden_BLD.shape[:2], dtype=torch.bool))


def full_size_rig(
    size: FullSize,
    sides: Sides,
    config: FlowGrpoConfig,
    device: str,
    dtype: Literal["bfloat16", "float32"],
    guided: bool = False,
    layers: int | None = None,
    prepare: Callable[[DiffusersEditor, Condition], None] = lambda editor, group: None,
) -> Rig:
    """A published editor with random weights, on cases that are encoded already, as the product's are.

    Args:
        layers: blocks instead of its own number, of each kind.
        prepare: what is done to the editor once it has its adapter, such as `training.parallel.prepare`; it is given
            the condition of a group as well.
    """
    shape = sides.shape
    depths = dict.fromkeys(size.depths, layers) if layers else None
    editor = full_size_editor(size, device, dtype, guidance=4.0 if guided else 1.0, depths=depths)
    add_adapter(editor.transformer, config, config.seed, editor.lora_targets)
    # Kept where the product keeps them: each iteration brings its own to the device.
    conditions = {case.case_id: random_condition(size, editor, shape).to("cpu") for case in _cases(config)}
    prepare(editor, conditions["0"].to(device).take([0] * config.group_size))
    if depths is not None:
        passes = passes_at_depth(size, shape, depths, config.lora_rank)
    else:
        passes = full_size_passes(size, shape, config.lora_rank)
    return Rig(
        editor=editor,
        cases=_cases(config),
        encode=conditions.__getitem__,
        score=checksum,
        passes=passes,
        encoding=Encoding(count_encoding(size, shape).decode, 0),
    )


def _cases(config: FlowGrpoConfig) -> Sequence[TrainingCase]:
    """As many as an iteration takes."""
    return [TrainingCase(case_id=str(number), edit_type=EditType.REMOVAL) for number in range(config.groups)]
