"""The loop: it learns, it resumes to the bit, it changes the adapter alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.post_training.checkpoints import FolderSink
from training import config as configs
from training.loop import TrainingCase, train
from training.lora import adapter_parameters, add_adapter, reference
from training.rollout import generate, generator_of, pick_cases, window_start


class Darkness:
    """A reward whose best answer is known: dark pictures. Real pixels in, a score out."""

    def __init__(self, missing_every=0):
        self.missing_every = missing_every

    def __call__(self, case_ids, images):
        scores = [5 * (1 - float(image.mean()) / 255) for image in images]
        return [None if self.missing_every and i % self.missing_every == 0 else s for i, s in enumerate(scores)]


@pytest.fixture
def cases():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return [
        TrainingCase(case_id=f"case{i}", source=p, instruction="remove the cat", edit_type="object_removal")
        for i, p in enumerate(pictures)
    ]


class Memory:
    """A sink that keeps everything."""

    def __init__(self):
        self.saved = []

    def save(self, step, tensors, history):
        self.saved.append((step, tensors, list(history)))

    def load(self):
        return self.saved[-1] if self.saved else None


def run(editor, cases, config, sink, reward=None, lanes=1):
    add_adapter(editor.transformer, config, config.seed)
    return train(editor, cases, reward or Darkness(), config, sink, lanes=lanes)


def test_only_the_adapter_changes(tiny_editor_factory, cases):
    editor = tiny_editor_factory()
    before = editor.fingerprint
    state, history = run(editor, cases, configs.tiny(), Memory())
    assert editor.fingerprint == before
    assert any(value.abs().sum() > 0 for name, value in state.items() if "lora_B" in name)
    assert len(history) == 2
    assert history[0]["ratio_deviation"] < 1e-5


def test_a_killed_run_continues_to_the_bit(tiny_editor_factory, cases):
    config = replace(configs.tiny(), iterations=4)
    through, history = run(tiny_editor_factory(), cases, config, Memory())

    sink = Memory()
    run(tiny_editor_factory(), cases, replace(config, iterations=2), sink)
    resumed, resumed_history = run(tiny_editor_factory(), cases, config, sink)

    assert through.keys() == resumed.keys()
    assert all(torch.equal(through[name], resumed[name]) for name in through)
    timeless = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in history]
    assert timeless == [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in resumed_history]


def test_checkpoints_survive_the_disk(tiny_editor_factory, cases, tmp_path):
    config = replace(configs.tiny(), iterations=2)
    memory, disk = Memory(), FolderSink(tmp_path)
    run(tiny_editor_factory(), cases, config, memory)
    run(tiny_editor_factory(), cases, config, disk)
    step, tensors, history = disk.load()
    assert step == memory.saved[-1][0] == 2
    assert all(torch.equal(tensors[name], value) for name, value in memory.saved[-1][1].items())
    assert len(history) == 2


def test_lanes_change_the_speed_and_not_the_result(tiny_editor_factory, cases):
    one, _ = run(tiny_editor_factory(), cases, configs.tiny(), Memory(), lanes=1)
    two, _ = run(tiny_editor_factory(), cases, configs.tiny(), Memory(), lanes=2)
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=2e-4, rtol=1e-2)


@pytest.mark.slow
def test_it_learns_what_the_reward_asks_for():
    """The committed editor, rewarded for dark pictures, answers with darker ones; the plain editor stays as it was."""
    from tasks.miniature.editor import load_miniature
    from tasks.miniature.examples import make_example

    examples = [make_example(77, index, sloppy_share=0) for index in range(16)]
    cases = [TrainingCase(str(i), e.source, e.instruction, e.edit_type) for i, e in enumerate(examples)]
    config = replace(
        configs.miniature(12),
        groups=4,
        learning_rate=3e-3,
        kl_weight=0.0,
        ema_decay=0.0,
        reward_slope=10,
        reward_shift=25,
    )
    editor = load_miniature()
    _, history = run(editor, cases, config, Memory(), lanes=2)
    condition = editor.encode([c.source for c in cases], [c.instruction for c in cases])
    noise = torch.randn(condition.noise_shape, generator=generator_of(9))

    def darkness():
        return np.mean(Darkness()([""] * 16, editor.decode(generate(editor, condition, 8, noise), condition.shape)))

    trained = darkness()
    with reference(editor.transformer):
        untrained = darkness()
    assert trained > untrained + 0.02
    assert history[-1]["kl"] > 0


def test_missing_scores_are_left_out(tiny_editor_factory, cases):
    state, history = run(tiny_editor_factory(), cases, configs.tiny(), Memory(), Darkness(missing_every=3))
    assert history[0]["missing"] == 2
    assert all(torch.isfinite(value).all() for value in state.values())


def test_a_reward_that_never_answers_changes_nothing(tiny_editor_factory, cases):
    state, history = run(tiny_editor_factory(), cases, configs.tiny(), Memory(), Darkness(missing_every=1))
    assert history[0]["no_signal_share"] == 1
    assert all(not value.any() for name, value in state.items() if "lora_B" in name)


def test_no_cases_is_a_clear_error(tiny_editor_factory):
    with pytest.raises(ValueError, match="no cases to train on"):
        run(tiny_editor_factory(), [], configs.tiny(), Memory())


def test_every_case_has_its_turn_before_any_has_two():
    picked = [i for iteration in range(5) for i in pick_cases(10, 4, iteration, seed=1)]
    assert sorted(picked[:10]) == list(range(10)) == sorted(picked[10:])
    assert picked[:10] != picked[10:]


def test_windows_stay_where_they_may():
    config = configs.miniature()
    starts = {window_start(config, iteration) for iteration in range(50)}
    assert starts == set(range(config.window_end - config.window_length + 1))


def test_the_adapter_is_float32_and_alone_trainable(tiny_editor_factory):
    editor = tiny_editor_factory()
    parameters = add_adapter(editor.transformer, configs.tiny(), 0)
    assert {p.dtype for p in parameters} == {torch.float32}
    trainable = [p for p in editor.transformer.parameters() if p.requires_grad]
    assert len(trainable) == len(parameters) == len(adapter_parameters(editor.transformer))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"groups": 3}, "multiple of updates_per_rollout"),
        ({"window_length": 4}, "window_length 4"),
        ({"window_end": 4}, "window_end 4"),
        ({"group_size": 1}, "group_size 1"),
        ({"updates_per_rollout": 1}, "never clips"),
    ],
)
def test_a_config_that_cannot_work_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(configs.tiny(), **change)
