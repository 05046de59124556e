"""Supervised flow matching: teach an editor from triplets of source, instruction and target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.editors.interface import Pixels, SupervisedEditor
from training.lanes import add_up, map_lanes
from training.rollout import generator_of
from training.state import Checkpoint, History, Sink, restore_training_state, training_state


class Example(Protocol):
    """One triplet."""

    @property
    def source(self) -> Pixels: ...

    @property
    def target(self) -> Pixels: ...

    @property
    def instruction(self) -> str: ...

    @property
    def region(self) -> NDArray[np.floating]:
        """(H, W) in [0, 1]: what the edit changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedConfig:
    """How supervised training runs."""

    steps: int
    learning_rate: float = 1.5e-3
    warmup_steps: int = 200
    decay_share: float = 0.3
    """The learning rate falls over this share of the steps, at the end. Until then it is constant, so that a run may
    still be made longer or shorter."""
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    ema_decay: float = 0.999
    region_weight: float = 2.0
    """What the edit changes weighs this much in the loss as what it keeps: a mistake there is the worse one."""
    smallest_areas: tuple[float, float] = (0.05, 0.25)
    """A part smaller than this share of the image weighs as if it were this large: at first, and from `sharpen_from`
    on. While a small part weighs much, what is in it is learnt, but not where it ends: at its rim, drawing too much
    costs less than drawing too little."""
    sharpen_from: int = 10_500
    """The step from which rims count."""
    smallest_s: float = 0.1
    """Times are drawn evenly over [this, 1] in the sampler's own spacing; sampling hardly looks below."""
    bfloat16: bool = False
    """Compute in bfloat16 under autocast; the weights stay float32."""
    checkpoint_every: int = 500
    seed: int = 0


def flow_matching_loss(
    editor: SupervisedEditor,
    examples: Sequence[Example],
    even_B: Tensor,
    noise_BNC: Tensor,
    config: SupervisedConfig,
    step: int = 0,
) -> Tensor:
    """Mean over samples, tokens and channels of weight * t * |v - (noise - x_0)|^2.

    The factor t balances the times: for an editor that predicts the image, the plain velocity error grows as 1 / t^2.

    Args:
        even_B: times before the model's own spacing, in (0, 1].
        noise_BNC: standard normal.
        step: decides which of the `smallest_areas` counts.
    """
    condition = editor.encode([e.source for e in examples], [e.instruction for e in examples])
    image_BNC = editor.encode_images([e.target for e in examples])
    t_B, noise_BNC = editor.shift_times(even_B).to(image_BNC.device), noise_BNC.to(image_BNC.device)
    noisy_BNC = torch.lerp(image_BNC, noise_BNC, t_B[:, None, None])
    # Around the network alone: the codec and the noise stay exact.
    autocast = torch.autocast(image_BNC.device.type, torch.bfloat16) if config.bfloat16 else nullcontext()
    with autocast:
        velocity_BNC = editor.velocity(noisy_BNC, t_B, condition)
    error_BNC = velocity_BNC - (noise_BNC - image_BNC)
    region_BNC = editor.latent_mask(np.stack([e.region for e in examples]))
    smallest = config.smallest_areas[step >= config.sharpen_from]
    weight_BNC = config.region_weight * _evenly(region_BNC, smallest) + _evenly(1 - region_BNC, smallest)
    return (weight_BNC * t_B[:, None, None] * error_BNC**2).mean()


def _evenly(part_BNC: Tensor, smallest: float) -> Tensor:
    """A part of each picture with mean 1, however large it is: otherwise what is large would be learnt alone.

    A small object that is to be drawn counts as much as a whole background, and so does a small subject to be kept.
    """
    return part_BNC / part_BNC.mean((1, 2), keepdim=True).clamp(min=smallest)


def _loss_and_gradients(
    editor: SupervisedEditor,
    parameters: Sequence[nn.Parameter],
    examples: Sequence[Example],
    config: SupervisedConfig,
    step: int,
    lanes: int,
) -> tuple[float, list[Tensor]]:
    """Of one batch, its examples shared by the lanes. The random numbers depend on (seed, step) alone."""
    generator = generator_of(config.seed, step)
    even_B = config.smallest_s + (1 - config.smallest_s) * torch.rand(len(examples), generator=generator)
    with torch.no_grad():
        like_BNC = editor.encode_images([examples[0].target])
    noise_BNC = torch.randn(len(examples), *like_BNC.shape[1:], generator=generator)

    def part(rows_B: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        chosen = [examples[i] for i in rows_B.tolist()]
        share = len(chosen) / len(examples)
        loss = share * flow_matching_loss(editor, chosen, even_B[rows_B], noise_BNC[rows_B], config, step)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return float(loss.detach()), gradients

    # On CPUs the backward pass of the fused attention takes ten times as long in bfloat16 as the plain one.
    plain = sdpa_kernel(SDPBackend.MATH) if config.bfloat16 and like_BNC.device.type == "cpu" else nullcontext()
    with plain:
        parts = map_lanes(part, torch.arange(len(examples)).chunk(lanes), lanes)
    return sum(loss for loss, _ in parts), add_up(gradients for _, gradients in parts)


def train_supervised(
    editor: SupervisedEditor,
    parameters: Sequence[nn.Parameter],
    batches_from: Callable[[int], Iterable[Sequence[Example]]],
    config: SupervisedConfig,
    sink: Sink,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    lanes: int = 1,
) -> None:
    """Train `parameters` in place; at the end they are their running average.

    Args:
        parameters: what to train: all of a small editor, or the adapter of a large one.
        batches_from: the batches from a given step on, so that a run that was killed continues.
        on_step: called with the number of steps done and the loss.
    """
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    average = [parameter.detach().clone() for parameter in parameters]
    first = 0
    history: History = []
    if (saved := sink.load()) is not None:
        first, history = saved.step, list(saved.history)
        restore_training_state(saved.tensors, parameters, optimizer, average)
    losses: list[float] = []
    for step, examples in zip(range(first, config.steps), batches_from(first), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        loss, gradients = _loss_and_gradients(editor, parameters, examples, config, step, lanes)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, config.gradient_norm)
        optimizer.step()
        # A young average forgets faster, else it would remember the initialisation.
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        for averaged, parameter in zip(average, parameters, strict=True):
            averaged.lerp_(parameter.detach(), 1 - decay)
        losses.append(loss)
        on_step(step + 1, losses[-1])
        if (step + 1) % config.checkpoint_every == 0:
            history.append({"step": step + 1, "loss": sum(losses) / len(losses)})
            losses.clear()
            sink.save(Checkpoint(step + 1, training_state(parameters, optimizer, average), list(history)))
    with torch.no_grad():
        for parameter, averaged in zip(parameters, average, strict=True):
            parameter.copy_(averaged)


def _schedule(step: int, config: SupervisedConfig) -> float:
    """Linear warm-up, constant, linear fall to zero."""
    left = (config.steps - step) / max(1.0, config.decay_share * config.steps)
    return min(1.0, (step + 1) / config.warmup_steps, left)
