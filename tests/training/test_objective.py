"""The clipped objective."""

import pytest
import torch

from training.objective import policy_loss


def test_on_policy_the_ratio_is_one_and_the_loss_the_mean_advantage():
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    result = policy_loss(log_prob, log_prob.detach(), torch.tensor([1.0, -0.5]), ratio_clip=1e-3)
    assert result.ratio.tolist() == [1, 1]
    assert result.loss.item() == pytest.approx(-0.25)
    assert result.clipped_share.item() == 0
    result.loss.backward()
    # The policy gradient: -A / n.
    assert log_prob.grad.tolist() == pytest.approx([-0.5, 0.25])


@pytest.mark.parametrize(
    ("change", "advantage", "held_back"),
    [(0.01, 1.0, True), (0.01, -1.0, False), (-0.01, 1.0, False), (-0.01, -1.0, True), (0.0005, 1.0, False)],
)
def test_the_clip_holds_back_only_what_went_too_far_in_the_wanted_direction(change, advantage, held_back):
    old = torch.tensor([-1.0])
    log_prob = (old + change).requires_grad_()
    result = policy_loss(log_prob, old, torch.tensor([advantage]), ratio_clip=1e-3)
    result.loss.backward()
    assert result.clipped_share.item() == float(held_back)
    assert (log_prob.grad.item() == 0) is held_back
