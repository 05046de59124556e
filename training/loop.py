"""Flow-GRPO: rollouts, rewards, advantages, updates, in reading order.

The groups of an iteration are split into shares, one per optimiser step, and each share over the processes. While a
share is being rolled out, the judge works on the one before; while a share is learnt from, on the one after. Nothing
is learnt from a rollout of another iteration, so overlapping changes the time alone.

Axes: P groups of an iteration, G samples per group, B samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from training.advantage import group_advantages
from training.asking import Asker
from training.cases import Conditions, TrainingCase
from training.config import FlowGrpoConfig
from training.editors.interface import Pixels, TrainableEditor
from training.lora import adapter_state
from training.metrics import GroupScores, Metrics, metrics_of, scores_PG
from training.parallel import World
from training.reward import Reward, rewards_of, scores_to_tensor
from training.run import Run
from training.shares import Judge, Share, draw_share
from training.state import History, Sink
from training.update import Measured, NotFiniteError, check_finite, gradients_of, num_passes, with_replayed_log_prob


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration has to show."""

    metrics: Metrics
    groups: tuple[GroupScores, ...]
    pictures: tuple[Pixels, ...]
    """The samples of the first of the groups."""


class StoppedError(RuntimeError):
    """The run was asked to stop, and is saved."""


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
    watch: Callable[[Iteration], bool] | None = None,
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
        watch: called after each iteration, in the main process alone; where it says True, the run is saved and stops.
        lanes: threads of a CPU that a model's batches are shared by.
        in_step: whether the processes share the base, see `parallel.shard_base`, and so must make the same passes.
        base: what identifies the editor without its adapter; None: its fingerprint. A checkpoint knows it.
    """
    if not cases:
        raise ValueError("no cases to train on: every case got the full score, or none was scored")
    judge = Judge(reward, Asker("judge"))
    second = Judge(second_judge, Asker("second judge")) if second_judge is not None else None
    run = Run(
        editor=editor,
        cases=cases,
        conditions=conditions,
        judge=judge,
        config=config,
        base=base or editor.fingerprint,
        second_judge=second,
        lanes=lanes,
        world=world or World(),
        in_step=in_step,
    )
    first = run.continue_from(sink)
    for iteration in range(first, config.iterations):
        done = _iterate(run, iteration)
        run.history.append(asdict(done.metrics))
        if run.world.is_main:
            if (iteration + 1) % config.checkpoint_every == 0 or iteration + 1 == config.iterations:
                sink.save(run.checkpoint(iteration + 1))
            if watch is not None and watch(done):
                sink.save(run.checkpoint(iteration + 1))
                raise StoppedError(f"stopped after {iteration + 1} iterations, as was asked; they are saved")
    for one in (judge, second):
        if one is not None:
            one.asker.close()
    with torch.no_grad():
        for parameter, averaged in zip(run.parameters, run.average, strict=True):
            parameter.copy_(averaged)
    return adapter_state(editor.transformer), run.history


class _Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"encode": 0.0, "rollout": 0.0, "reward": 0.0, "update": 0.0}

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - started


def _iterate(run: Run, iteration: int) -> Iteration:
    config, world, clock = run.config, run.world, _Clock()
    picked = run.sampler.pick(iteration)
    each = config.groups // config.updates_per_rollout
    shares = []
    for start in range(0, config.groups, each):
        mine = world.share(range(start, start + each))
        case_ids = [run.cases[picked[position]].case_id for position in mine]
        with clock.spent_on("encode"):
            conditions = run.conditions(case_ids)
        encoded = {p: (case_id, c) for p, case_id, c in zip(mine, case_ids, conditions, strict=True)}
        with clock.spent_on("rollout"):
            second = run.second_judge if iteration % config.second_judge_every == 0 else None
            in_step = world if run.in_step else None
            shares.append(draw_share(run.editor, encoded, config, iteration, run.judge, second, run.lanes, in_step))
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
    if all(group.broken for group in groups):
        raise NotFiniteError(f"iteration {iteration}: all samples are no numbers; the editor is broken")
    run.sampler.learn(iteration, picked, [group.all_full for group in groups])
    metrics = metrics_of(iteration, groups, updates, config, clock.seconds)
    return Iteration(metrics, tuple(groups), tuple(shares[0].pictures[: config.group_size]))


def _with_replayed(run: Run, share: Share) -> Share:
    batches = [with_replayed_log_prob(run.editor, batch, run.config) for batch in share.batches]
    if run.in_step:
        passes = sum(num_passes(batch, run.config) for batch in share.batches)
        for _ in range(run.world.largest(passes) - passes):
            with_replayed_log_prob(run.editor, share.batches[0].take(torch.tensor([0])), run.config)
    return replace(share, batches=batches)


def _scored(run: Run, picked: Sequence[int], share: Share) -> list[GroupScores]:
    """Wait for the judge."""
    size, nothing = run.config.group_size, [float("nan")] * run.config.group_size
    scores_B = iter(scores_to_tensor(share.scores.result()).tolist())
    given = share.second_scores.result() if share.second_scores else [None] * len(share.positions)
    second_P = iter(scores_to_tensor(given).tolist())
    groups = []
    for position in share.positions:
        case, broken = run.cases[picked[position]], position in share.broken
        groups.append(
            GroupScores(
                case_id=case.case_id,
                edit_type=case.edit_type,
                scores=tuple(nothing if broken else islice(scores_B, size)),
                full_at=case.full_at,
                second_score=float("nan") if broken else next(second_P),
                broken=broken,
            )
        )
    return groups


def _check_alive(groups: Sequence[GroupScores], iteration: int, config: FlowGrpoConfig) -> None:
    """Raises: DeadJudgeError where more scores are missing than may be."""
    asked = [group for group in groups if not group.broken]
    total = len(asked) * config.group_size
    missing = total - sum(len(group.scored) for group in asked)
    if missing > config.max_missing_share * total:
        raise DeadJudgeError(
            f"iteration {iteration}: {missing} of {total} scores are missing, more than max_missing_share "
            f"{config.max_missing_share:g} allows. See to the judge and start again: training goes on from its last "
            "checkpoint, and scores that were given are not asked for again"
        )


def _update(run: Run, share: Share, groups: Sequence[GroupScores], where: str) -> tuple[Measured, float] | None:
    """One optimiser step; None where no sample of the share says anything.

    Args:
        groups: of the share in all processes, in order.
    """
    config, world, parameters = run.config, run.world, run.parameters
    rewards_PG = rewards_of(scores_PG(groups), config.reward_slope, config.reward_shift)
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
    check_finite(norm, f"{where} (cases {', '.join(share.case_ids[:8])})")
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
