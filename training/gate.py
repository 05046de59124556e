"""Checks that must hold before a run may train; each has silently ruined published runs.

They take seconds, on the very editor and cases of the run, and leave the editor as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from training import sde
from training.cases import Conditions, TrainingCase
from training.config import FlowGrpoConfig
from training.editors.interface import Condition, TrainableEditor
from training.lora import adapter_parameters, reference
from training.rollout import Trajectory, draw_noise, generator_of, repeat_groups, replay, roll_out, window_start
from training.update import Batch, gradients_of

RATIO_TOLERANCE = 2e-5
"""|ratio - 1| on-policy. Float32 gives about 1e-6; bfloat16 trajectories give 4e-5 and more, half of a clip range."""

MEAN_TOLERANCE = 1e-5
"""Of the means of steps, in latents: two float32 passes with and without an adapter that is zero."""

BATCH_TOLERANCE = 1e-3
"""Of the means of steps replayed together and one by one, relative to their spread; bfloat16 gives about 1e-4."""


class GateError(RuntimeError):
    """A check before training failed: training would learn something else than the reward."""


def check(
    editor: TrainableEditor, cases: Sequence[TrainingCase], conditions: Conditions, config: FlowGrpoConfig
) -> dict[str, float]:
    """Run all checks.

    Returns: what was measured, by check.  Raises: GateError that says what failed, by how much, and what helps.
    """
    config = replace(config, group_size=2)
    (encoded,) = conditions([cases[0].case_id])
    condition = encoded.to(editor.device).take(repeat_groups(range(1), config.group_size))
    _check_window(config)
    _check_what_is_trained(editor)
    trajectory = roll_out(
        editor, condition, config, window_start(config, 0), draw_noise(condition, config, iteration=0, groups=[0])
    )
    if not torch.isfinite(trajectory.final_BNC).all():
        raise GateError("a rollout ends in latents that are no numbers: the editor or its dtype is broken")
    measured = _check_replay(editor, condition, trajectory, config)
    measured |= _check_guidance(editor, condition, trajectory)
    measured |= _check_reference(editor, condition, trajectory, config)
    return measured | _check_update(editor, condition, trajectory, config)


def _check_window(config: FlowGrpoConfig) -> None:
    """One window for all samples of an iteration, from (seed, iteration) alone."""
    windows = []
    with torch.random.fork_rng():
        for disturbed in range(3):
            torch.manual_seed(disturbed)
            windows.append([window_start(config, iteration) for iteration in range(8)])
    if not windows[0] == windows[1] == windows[2]:
        raise GateError(
            "the SDE window depends on something else than (seed, iteration): samples of a group would have windows "
            "of their own, and their rewards could not be compared"
        )


def _check_what_is_trained(editor: TrainableEditor) -> None:
    parameters = adapter_parameters(editor.transformer)
    if not parameters:
        raise GateError("the editor has no adapter to train")
    trainable = [p for p in editor.transformer.parameters() if p.requires_grad]
    if {id(p) for p in trainable} != {id(p) for p in parameters}:
        raise GateError(f"{len(trainable)} parameters are trainable, the adapter has {len(parameters)}")
    if any(p.dtype != torch.float32 for p in parameters):
        raise GateError("the adapter is not float32: its updates would be rounded away")


def _check_replay(
    editor: TrainableEditor, condition: Condition, trajectory: Trajectory, config: FlowGrpoConfig
) -> dict[str, float]:
    """The replay must give the log-probabilities of the rollout, hence ratios of one."""
    with torch.no_grad():
        policy = replay(editor, condition, trajectory, config)
        one_by_one = [
            replay(editor, condition.take([sample]), trajectory.take(torch.tensor([sample])), config).mean_BNC
            for sample in range(len(condition))
        ]
    log_prob = sde.log_probability(policy, trajectory.next_SBNC.flatten(0, 1))
    deviation = float((torch.exp(log_prob - trajectory.log_prob_SB.flatten()) - 1).abs().max())
    if config.old_log_prob == "rollout" and not deviation <= RATIO_TOLERANCE:
        raise GateError(
            f"on-policy ratios deviate from 1 by {deviation:.1e}, more than {RATIO_TOLERANCE:.0e}: the replay is not "
            'what was rolled out. Where only the batch size differs, old_log_prob "replay" helps; else dtype "float32"'
        )
    # Rows are steps times samples.
    together = policy.mean_BNC.unflatten(0, (-1, len(condition)))
    apart = float(torch.stack([(together[:, i] - mean).abs().max() for i, mean in enumerate(one_by_one)]).max())
    apart /= float(policy.mean_BNC.std())
    if not apart <= BATCH_TOLERANCE:
        raise GateError(
            f"a sample's step moves by {apart:.1e} of its spread with the company it is replayed in, more than "
            f"{BATCH_TOLERANCE:.0e}: samples of a batch see each other, through padding or shapes"
        )
    return {"ratio deviation": deviation, "batch deviation": apart}


def _check_guidance(editor: TrainableEditor, condition: Condition, trajectory: Trajectory) -> dict[str, float]:
    """Guidance must act in the very function that rollout and replay share."""
    if condition.negative is None:
        return {}
    t_B = trajectory.times_S[:1].expand(len(condition))
    with torch.no_grad():
        guided = editor.velocity(trajectory.states_SBNC[0], t_B, condition)
        plain = editor.velocity(trajectory.states_SBNC[0], t_B, replace(condition, negative=None))
    moved = float((guided - plain).norm() / plain.norm())
    if not moved > 1e-6:
        raise GateError("guidance is set, costs a second pass, and changes nothing; set guidance 1")
    return {"guidance": moved}


def _check_reference(
    editor: TrainableEditor, condition: Condition, trajectory: Trajectory, config: FlowGrpoConfig
) -> dict[str, float]:
    """A fresh adapter changes nothing, switching it off gives the reference, and the KL to it has a gradient."""
    with torch.no_grad():
        policy = replay(editor, condition, trajectory, config)
        with reference(editor.transformer):
            base = replay(editor, condition, trajectory, config)
    apart = float((policy.mean_BNC - base.mean_BNC).abs().max())
    if not apart <= MEAN_TOLERANCE:
        raise GateError(f"a fresh adapter moves the editor by {apart:.1e} from the reference, which must be the same")
    parameters = adapter_parameters(editor.transformer)
    with _restored(parameters):
        # At the start policy and reference agree, so the adapter is moved for the look.
        generator = generator_of(config.seed, 5)
        with torch.no_grad():
            for p in parameters:
                p.add_(0.02 * torch.randn(p.shape, generator=generator).to(p.device))
        moved = replay(editor, condition, trajectory, config)
        kl = sde.kl_divergence(moved, base).mean()
        gradients = torch.autograd.grad(kl, parameters, allow_unused=True)
    norm = float(torch.stack([g.norm() for g in gradients if g is not None] or [torch.zeros(())]).norm())
    if not (norm > 0 and float(kl.detach()) > 0):
        raise GateError(f"the KL to the reference has no gradient (norm {norm})")
    return {"fresh adapter": apart, "KL gradient": norm, "KL of a moved adapter": float(kl.detach())}


def _check_update(
    editor: TrainableEditor, condition: Condition, trajectory: Trajectory, config: FlowGrpoConfig
) -> dict[str, float]:
    """One update on made-up advantages: its gradient is finite and some, and nothing but the adapter moves."""
    parameters = adapter_parameters(editor.transformer)
    ids = {id(p) for p in parameters}
    frozen = [p for p in editor.transformer.parameters() if id(p) not in ids]
    before = [p._version for p in frozen]
    batch = Batch((0,), condition, trajectory)
    gradients, _ = gradients_of(editor, [(batch, torch.tensor([1.0, -1.0]))], len(condition), config)
    norm = float(torch.stack([g.norm() for g in gradients]).norm())
    if not 0 < norm < float("inf"):
        raise GateError(f"the gradient of an update has the norm {norm}: nothing could be learnt from it")
    with _restored(parameters):
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
    if (changed := sum(p._version != version for p, version in zip(frozen, before, strict=True))) > 0:
        raise GateError(f"an update wrote to {changed} tensors of the frozen base; only the adapter may change")
    return {"update gradient": norm}


def _kept(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


@contextmanager
def _restored(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within this block the parameters may be changed."""
    kept = _kept(parameters)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
