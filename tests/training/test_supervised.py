"""Supervised flow matching: it learns, continues to the bit, and weighs what is to be edited."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tasks.post_training.checkpoints import FolderSink
from training.rollout import generator_of
from training.supervised import SupervisedConfig, flow_matching_loss, train_supervised


@dataclass
class Triplet:
    """Source, instruction, target and where they differ: ours or anybody's."""

    source: np.ndarray
    target: np.ndarray
    instruction: str
    region: np.ndarray


@pytest.fixture
def triplets():
    """The instruction decides: make it white, or leave it."""
    rng = np.random.default_rng(0)
    sources = rng.integers(60, 200, (8, 32, 32, 3), dtype=np.uint8)
    region = np.zeros((32, 32))
    region[:16] = 1
    made = []
    for i, source in enumerate(sources):
        target = source.copy()
        if i % 2:
            target[:16] = 255
        made.append(Triplet(source, target, "make it white" if i % 2 else "remove the cat", region))
    return made


def train(editor, triplets, steps, sink, config=None):
    losses = []
    train_supervised(
        editor,
        editor.parameters(),
        lambda first: iter(lambda: triplets, None),
        config or SupervisedConfig(steps=steps, learning_rate=1e-2, warmup_steps=5, ema_decay=0.5, checkpoint_every=10),
        sink,
        lambda step, loss: losses.append(loss),
    )
    return losses


def test_the_loss_falls(tiny_editor_factory, triplets, tmp_path):
    losses = train(tiny_editor_factory(zero_output=True), triplets, 60, FolderSink(tmp_path))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_a_killed_run_continues_to_the_bit(tiny_editor_factory, triplets, tmp_path):
    class Killed(Exception):
        pass

    class Sink(FolderSink):
        def save(self, checkpoint):
            super().save(checkpoint)
            if kill and checkpoint.step == 20:
                raise Killed

    kill = False
    through = tiny_editor_factory()
    train(through, triplets, 30, Sink(tmp_path / "through"))
    kill = True
    with pytest.raises(Killed):
        train(tiny_editor_factory(), triplets, 30, Sink(tmp_path / "killed"))
    kill = False
    resumed = tiny_editor_factory()
    losses = train(resumed, triplets, 30, Sink(tmp_path / "killed"))
    assert len(losses) == 10
    assert resumed.fingerprint == through.fingerprint


def test_what_is_edited_and_what_is_kept_weigh_evenly(tiny_editor_factory, triplets):
    editor = tiny_editor_factory(zero_output=True)
    condition = editor.encode([triplets[1].source], ["make it white"])
    noise = torch.randn(condition.noise_shape, generator=generator_of(0))
    config = SupervisedConfig(steps=1)

    def loss(region):
        triplet = Triplet(triplets[1].source, triplets[1].target, "make it white", region)
        return float(flow_matching_loss(editor, [triplet], torch.tensor([0.5]), noise, config).detach())

    changed, unchanged = triplets[1].region, 1 - triplets[1].region
    plain = loss(np.zeros((32, 32)))
    # Untrained, the editor returns the source: its error lies wholly where the target differs.
    assert loss(unchanged) == pytest.approx(plain / 0.5, rel=1e-4)
    assert loss(changed) == pytest.approx(plain * config.region_weight / 0.5, rel=1e-4)


def test_the_rate_rises_stays_and_falls(tiny_editor_factory):
    from training.supervised import _schedule

    config = SupervisedConfig(steps=1000, warmup_steps=100, decay_share=0.2)
    rates = [_schedule(step, config) for step in range(1000)]
    assert rates[49] == 0.5
    assert set(rates[100:800]) == {1.0}
    assert rates[900] == pytest.approx(0.5)
    assert 0 < rates[999] < 0.01
