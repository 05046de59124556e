"""Checks that must hold before a run may train; each has silently ruined published runs.

They take seconds, on the very editor and cases of the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training import sde
from training.config import FlowGrpoConfig
from training.editors.interface import TrainableEditor
from training.loop import TrainingCase
from training.lora import adapter_parameters, reference
from training.rollout import generator_of, repeat_groups, replay, roll_out

RATIO_TOLERANCE = 2e-5
"""|ratio - 1| on-policy. Float32 gives about 1e-6; bfloat16 trajectories give 4e-5 and more, half of a clip range."""

MEAN_TOLERANCE = 1e-5
"""Of the means of steps, in latents: two float32 passes with and without an adapter that is zero."""


class GateError(RuntimeError):
    """A check before training failed: training would learn something else than the reward."""


def check(editor: TrainableEditor, cases: Sequence[TrainingCase], config: FlowGrpoConfig) -> dict[str, float]:
    """Run all checks and leave the editor as it was.

    Returns: what was measured, by check.  Raises: GateError that says what failed and by how much.
    """
    few = list(cases[: min(len(cases), 2)])
    with torch.no_grad():
        encoded = editor.encode([case.source for case in few], [case.instruction for case in few])
    condition = encoded.take(repeat_groups(range(len(few)), 2))
    trajectory = roll_out(editor, condition, config, iteration=0)
    measured = {}

    # The replay must give the log-probabilities of the rollout, hence ratios of one.
    policy = replay(editor, condition, trajectory, config)
    log_prob = sde.log_probability(policy, trajectory.next_SBNC.flatten(0, 1)).detach()
    deviation = float((torch.exp(log_prob - trajectory.log_prob_SB.flatten()) - 1).abs().max())
    measured["ratio deviation"] = deviation
    if not deviation <= RATIO_TOLERANCE:
        raise GateError(f"on-policy ratios deviate from 1 by {deviation:.1e}, more than {RATIO_TOLERANCE:.0e}")

    # A fresh adapter must not change the editor, and switching it off must give the reference.
    with reference(editor.transformer):
        base = replay(editor, condition, trajectory, config)
    apart = float((policy.mean_BNC - base.mean_BNC).detach().abs().max())
    measured["fresh adapter"] = apart
    if not apart <= MEAN_TOLERANCE:
        raise GateError(f"a fresh adapter moves the editor by {apart:.1e} from the reference, which must be the same")
    parameters = adapter_parameters(editor.transformer)
    if not parameters:
        raise GateError("the editor has no adapter to train")
    trainable = [p for p in editor.transformer.parameters() if p.requires_grad]
    if {id(p) for p in trainable} != {id(p) for p in parameters}:
        raise GateError(f"{len(trainable)} parameters are trainable, the adapter has {len(parameters)}")
    if any(p.dtype != torch.float32 for p in parameters):
        raise GateError("the adapter is not float32: its updates would be rounded away")

    # The KL must have a gradient. At the start policy and reference agree, so the adapter is moved for the look.
    kept = [p.detach().clone() for p in parameters]
    generator = generator_of(config.seed, 5)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.02 * torch.randn(p.shape, generator=generator).to(p.device))
    moved = replay(editor, condition, trajectory, config)
    kl = sde.kl_divergence(moved, base).mean()
    gradients = torch.autograd.grad(kl, parameters, allow_unused=True)
    norm = float(torch.stack([g.norm() for g in gradients if g is not None] or [torch.zeros(())]).norm())
    with torch.no_grad():
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)
    measured |= {"KL gradient": norm, "KL of a moved adapter": float(kl.detach())}
    if not (norm > 0 and float(kl.detach()) > 0):
        raise GateError(f"the KL to the reference has no gradient (norm {norm})")

    return measured
