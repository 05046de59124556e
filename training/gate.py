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
from training.editors.interface import TrainableEditor
from training.lora import adapter_parameters, reference
from training.rollout import generator_of, replay, window_start
from training.shares import draw_batch
from training.update import Batch, gradients_of, with_replayed_log_prob

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
    (encoded,) = conditions([cases[0].case_id])
    _check_window(config)
    _check_what_is_trained(editor)
    # A whole group, in the very batches of the run: what a device computes may depend on them.
    batch = draw_batch(editor, [encoded], (0,), config, iteration=0, lanes=1)
    if not torch.isfinite(batch.trajectory.final_BNC).all():
        raise GateError(
            f"a rollout of case {cases[0].case_id} ends in latents that are no numbers: the editor, its dtype or the "
            "encoding is broken"
        )
    measured = _check_update(editor, batch, config)
    measured |= _check_company(editor, batch.take(torch.tensor([0, 1])), config)
    measured |= _check_guidance(editor, batch.take(torch.tensor([0])))
    return measured | _check_reference(editor, batch.take(torch.tensor([0])), config)


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


def _check_company(editor: TrainableEditor, pair: Batch, config: FlowGrpoConfig) -> dict[str, float]:
    """Samples that are replayed together must not see each other."""
    with torch.no_grad():
        together = replay(editor, pair.condition, pair.trajectory, config).mean_BNC
        alone = [
            replay(editor, one.condition, one.trajectory, config).mean_BNC
            for one in (pair.take(torch.tensor([sample])) for sample in range(2))
        ]
    # Rows are steps times samples.
    rows = together.unflatten(0, (-1, 2))
    apart = float(torch.stack([(rows[:, i] - mean).abs().max() for i, mean in enumerate(alone)]).max())
    apart /= float(together.std())
    if not apart <= BATCH_TOLERANCE:
        raise GateError(
            f"a sample's step moves by {apart:.1e} of its spread with the company it is replayed in, more than "
            f"{BATCH_TOLERANCE:.0e}: samples of a batch see each other, through padding or shapes"
        )
    return {"batch deviation": apart}


def _check_guidance(editor: TrainableEditor, one: Batch) -> dict[str, float]:
    """Guidance must act in the very function that rollout and replay share."""
    condition, trajectory = one.condition, one.trajectory
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


def _check_reference(editor: TrainableEditor, one: Batch, config: FlowGrpoConfig) -> dict[str, float]:
    """A fresh adapter changes nothing, switching it off gives the reference, and the KL to it has a gradient."""
    condition, trajectory = one.condition, one.trajectory
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


def _check_update(editor: TrainableEditor, batch: Batch, config: FlowGrpoConfig) -> dict[str, float]:
    """One update on made-up advantages: ratios of one, some finite gradient, and nothing but the adapter moves."""
    parameters = adapter_parameters(editor.transformer)
    ids = {id(p) for p in parameters}
    frozen = [p for p in editor.transformer.parameters() if id(p) not in ids]
    before = [p._version for p in frozen]
    if config.old_log_prob == "replay":
        batch = with_replayed_log_prob(editor, batch, config)
    signs_B = torch.ones(len(batch.condition))
    signs_B[1::2] = -1
    gradients, measured = gradients_of(editor, [(batch, signs_B)], len(signs_B), config)
    if not measured.ratio_deviation <= RATIO_TOLERANCE:
        raise GateError(
            f"on-policy ratios deviate from 1 by {measured.ratio_deviation:.1e}, more than {RATIO_TOLERANCE:.0e}: the "
            'replay is not what was rolled out. Where only the batch size differs, old_log_prob "replay" helps; else '
            'dtype "float32"'
        )
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
    return {"ratio deviation": measured.ratio_deviation, "update gradient": norm}


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
