"""The loop: it learns, it resumes to the bit, it changes the adapter alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.post_training.checkpoints import FolderSink
from tests.training.encoded_here import EncodedHere
from training import config as configs
from training.cases import CaseSampler, TrainingCase
from training.loop import DeadJudgeError, StoppedError, train
from training.lora import adapter_parameters, add_adapter, reference
from training.rollout import generate, generator_of, window_start
from training.state import OtherRunError
from training.update import NotFiniteError


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
    return {f"case{i}": (picture, "remove the cat") for i, picture in enumerate(pictures)}


class Memory:
    """A sink that keeps everything."""

    def __init__(self):
        self.saved = []

    def save(self, checkpoint):
        self.saved.append(checkpoint)

    def load(self):
        return self.saved[-1] if self.saved else None


def run(editor, cases, config, sink, reward=None, **more):
    """Train on sources and instructions by case."""
    add_adapter(editor.transformer, config, config.seed)
    listed = [TrainingCase(case_id=case_id, edit_type="object_removal") for case_id in cases]
    return train(editor, listed, EncodedHere(editor, cases), reward or Darkness(), config, sink, **more)


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
    assert timeless(history) == timeless(resumed_history)


def timeless(history):
    """As text, where a NaN equals another."""
    return json.dumps([{k: v for k, v in row.items() if not k.startswith("seconds")} for row in history])


def test_checkpoints_survive_the_disk(tiny_editor_factory, cases, tmp_path):
    config = replace(configs.tiny(), iterations=2)
    memory, disk = Memory(), FolderSink(tmp_path)
    run(tiny_editor_factory(), cases, config, memory)
    run(tiny_editor_factory(), cases, config, disk)
    read, kept = disk.load(), memory.load()
    assert read.step == kept.step == 2
    assert all(torch.equal(read.tensors[name], value) for name, value in kept.tensors.items())
    assert len(read.history) == 2
    assert read.run == kept.run


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
    cases = {str(i): (e.source, e.instruction) for i, e in enumerate(examples)}
    config = replace(
        configs.miniature(12),
        groups=4,
        learning_rate=3e-3,
        kl_weight=1e-6,
        ema_decay=0.0,
        reward_slope=10,
        reward_shift=25,
    )
    editor = load_miniature()
    _, history = run(editor, cases, config, Memory(), lanes=2)
    condition = editor.encode([e.source for e in examples], [e.instruction for e in examples])
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
    config = replace(configs.tiny(), max_missing_share=1.0)
    state, history = run(tiny_editor_factory(), cases, config, Memory(), Darkness(missing_every=1))
    assert history[0]["no_signal_share"] == 1
    assert all(not value.any() for name, value in state.items() if "lora_B" in name)


def test_no_cases_is_a_clear_error(tiny_editor_factory):
    with pytest.raises(ValueError, match="no cases to train on"):
        run(tiny_editor_factory(), {}, configs.tiny(), Memory())


def test_every_case_has_its_turn_before_any_has_two():
    listed = [TrainingCase(case_id=str(i), edit_type="bokeh") for i in range(10)]
    sampler = CaseSampler(listed, replace(configs.tiny(), groups=4, seed=1))
    picked = [i for iteration in range(5) for i in sampler.pick(iteration)]
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
        ({"micro_batch": 1}, "at least window_length 2"),
        ({"checkpoint_every": 0}, "checkpoint_every 0: must be at least 1"),
        ({"ema_decay": 1.5}, r"ema_decay 1.5: must be in \[0, 1\)"),
        ({"learning_rate": -1.0}, "learning_rate -1.0: must be above 0"),
        ({"max_missing_share": 2.0}, "max_missing_share 2.0: a share"),
    ],
)
def test_a_config_that_cannot_work_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(configs.tiny(), **change)


def test_a_dead_judge_stops_the_run_and_leaves_the_checkpoint(tiny_editor_factory, cases):
    """Scores stop coming: what the adapter had learnt by then is what the run goes on from."""

    class Dying(Darkness):
        calls = 0

        def __call__(self, case_ids, images):
            self.calls += 1
            return super().__call__(case_ids, images) if self.calls <= 4 else [None] * len(images)

    config, sink = replace(configs.tiny(), iterations=4), Memory()
    with pytest.raises(
        DeadJudgeError, match=r"iteration 2: 3 of 3 scores are missing, more than max_missing_share 0.5"
    ):
        run(tiny_editor_factory(), cases, config, sink, Dying())
    assert sink.load().step == 2
    through, _ = run(tiny_editor_factory(), cases, config, Memory())
    resumed, _ = run(tiny_editor_factory(), cases, config, sink)
    assert all(torch.equal(through[name], resumed[name]) for name in through)


def test_a_gradient_that_is_no_number_changes_nothing(tiny_editor_factory, cases):
    editor, sink = tiny_editor_factory(), Memory()
    velocity, calls = editor.velocity, []

    def breaking(x, t, condition):
        calls.append(torch.is_grad_enabled())
        broken = float("nan") if calls.count(True) > 4 and torch.is_grad_enabled() else 1.0
        return velocity(x, t, condition) * broken

    editor.velocity = breaking
    said = r"iteration \d, update \d \(cases .*case\d.*\): the gradient's norm is nan.*Lower learning_rate"
    with pytest.raises(NotFiniteError, match=said):
        run(editor, cases, replace(configs.tiny(), iterations=6, micro_batch=2), sink)
    assert all(torch.isfinite(p).all() for p in adapter_parameters(editor.transformer))


def test_a_checkpoint_of_another_config_is_refused(tiny_editor_factory, cases):
    sink = Memory()
    run(tiny_editor_factory(), cases, configs.tiny(), sink)
    other = replace(configs.tiny(), iterations=4, noise_level=0.5)
    with pytest.raises(
        OtherRunError, match=r"after 2 steps is of another run: config\.noise_level was 0\.8, is 0\.5\."
    ):
        run(tiny_editor_factory(), cases, other, sink)
    with pytest.raises(OtherRunError, match="editor was"):
        run(tiny_editor_factory(seed=1), cases, configs.tiny(), sink)
    _, history = run(tiny_editor_factory(), cases, replace(configs.tiny(), iterations=3, micro_batch=4), sink)
    assert len(history) == 3, "a run may become longer, and be computed in other batches"


def test_sources_of_several_shapes_train_together(tiny_editor_factory):
    """Batches are made of one shape each; what a group draws does not depend on the company."""
    rng = np.random.default_rng(1)
    sizes = [(32, 32), (32, 48), (48, 32), (32, 48)]
    cases = {f"c{i}": (rng.integers(0, 256, (*s, 3), dtype=np.uint8), "remove the cat") for i, s in enumerate(sizes)}
    seen = []

    class Looking(Darkness):
        def __call__(self, case_ids, images):
            seen.extend(zip(case_ids, images, strict=True))
            return super().__call__(case_ids, images)

    config = replace(configs.tiny(), groups=4, iterations=1)
    together, _ = run(tiny_editor_factory(), cases, config, Memory(), Looking())
    assert {case_id: image.shape[:2] for case_id, image in seen} == dict(zip(cases, sizes, strict=True))
    alone, _ = run(tiny_editor_factory(), cases, replace(config, rollout_batch=1), Memory())
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name], atol=1e-5, rtol=1e-3)


def test_the_judge_works_while_the_next_share_is_drawn(tiny_editor_factory, cases):
    """The second share is rolled out before the first is scored: else this would wait for ever."""
    import threading

    editor, decoded = tiny_editor_factory(), []
    decode = editor.decode

    def counting(latents, shape):
        decoded.append(1)
        both.set() if len(decoded) == 2 else None
        return decode(latents, shape)

    both = threading.Event()
    editor.decode = counting

    class Waiting(Darkness):
        def __call__(self, case_ids, images):
            assert both.wait(timeout=20), "the next share was not drawn meanwhile"
            return super().__call__(case_ids, images)

    overlapped, _ = run(editor, cases, replace(configs.tiny(), iterations=1), Memory(), Waiting())
    plain, _ = run(tiny_editor_factory(), cases, replace(configs.tiny(), iterations=1), Memory())
    assert all(torch.equal(overlapped[name], plain[name]) for name in plain)


def test_without_a_kl_weight_no_reference_is_asked(tiny_editor_factory, cases, monkeypatch):
    from training import update

    monkeypatch.setattr(update, "reference", None)
    _, history = run(tiny_editor_factory(), cases, replace(configs.tiny(), kl_weight=0.0), Memory())
    assert np.isnan(history[0]["kl"])
    assert np.isfinite(history[0]["loss"])


def test_a_second_judge_is_looked_at_and_not_learnt_from(tiny_editor_factory, cases):
    class Brightness(Darkness):
        def __call__(self, case_ids, images):
            return [5 - score for score in super().__call__(case_ids, images)]

    config = replace(configs.tiny(), iterations=3, second_judge_every=2)
    plain, _ = run(tiny_editor_factory(), cases, config, Memory())
    looked, history = run(tiny_editor_factory(), cases, config, Memory(), second_judge=Brightness())
    assert all(torch.equal(plain[name], looked[name]) for name in plain)
    assert history[0]["second_score"] == pytest.approx(5 - history[0]["score_there"])
    assert np.isnan(history[1]["second_score"])
    assert np.isfinite(history[2]["second_score"])


def test_saturation_is_told_by_edit_type(tiny_editor_factory, cases):
    class Pleased:
        def __call__(self, case_ids, images):
            return [5.0 if case_id == "case0" else 3.0 + i / 10 for i, case_id in enumerate(case_ids)]

    editor = tiny_editor_factory()
    config = replace(configs.tiny(), groups=4, iterations=1)
    add_adapter(editor.transformer, config, 0)
    types = ["bokeh", "relighting", "relighting", "relighting"]
    listed = [TrainingCase(case_id=c, edit_type=t) for c, t in zip(cases, types, strict=True)]
    _, history = train(editor, listed, EncodedHere(editor, cases), Pleased(), config, Memory())
    bokeh, relighting = history[0]["by_edit_type"]["bokeh"], history[0]["by_edit_type"]["relighting"]
    assert (bokeh["groups"], bokeh["full_groups"], bokeh["flat_groups"]) == (1, 1, 1)
    assert (relighting["groups"], relighting["full_groups"], relighting["flat_groups"]) == (3, 0, 0)
    assert history[0]["no_signal_share"] == 0.25


@pytest.mark.parametrize("change", [{"ratio_correction": True}, {"sde": "cps"}, {"old_log_prob": "replay"}])
def test_variants_train_and_start_on_policy(tiny_editor_factory, cases, change):
    state, history = run(tiny_editor_factory(), cases, replace(configs.tiny(), **change), Memory())
    assert history[0]["ratio_deviation"] < 1e-5
    assert any(value.abs().sum() > 0 for name, value in state.items() if "lora_B" in name)


def test_a_case_that_is_no_number_is_left_out_and_named(tiny_editor_factory, cases, caplog):
    """One damaged encoding costs its group, and nobody else notices."""

    class Damaged(EncodedHere):
        def __call__(self, case_ids):
            encoded = super().__call__(case_ids)
            return [
                replace(one, source_BMC=one.source_BMC * float("nan")) if case_id == "case1" else one
                for case_id, one in zip(case_ids, encoded, strict=True)
            ]

    editor, asked = tiny_editor_factory(), []

    class Looking(Darkness):
        def __call__(self, case_ids, images):
            asked.extend(case_ids)
            return super().__call__(case_ids, images)

    config = replace(configs.tiny(), groups=4, iterations=1)
    add_adapter(editor.transformer, config, 0)
    listed = [TrainingCase(case_id=case_id, edit_type="bokeh") for case_id in cases]
    state, history = train(editor, listed, Damaged(editor, cases), Looking(), config, Memory())
    assert set(asked) == set(cases) - {"case1"}
    assert (history[0]["broken"], history[0]["missing"]) == (1, 0)
    assert "the samples of case case1 are no numbers" in caplog.text
    assert all(torch.isfinite(value).all() for value in state.values())


def test_a_group_in_parts_is_the_same_group(tiny_editor_factory, cases):
    """A rollout of fewer samples than a group has: less memory, the same noise."""
    config = replace(configs.tiny(), iterations=1, group_size=4)
    whole, _ = run(tiny_editor_factory(), cases, config, Memory())
    parts, _ = run(tiny_editor_factory(), cases, replace(config, rollout_batch=3), Memory())
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-3)


def test_a_judge_is_asked_one_call_at_a_time(tiny_editor_factory, cases):
    import threading
    import time

    class Slow(Darkness):
        inside, most = 0, 0
        lock = threading.Lock()

        def __call__(self, case_ids, images):
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            time.sleep(0.05)
            with self.lock:
                self.inside -= 1
            return super().__call__(case_ids, images)

    judge = Slow()
    run(tiny_editor_factory(), cases, replace(configs.tiny(), iterations=2), Memory(), judge)
    assert judge.most == 1


def test_an_error_does_not_wait_for_a_dead_judge(tiny_editor_factory, cases):
    import threading
    import time

    never = threading.Event()

    class Dead(Darkness):
        calls = 0

        def __call__(self, case_ids, images):
            self.calls += 1
            if self.calls > 1:
                never.wait(30)
            return [None] * len(images)

    started = time.monotonic()
    with pytest.raises(DeadJudgeError):
        run(tiny_editor_factory(), cases, configs.tiny(), Memory(), Dead())
    assert time.monotonic() - started < 20
    never.set()


def test_asked_to_stop_it_saves_and_stops(tiny_editor_factory, cases):
    config, sink = replace(configs.tiny(), iterations=4, checkpoint_every=4), Memory()
    with pytest.raises(StoppedError, match="stopped after 2 iterations"):
        run(tiny_editor_factory(), cases, config, sink, watch=lambda done: done.metrics.iteration == 1)
    resumed, _ = run(tiny_editor_factory(), cases, config, sink)
    through, _ = run(tiny_editor_factory(), cases, config, Memory())
    assert all(torch.equal(through[name], resumed[name]) for name in through)


def test_a_run_goes_on_with_the_lanes_it_began_with(tiny_editor_factory, cases):
    """Sums are rounded by how they are split, so another machine's cores must not change them."""
    config, sink = replace(configs.tiny(), iterations=4), Memory()
    run(tiny_editor_factory(), cases, replace(config, iterations=2), sink, lanes=2)
    resumed, _ = run(tiny_editor_factory(), cases, config, sink, lanes=1)
    through, _ = run(tiny_editor_factory(), cases, config, Memory(), lanes=2)
    assert all(torch.equal(through[name], resumed[name]) for name in through)


def test_fewer_iterations_than_are_done_are_refused(tiny_editor_factory, cases):
    sink = Memory()
    run(tiny_editor_factory(), cases, configs.tiny(), sink)
    with pytest.raises(OtherRunError, match="after 2 iterations, and this run is to have 1"):
        run(tiny_editor_factory(), cases, replace(configs.tiny(), iterations=1), sink)
