"""Flow-GRPO: rollouts, rewards, advantages, updates, in reading order.

The groups of an iteration are split into shares, one per optimiser step, and each share over the processes. While a
share is being rolled out, the judge works on the one before; while a share is learnt from, on the one after. Nothing
is learnt from a rollout of another iteration, so overlapping changes the time alone.

Axes: P groups of an iteration, G samples per group, B samples.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from storage.records import identity
from training.advantage import group_advantages, has_signal
from training.cases import CaseSampler, Conditions, TrainingCase
from training.config import COMPUTED_ALIKE, FlowGrpoConfig
from training.editors.interface import Condition, Pixels, TrainableEditor, join
from training.lora import adapter_parameters, adapter_state
from training.metrics import GroupScores, Metrics, saturation
from training.parallel import World
from training.reward import Reward, rewards_of, scores_to_tensor
from training.rollout import draw_noise, repeat_groups, roll_out, window_start
from training.state import Checkpoint, History, Sink, check_run, restore_training_state, training_state
from training.update import Batch, Measured, check_finite, gradients_of, num_passes, with_replayed_log_prob


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration has to show."""

    metrics: Metrics
    groups: tuple[GroupScores, ...]
    pictures: tuple[Pixels, ...]
    """The samples of the first of the groups."""


class DeadJudgeError(RuntimeError):
    """Too many scores are missing: training on would learn from what the judge happens to answer."""


def train(
    editor: TrainableEditor,
    cases: Sequence[TrainingCase],
    conditions: Conditions,
    reward: Reward,
    config: FlowGrpoConfig,
    sink: Sink,
    *,
    second_judge: Reward | None = None,
    watch: Callable[[Iteration], None] | None = None,
    lanes: int = 1,
    world: World | None = None,
    in_step: bool = False,
    base: str | None = None,
) -> tuple[dict[str, Tensor], History]:
    """Train the editor's adapter (see `lora.add_adapter`) and return its averaged tensors and the metrics.

    Every random number depends on (seed, iteration, group) alone, so a run that was killed continues from the sink
    exactly as if it had not been, on as many processes as it is now given.

    Args:
        reward: called from a thread of its own, one call at a time.
        second_judge: independent of the reward; looked at beside it, never learnt from.
        watch: called after each iteration, in the main process alone.
        lanes: threads of a CPU that a model's batches are shared by.
        in_step: whether the processes share the base, see `parallel.shard_base`, and so must make the same passes.
        base: what identifies the editor without its adapter; None: its fingerprint. A checkpoint knows it.
    """
    if not cases:
        raise ValueError("no cases to train on: every case got the full score, or none was scored")
    run = _Run(
        editor,
        cases,
        conditions,
        reward,
        config,
        base or editor.fingerprint,
        second_judge,
        lanes,
        world or World(),
        in_step,
    )
    first = run.continue_from(sink)
    for iteration in range(first, config.iterations):
        done = _iterate(run, iteration)
        run.history.append(asdict(done.metrics))
        if run.world.is_main:
            if (iteration + 1) % config.checkpoint_every == 0 or iteration + 1 == config.iterations:
                sink.save(run.checkpoint(iteration + 1))
            if watch is not None:
                watch(done)
    with torch.no_grad():
        for parameter, averaged in zip(run.parameters, run.average, strict=True):
            parameter.copy_(averaged)
    return adapter_state(editor.transformer), run.history


@dataclass
class _Run:
    """What a run carries from one iteration to the next."""

    editor: TrainableEditor
    cases: Sequence[TrainingCase]
    conditions: Conditions
    reward: Reward
    config: FlowGrpoConfig
    base: str
    second_judge: Reward | None
    lanes: int
    world: World
    in_step: bool = False
    history: History = field(default_factory=list)

    def __post_init__(self) -> None:
        config, shares = self.config, self.config.updates_per_rollout * self.world.size
        if config.groups % shares:
            raise ValueError(
                f"groups {config.groups}: must be a multiple of updates_per_rollout x processes = {shares}, so that "
                "every process has as many"
            )
        self.parameters = adapter_parameters(self.editor.transformer)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.sampler = CaseSampler(self.cases, config)

    @property
    def identity(self) -> dict[str, str]:
        """What the run is of. It may become longer, or be computed in other batches."""
        free = ("iterations", *COMPUTED_ALIKE)
        config = {name: value for name, value in asdict(self.config).items() if name not in free}
        return {
            "config": json.dumps(config, sort_keys=True),
            "editor": self.base,
            "cases": identity(*(case.case_id for case in self.cases)),
        }

    def checkpoint(self, step: int) -> Checkpoint:
        """The run after `step` iterations."""
        tensors = training_state(self.parameters, self.optimizer, self.average)
        tensors["sampler.rests_until"] = self.sampler.rests_until.clone()
        return Checkpoint(step, tensors, list(self.history), self.identity)

    def continue_from(self, sink: Sink) -> int:
        """Take up the newest checkpoint, if there is one; returns the iterations that are done."""
        saved = sink.load()
        if saved is None:
            return 0
        check_run(saved, self.identity)
        restore_training_state(saved.tensors, self.parameters, self.optimizer, self.average)
        self.sampler.rests_until.copy_(saved.tensors["sampler.rests_until"])
        self.history = list(saved.history)
        return saved.step


class _Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"encode": 0.0, "rollout": 0.0, "reward": 0.0, "update": 0.0}

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class _Share:
    """What one optimiser step learns from, of this process: groups at these positions."""

    positions: tuple[int, ...]
    batches: Sequence[Batch]
    pictures: Sequence[Pixels]
    """G per group, groups in the order of the positions."""
    scores: Future[list[float | None]]
    second_scores: Future[list[float | None]] | None


def _iterate(run: _Run, iteration: int) -> Iteration:
    config, world, clock = run.config, run.world, _Clock()
    picked = run.sampler.pick(iteration)
    each = config.groups // config.updates_per_rollout
    with ThreadPoolExecutor(2, thread_name_prefix="judge") as judges:
        shares = []
        for start in range(0, config.groups, each):
            mine = tuple(world.share(range(start, start + each)))
            shares.append(_roll_out_share(run, iteration, picked, mine, judges, clock))
        if config.old_log_prob == "replay":
            with clock.spent_on("update"):
                shares = [_with_replayed(run, share) for share in shares]
        groups: list[GroupScores] = []
        updates: list[tuple[Measured, float]] = []
        for number, share in enumerate(shares):
            with clock.spent_on("reward"):
                scored = _scored(run, picked, share)
                of_all = [group for part in world.gather_objects(scored) for group in part]
            groups += of_all
            _check_alive(of_all, iteration, config)
            with clock.spent_on("update"):
                update = _update(run, share, of_all, f"iteration {iteration}, update {number}")
            updates += [update] if update else []
    run.sampler.learn(iteration, picked, [group.all_full for group in groups])
    metrics = _metrics(iteration, groups, updates, config, clock)
    return Iteration(metrics, tuple(groups), tuple(shares[0].pictures[: config.group_size]))


def _roll_out_share(
    run: _Run,
    iteration: int,
    picked: Sequence[int],
    positions: tuple[int, ...],
    judges: ThreadPoolExecutor,
    clock: _Clock,
) -> _Share:
    """Draw the samples of some groups and hand them to the judge."""
    config, editor = run.config, run.editor
    case_ids = [run.cases[picked[position]].case_id for position in positions]
    with clock.spent_on("encode"):
        encoded = dict(zip(positions, run.conditions(case_ids), strict=True))
    first = window_start(config, iteration)
    batches, pictures = [], {}
    with clock.spent_on("rollout"):
        batched = list(_of_one_shape(encoded, config))
        if run.in_step:  # of more shapes there are more batches: the others draw one of theirs again
            batched += batched[-1:] * (run.world.largest(len(batched)) - len(batched))
        for some in batched:
            condition = join([encoded[position] for position in some]).to(editor.device)
            condition = condition.take(repeat_groups(range(len(some)), config.group_size))
            noise_KBNC = draw_noise(condition, config, iteration, some)
            trajectory = roll_out(editor, condition, config, first, noise_KBNC, run.lanes)
            if some[0] in pictures:
                continue
            batches.append(Batch(some, condition, trajectory))
            drawn = editor.decode(trajectory.final_BNC, condition.shape)
            for i, position in enumerate(some):
                pictures[position] = drawn[i * config.group_size : (i + 1) * config.group_size]
    images = [picture for position in positions for picture in pictures[position]]
    of_image = [case_id for case_id in case_ids for _ in range(config.group_size)]
    scores = judges.submit(run.reward, of_image, images)
    second = None
    if run.second_judge is not None and iteration % config.second_judge_every == 0:
        second = judges.submit(run.second_judge, case_ids, images[:: config.group_size])
    return _Share(positions, batches, images, scores, second)


def _of_one_shape(encoded: Mapping[int, Condition], config: FlowGrpoConfig) -> Iterator[tuple[int, ...]]:
    """The groups in batches of one shape, as many at once as a rollout may have."""
    at_once = max(1, config.rollout_batch // config.group_size)
    by_shape: dict[object, list[int]] = {}
    for position, condition in encoded.items():
        by_shape.setdefault(condition.shape, []).append(position)
    for some in by_shape.values():
        yield from (tuple(some[i : i + at_once]) for i in range(0, len(some), at_once))


def _with_replayed(run: _Run, share: _Share) -> _Share:
    batches = [with_replayed_log_prob(run.editor, batch, run.config) for batch in share.batches]
    if run.in_step:
        passes = sum(num_passes(batch, run.config) for batch in share.batches)
        for _ in range(run.world.largest(passes) - passes):
            with_replayed_log_prob(run.editor, share.batches[0].take(torch.tensor([0])), run.config)
    return _Share(share.positions, batches, share.pictures, share.scores, share.second_scores)


def _scored(run: _Run, picked: Sequence[int], share: _Share) -> list[GroupScores]:
    """Wait for the judge."""
    size = run.config.group_size
    scores_B = scores_to_tensor(share.scores.result()).tolist()
    second = scores_to_tensor(share.second_scores.result() if share.second_scores else [None] * len(share.positions))
    cases = [run.cases[picked[position]] for position in share.positions]
    return [
        GroupScores(
            case_id=case.case_id,
            edit_type=case.edit_type,
            scores=tuple(scores_B[i * size : (i + 1) * size]),
            full_at=case.full_at,
            second_score=float(second[i]),
        )
        for i, case in enumerate(cases)
    ]


def _check_alive(groups: Sequence[GroupScores], iteration: int, config: FlowGrpoConfig) -> None:
    """Raises: DeadJudgeError where more scores are missing than may be."""
    total = len(groups) * config.group_size
    missing = total - sum(len(group.scored) for group in groups)
    if missing / total > config.max_missing_share:
        raise DeadJudgeError(
            f"iteration {iteration}: {missing} of {total} scores are missing, more than max_missing_share "
            f"{config.max_missing_share:g} allows. See to the judge and start again: training goes on from its last "
            "checkpoint, and scores that were given are not asked for again"
        )


def _update(run: _Run, share: _Share, groups: Sequence[GroupScores], where: str) -> tuple[Measured, float] | None:
    """One optimiser step; None where no sample of the share says anything.

    Args:
        groups: of the share in all processes, in order.
    """
    config, world, parameters = run.config, run.world, run.parameters
    rewards_PG = rewards_of(_scores_PG(groups), config.reward_slope, config.reward_shift)
    advantages_PG = group_advantages(rewards_PG, config.advantage_limit, min_scored_share=config.min_scored_share)
    total = int((advantages_PG != 0).sum())
    if total == 0:
        return None
    mine = world.rank * len(share.positions)
    of_position = dict(zip(share.positions, advantages_PG[mine : mine + len(share.positions)], strict=True))
    # Samples without advantage tell nothing; whole groups of them are dropped before they cost a forward pass.
    useful = []
    for batch in share.batches:
        advantages_B = torch.cat([of_position[position] for position in batch.groups])
        rows_B = advantages_B.nonzero().flatten()
        if len(rows_B):
            useful.append((batch.take(rows_B), advantages_B[rows_B]))
    in_step = (world, share.batches[0]) if run.in_step else None
    gradients, measured = gradients_of(run.editor, useful, total, config, run.lanes, in_step)
    gradients = world.sum_gradients(gradients)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    norm = float(nn.utils.clip_grad_norm_(parameters, config.gradient_norm))
    check_finite(norm, where)
    run.optimizer.step()
    for averaged, parameter in zip(run.average, parameters, strict=True):
        averaged.lerp_(parameter.detach(), 1 - config.ema_decay)
    parts = world.gather_objects(measured)
    whole = Measured(
        steps=sum(part.steps for part in parts),
        loss=sum(part.loss for part in parts),
        clipped=sum(part.clipped for part in parts),
        kl=sum(part.kl for part in parts),
        ratio_deviation=max(part.ratio_deviation for part in parts),
    )
    return whole, norm


def _scores_PG(groups: Sequence[GroupScores]) -> Tensor:
    """NaN where a score is missing."""
    return torch.tensor([group.scores for group in groups], dtype=torch.float32)


def _metrics(
    iteration: int,
    groups: Sequence[GroupScores],
    updates: Sequence[tuple[Measured, float]],
    config: FlowGrpoConfig,
    clock: _Clock,
) -> Metrics:
    scores = [score for group in groups for score in group.scored]
    full = [score >= group.full_at for group in groups for score in group.scored]
    rewards_PG = rewards_of(_scores_PG(groups), config.reward_slope, config.reward_shift)
    signal_P = has_signal(rewards_PG, min_scored_share=config.min_scored_share)
    looked_at = [group for group in groups if not np.isnan([group.second_score, group.scores[0]]).any()]
    steps = sum(measured.steps for measured, _ in updates)

    def per_step(values: Sequence[float]) -> float:
        return sum(values) / steps if steps else 0.0

    return Metrics(
        iteration=iteration,
        score=_mean(scores),
        reward=float(rewards_PG.nanmean()),
        full_share=_mean(full),
        no_signal_share=float((~signal_P).float().mean()),
        missing=len(groups) * config.group_size - len(scores),
        loss=per_step([measured.loss for measured, _ in updates]),
        clipped_share=per_step([measured.clipped for measured, _ in updates]),
        kl=per_step([measured.kl for measured, _ in updates]),
        ratio_deviation=updates[0][0].ratio_deviation if updates else 0.0,
        gradient_norm=_mean([norm for _, norm in updates]) if updates else 0.0,
        second_score=_mean([group.second_score for group in looked_at]),
        score_there=_mean([group.scores[0] for group in looked_at]),
        **{f"seconds_{what}": seconds for what, seconds in clock.seconds.items()},
        by_edit_type=saturation(groups),
    )


def _mean(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")
