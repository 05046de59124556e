"""Flow-GRPO: rollouts, rewards, advantages, updates, in reading order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from training import sde
from training.advantage import group_advantages, has_signal
from training.config import FlowGrpoConfig
from training.editors.interface import Condition, Pixels, TrainableEditor
from training.lanes import add_up, map_lanes
from training.lora import adapter_parameters, adapter_state, reference
from training.objective import policy_loss
from training.reward import Reward, rewards_of, scores_to_tensor
from training.rollout import Trajectory, pick_cases, repeat_groups, replay, roll_out
from training.state import History, Sink, restore_training_state, training_state


@dataclass(frozen=True, slots=True)
class TrainingCase:
    """One case to train on."""

    case_id: str
    source: Pixels
    instruction: str
    edit_type: str
    full_at: float = 5.0
    """Scores from here on count as full in the metrics; the judge's own threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One iteration in numbers."""

    iteration: int
    score: float
    """Mean score of the samples that were scored, 0 to 5; NaN if none was."""
    reward: float
    """Mean reward, in (0, 1)."""
    full_share: float
    """Share of scored samples with the full score."""
    no_signal_share: float
    """Share of groups whose samples are all alike, and which are left out of the update."""
    missing: int
    """Samples without a score."""
    clipped_share: float
    """Share of trained steps that the clip holds back, over all updates."""
    kl: float
    """Mean exact KL to the reference per trained step."""
    ratio_deviation: float
    """Largest |ratio - 1| in the first, on-policy update: a check on the replay."""
    gradient_norm: float
    seconds_rollout: float
    seconds_reward: float
    seconds_update: float


def train(
    editor: TrainableEditor,
    cases: Sequence[TrainingCase],
    reward: Reward,
    config: FlowGrpoConfig,
    sink: Sink,
    on_iteration: Callable[[Metrics], None] = lambda metrics: None,
    lanes: int = 1,
) -> tuple[dict[str, Tensor], History]:
    """Train the editor's adapter (see `lora.add_adapter`) and return its averaged tensors and the metrics.

    Every random number depends on (seed, iteration) alone, so a run that was killed continues from the sink exactly
    as if it had not been.
    """
    if not cases:
        raise ValueError("no cases to train on: every case got the full score, or none was scored")
    parameters = adapter_parameters(editor.transformer)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    average = [parameter.detach().clone() for parameter in parameters]
    history: History = []
    first = 0
    saved = sink.load()
    if saved is not None:
        first, tensors, history = saved
        restore_training_state(tensors, parameters, optimizer, average)
    for iteration in range(first, config.iterations):
        metrics = _iterate(editor, cases, reward, config, iteration, optimizer, average, lanes)
        history.append(asdict(metrics))
        if (iteration + 1) % config.checkpoint_every == 0 or iteration + 1 == config.iterations:
            sink.save(iteration + 1, training_state(parameters, optimizer, average), history)
        on_iteration(metrics)
    with torch.no_grad():
        for parameter, averaged in zip(parameters, average, strict=True):
            parameter.copy_(averaged)
    return adapter_state(editor.transformer), history


def _iterate(
    editor: TrainableEditor,
    cases: Sequence[TrainingCase],
    reward: Reward,
    config: FlowGrpoConfig,
    iteration: int,
    optimizer: torch.optim.Optimizer,
    average: list[Tensor],
    lanes: int,
) -> Metrics:
    started = time.perf_counter()
    picked = [cases[i] for i in pick_cases(len(cases), config.groups, iteration, config.seed)]
    with torch.no_grad():
        encoded = editor.encode([case.source for case in picked], [case.instruction for case in picked])
    condition = encoded.take(repeat_groups(range(config.groups), config.group_size))
    trajectory = roll_out(editor, condition, config, iteration, lanes)
    images = editor.decode(trajectory.final_BNC, condition.shape)
    rolled_out = time.perf_counter()

    scores_B = scores_to_tensor(reward([case.case_id for case in picked for _ in range(config.group_size)], images))
    rewards_PG = rewards_of(scores_B, config.reward_slope, config.reward_shift).view(config.groups, config.group_size)
    advantages_PG = group_advantages(rewards_PG, config.advantage_limit)
    signal_P = has_signal(rewards_PG)
    rewarded = time.perf_counter()

    parameters = adapter_parameters(editor.transformer)
    updates = []
    shares = torch.arange(config.groups * config.group_size).view(config.updates_per_rollout, -1)
    for share_B in shares:
        # Samples without advantage tell nothing; whole groups of them are dropped before they cost a forward pass.
        useful_B = share_B[advantages_PG.flatten()[share_B] != 0]
        if not len(useful_B):
            continue
        gradients, *update = _gradients(
            editor,
            condition.take(useful_B),
            trajectory.take(useful_B),
            advantages_PG.flatten()[useful_B],
            config,
            lanes,
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(parameters, config.gradient_norm)
        optimizer.step()
        for averaged, parameter in zip(average, parameters, strict=True):
            averaged.lerp_(parameter.detach(), 1 - config.ema_decay)
        updates.append((*update, float(norm)))
    full_at_B = torch.tensor([case.full_at for case in picked]).repeat_interleave(config.group_size)
    scored_B = ~scores_B.isnan()
    clipped, kl, deviation, norms = zip(*updates, strict=True) if updates else ((0.0,),) * 4
    return Metrics(
        iteration=iteration,
        score=float(scores_B[scored_B].mean()),
        reward=float(rewards_PG.nanmean()),
        full_share=float((scores_B >= full_at_B)[scored_B].float().mean()),
        no_signal_share=float((~signal_P).float().mean()),
        missing=int(scores_B.isnan().sum()),
        clipped_share=sum(clipped) / len(clipped),
        kl=sum(kl) / len(kl),
        ratio_deviation=deviation[0],
        gradient_norm=sum(norms) / len(norms),
        seconds_rollout=rolled_out - started,
        seconds_reward=rewarded - rolled_out,
        seconds_update=time.perf_counter() - rewarded,
    )


def _gradients(
    editor: TrainableEditor,
    condition: Condition,
    trajectory: Trajectory,
    advantages_B: Tensor,
    config: FlowGrpoConfig,
    lanes: int,
) -> tuple[list[Tensor], float, float, float]:
    """The gradient of one update, in micro-batches that the lanes share.

    Returns: one gradient per adapter parameter; share of clipped steps, mean KL, largest |ratio - 1|.
    """
    parameters = adapter_parameters(editor.transformer)
    steps, samples = trajectory.log_prob_SB.shape
    size = min(max(1, config.micro_batch // steps), -(-samples // lanes))
    chunks = torch.arange(samples).split(size)

    def reference_step(chunk_B: Tensor) -> sde.StepDistribution:
        return replay(editor, condition.take(chunk_B), trajectory.take(chunk_B), config)

    # All of the reference first: switching the adapter off concerns every lane.
    with torch.no_grad(), reference(editor.transformer):
        base = map_lanes(reference_step, chunks, lanes)

    def policy_step(item: tuple[Tensor, sde.StepDistribution]) -> tuple[tuple[Tensor, ...], Tensor]:
        chunk_B, base = item
        part = trajectory.take(chunk_B)
        policy = replay(editor, condition.take(chunk_B), part, config)
        log_prob_B = sde.log_probability(policy, part.next_SBNC.flatten(0, 1))
        advantage_B = advantages_B[chunk_B].repeat(steps).to(log_prob_B.device)
        surrogate = policy_loss(log_prob_B, part.log_prob_SB.flatten(), advantage_B, config.ratio_clip)
        kl = sde.kl_divergence(policy, base).mean()
        loss = len(chunk_B) / samples * (surrogate.loss + config.kl_weight * kl)
        measured = torch.stack([surrogate.clipped_share, kl.detach(), (surrogate.ratio - 1).abs().max()])
        # The last block's text stream ends in nothing: its adapter has no gradient.
        return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True), measured

    results = map_lanes(policy_step, list(zip(chunks, base, strict=True)), lanes)
    gradients = add_up(gradient for gradient, _ in results)
    measured = torch.stack([row for _, row in results])
    weights = torch.tensor([len(chunk) / samples for chunk in chunks], device=measured.device)
    clipped, kl = (weights[:, None] * measured[:, :2]).sum(0).tolist()
    return gradients, clipped, kl, float(measured[:, 2].max())
