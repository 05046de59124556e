"""The frozen base in float8: half the memory of bfloat16, and on GPUs since Ada matrix products at twice the speed.

The linear layers of the blocks keep their weights in e4m3 with a scale per output channel, and nothing else of them.
What goes in is quantised on the fly with a scale per token: a sample's result then does not depend on what it is
batched with, as one scale per tensor would make it. The gradient goes through to the input; weights have none.

The adapter is trained on top of the quantised base, and rollouts, updates and the reference must all use it: between
it and the exact base, ratios deviate by as much as a clip range (`quantisation_error` says by how much). An adapter
trained so meets other weights where it is used with the exact base.

Why not torchao (0.18): its float8 weights for inference have no backward pass ("derivative for aten::_scaled_mm is
not implemented"), its weight-only ones multiply in bfloat16, and its float8 training keeps the bfloat16 weights and
computes their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import ScalingType, scaled_mm

from training.config import FlowGrpoConfig
from training.editors.interface import Condition, TrainableEditor
from training.lora import Transformer
from training.parallel import repeated_blocks
from training.rollout import draw_noise, replay, roll_out, window_start
from training.sde import log_probability

NOT_CONVERTED = ("norm", "mod")
"""Parts of names of layers that stay as they are: modulations scale every token by what they compute from the time."""
MULTIPLE = 16
"""Of which a layer's sides must be multiples: what the kernel takes."""
_FLOAT8 = torch.float8_e4m3fn
_SMALLEST = 2.0**-14
"""A row is scaled as if its largest number were at least this; rows of zeros have a scale then."""


class Float8Linear(nn.Linear):
    """A frozen linear layer in float8. It is an `nn.Linear` since that is what peft puts adapters on.

    The weights are declared as uint8, so that `.to(dtype)`, peft and FSDP, which all know that floating-point weights
    may be cast and integers may not, leave them alone. The scales are powers of two, which a cast to bfloat16 keeps.
    """

    scale_O1: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Of a layer in any precision."""
        nn.Module.__init__(self)  # that of nn.Linear would allocate what is to be saved
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI, scale_O1 = quantise(linear.weight.detach())
        self.weight = nn.Parameter(weight_OI.view(torch.uint8), requires_grad=False)
        self.register_buffer("scale_O1", scale_O1)
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        """As of `nn.Linear`; in the precision of autocast where that is on."""
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        with torch.autocast(device, enabled=False):
            rows_RI = input.reshape(-1, self.in_features).to(dtype)
            result_RO = _Multiply.apply(rows_RI, self.weight, self.scale_O1.float(), self.bias)
        return result_RO.view(*input.shape[:-1], self.out_features)


class _Multiply(torch.autograd.Function):
    """rows @ weight.T + bias, with a gradient for the rows alone."""

    @staticmethod
    def forward(ctx: Any, rows_RI: Tensor, weight_OI: Tensor, scale_O1: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight_OI, scale_O1)
        return multiply(*quantise(rows_RI), weight_OI.view(_FLOAT8), scale_O1, bias_O, rows_RI.dtype)

    @staticmethod
    def backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor, None, None, None]:
        # Not in float8: this product is a seventh of all that an iteration computes (rollouts, references and
        # recomputed activations have none), and its rounding would go straight into the adapter's gradient.
        weight_OI, scale_O1 = ctx.saved_tensors
        return grad_RO @ dequantise(weight_OI.view(_FLOAT8), scale_O1, grad_RO.dtype), None, None, None


def quantise(rows_RK: Tensor) -> tuple[Tensor, Tensor]:
    """Each row as float8 times a power of two.

    A power of two costs nothing but range, of which e4m3 has enough: rounding is relative to each number. And it is
    exact: no number is rounded twice, and none lands above the largest that float8 has, which would be NaN.

    Returns: (R, K) float8, and (R, 1) float32; rows are their product, within 1/16 of each number.
    """
    largest_R1 = rows_RK.abs().amax(dim=-1, keepdim=True).float().clamp(min=_SMALLEST)
    # The exponent alone; numbers then lie below 256 of 448. Logarithms would have to be trusted at their edges.
    scale_R1 = (largest_R1.view(torch.int32) & 0x7F800000).view(torch.float32) / 128
    return (rows_RK / scale_R1.to(rows_RK.dtype)).to(_FLOAT8), scale_R1


def dequantise(rows_RK: Tensor, scale_R1: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantise`, exact in bfloat16 and float32."""
    return rows_RK.to(dtype) * scale_R1.to(dtype)


def multiply(
    rows_RI: Tensor,
    row_scale_R1: Tensor,
    weight_OI: Tensor,
    scale_O1: Tensor,
    bias_O: Tensor | None,
    dtype: torch.dtype,
    kernel: bool | None = None,
) -> Tensor:
    """rows @ weight.T + bias, both scaled row by row.

    Args:
        kernel: by the kernel for float8, whose results are bfloat16, or by float32 products of the same numbers;
            None: by the kernel where the device has it.
    """
    if has_kernel(rows_RI.device) if kernel is None else kernel:
        rowwise = ScalingType.RowWise
        bias_O = None if bias_O is None else bias_O.to(torch.bfloat16)
        result_RO = scaled_mm(
            rows_RI,
            weight_OI.t(),
            row_scale_R1,
            rowwise,
            scale_O1.t(),
            rowwise,
            bias=bias_O,
            output_dtype=torch.bfloat16,
            use_fast_accum=True,  # Hopper accumulates in about 14 bits then; the factors have four
        )
        return result_RO.to(dtype)
    product_RO = dequantise(rows_RI, row_scale_R1, torch.float32) @ dequantise(weight_OI, scale_O1, torch.float32).t()
    return (product_RO if bias_O is None else product_RO + bias_O.float()).to(dtype)


@torch.compiler.assume_constant_result
def has_kernel(device: torch.device) -> bool:
    """Whether a device multiplies float8: GPUs since Ada and Hopper. Others get the numbers, not the speed."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion did."""

    layers: int
    saved_mb: float
    """Memory of the weights before, less that of weights and scales after."""


def convert_base(transformer: Transformer, skip: Sequence[str] = NOT_CONVERTED) -> Converted:
    """Turn the attention and MLP projections of the blocks into float8, in place, block by block.

    Before or after the adapter is put on; before blocks are compiled or sharded. What the blocks do not contain
    (embeddings of inputs and time, the last projection) stays as it is.

    Args:
        skip: layers whose name contains one of these.
    """
    layers, saved = 0, 0
    for block in repeated_blocks(transformer):
        for name, layer in list(block.named_modules()):
            if not isinstance(layer, nn.Linear) or isinstance(layer, Float8Linear) or "lora_" in name:
                continue
            if any(word in name for word in skip):
                continue
            if layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:
                raise ValueError(
                    f"{name} is {layer.in_features} to {layer.out_features}, not multiples of {MULTIPLE}: "
                    "name it in skip"
                )
            new = Float8Linear(layer)
            block.set_submodule(name, new)
            layers += 1
            saved += layer.weight.nbytes - new.weight.nbytes - new.scale_O1.nbytes
    if not layers:
        raise ValueError(f"no linear layer was left to convert in the blocks of {type(transformer).__name__}")
    return Converted(layers, saved / 2**20)


@dataclass(frozen=True, slots=True)
class QuantisationError:
    """How far a quantised editor is from what it was, over the trained steps of one rollout."""

    velocity: float
    """Norm of the difference over norm, of all velocities."""
    worst_sample: float
    """The same of the sample and step where it is largest."""
    ratio_deviation: float
    """Largest |ratio - 1| between the two: what the clip would see if only one of rollout and update were quantised.
    Both are, so it is nothing to be trained away; next to `ratio_clip` it says that they must be."""


def convert_measured(
    editor: TrainableEditor, condition: Condition, config: FlowGrpoConfig, skip: Sequence[str] = NOT_CONVERTED
) -> tuple[Converted, QuantisationError]:
    """Convert an editor's base and measure what that changed. It takes no memory for two bases.

    Args:
        condition: of whole groups, `config.group_size` samples each; one group will do.
    """
    first = window_start(config, 0)
    noise_KBNC = draw_noise(condition, config, 0, range(len(condition) // config.group_size))
    trajectory = roll_out(editor, condition, config, first, noise_KBNC)

    @torch.no_grad()
    def look() -> tuple[Tensor, Tensor]:
        distribution = replay(editor, condition, trajectory, config)
        velocity_SBNC = torch.stack(
            [
                editor.velocity(states_BNC, t.expand(len(condition)), condition)
                for states_BNC, t in zip(trajectory.states_SBNC, trajectory.times_S, strict=True)
            ]
        )
        return velocity_SBNC, log_probability(distribution, trajectory.next_SBNC.flatten(0, 1))

    exact_SBNC, exact_log_prob_B = look()
    converted = convert_base(editor.transformer, skip)
    quantised_SBNC, log_prob_B = look()
    return converted, _error(exact_SBNC, quantised_SBNC, exact_log_prob_B, log_prob_B)


def _error(
    exact_SBNC: Tensor, quantised_SBNC: Tensor, exact_log_prob_B: Tensor, log_prob_B: Tensor
) -> QuantisationError:
    difference_SBNC = quantised_SBNC - exact_SBNC
    by_sample = difference_SBNC.flatten(2).norm(dim=2) / exact_SBNC.flatten(2).norm(dim=2)
    return QuantisationError(
        velocity=float(difference_SBNC.norm() / exact_SBNC.norm()),
        worst_sample=float(by_sample.max()),
        ratio_deviation=float((torch.exp(log_prob_B - exact_log_prob_B) - 1).abs().max()),
    )
