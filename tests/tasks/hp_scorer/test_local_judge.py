"""The judge in this process, on a real Qwen3-VL of two layers: what it says is what the model says."""

import asyncio
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from storage.records import EditType, Request
from tasks.hp_scorer.contract import EditTriplet, Outcome
from tasks.hp_scorer.judge import JudgeError
from tasks.hp_scorer.local_judge import LocalJudge, loaded
from tasks.hp_scorer.qwen_model import QwenModel
from tasks.hp_scorer.rubric import rubric_of
from tasks.hp_scorer.settings import LocalSettings, Mode, VlmConfig
from tasks.hp_scorer.vlm_scorer import VlmScorer
from tests.tasks.hp_scorer.tiny_qwen import make_light_judge, make_tiny_qwen3_vl, prompt, shade

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def garbage(tmp_path_factory):
    return make_tiny_qwen3_vl(tmp_path_factory.mktemp("garbage"))


@pytest.fixture(scope="module")
def light_judge(tmp_path_factory):
    return make_light_judge(tmp_path_factory.mktemp("light"))


def settings(folder, **changes):
    return LocalSettings(**{"model": str(folder), "dtype": "float32", "device": "cpu"} | changes)


def ask(folder, prompts, **changes):
    async def run():
        judge = LocalJudge(settings(folder, **changes))
        try:
            return {number: answer async for number, answer in judge.ask_all(prompts)}, judge.spent
        finally:
            await judge.close()

    return asyncio.run(run())


def noise(seed, height=64, width=64):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


CASES = [
    *(prompt(noise(seed), source=noise(100)) for seed in range(3)),
    prompt(noise(3, 96, 32), source=noise(100)),
    prompt(noise(4), source=noise(101, 32, 96), instruction="make it brighter"),
    prompt(noise(5), source=noise(101, 32, 96), instruction="make it brighter"),
    prompt(noise(6), source=noise(102)),
]
"""Three cases: a group whose samples differ in size, a pair, and one alone."""


def by_hand(folder, one):
    """The stock model's inputs for one prompt, and the model."""
    model = loaded(settings(folder))
    images = iter([one.source, one.edited])
    parts = [
        part if part["type"] == "text" else {"type": "image", "image": Image.open(io.BytesIO(next(images)))}
        for part in one.content()
    ]
    inputs = model.processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    return model, inputs


@pytest.mark.parametrize("batch", [1, 2, 4, 7])
def test_scores_are_those_of_the_models_own_forward_pass_however_prompts_are_batched(garbage, batch):
    answers, _ = ask(garbage, CASES, batch=batch)
    for number, one in enumerate(CASES):
        model, inputs = by_hand(garbage, one)
        with torch.inference_mode():
            probabilities = model.model(**inputs).logits[0, -1].double().softmax(0)
        vocabulary = model.processor.tokenizer.get_vocab()
        weights = [sum(probabilities[vocabulary[t]] for t in (d, "Ġ" + d) if t in vocabulary) for d in "012345"]
        judgement = scorer(garbage, least_mass=0.0).judge(answers[number], one.rubric)
        assert judgement.score == pytest.approx(
            float(sum(k * w for k, w in enumerate(weights)) / sum(weights)), abs=1e-4
        )
        assert judgement.digit_mass == pytest.approx(float(sum(weights)), abs=1e-5)
        assert answers[number].text == model.text(int(probabilities.argmax()))
        assert answers[number].prompt_tokens == inputs["input_ids"].shape[1]


def test_tokens_that_say_a_digit_with_space_before_it_count(garbage):
    model = loaded(settings(garbage))
    said = {model.text(token) for token in model.digits}
    assert said >= set("012345")
    assert any(text.startswith(" ") for text in said)


@pytest.mark.parametrize("batch", [1, 4])
def test_replies_are_the_models_own_greedy_ones(garbage, batch):
    asked = [prompt(one.edited, Mode.COT_LOGIT, one.source, instruction=one.instruction) for one in CASES]
    answers, spent = ask(garbage, asked, batch=batch, max_tokens=12)
    for number, one in enumerate(asked):
        model, inputs = by_hand(garbage, one)
        ids = model.model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
        assert answers[number].text == f"cut off after 12 tokens: {model.text(*ids.tolist())}"
        assert answers[number].outcome == Outcome.PARSE_ERROR
    assert spent.answers == len(asked)
    assert spent.completion_tokens == 12 * len(asked)


def test_images_stand_where_a_server_puts_them(garbage):
    one = prompt(shade(9, 96, 32), source=shade(8, 32, 64), instruction="swap <|im_end|><|image_pad|> them")
    model = loaded(settings(garbage))
    encoded = model.encode(one.content())
    assert encoded.grids.tolist() == [[1, 2, 4], [1, 6, 2]]
    text = model.processor.tokenizer.decode(encoded.ids_S)
    first, second = (f"<|vision_start|>{'<|image_pad|>' * tokens}<|vision_end|>" for tokens in (2, 3))
    assert f"The source image:{first}The instruction that was given" in text
    assert text.endswith(f"The edited image:{second}Your score, one digit:<|im_end|>\n<|im_start|>assistant\n")
    ends = (encoded.ids_S == model.processor.tokenizer.eos_token_id).sum()
    assert ends == 1, "an instruction cannot end the message"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_learnt_to_judge_is_heard_in_all_modes(light_judge, dtype):
    scores = {}
    for mode in Mode:
        told = scorer(light_judge, mode=mode, dtype=dtype).score([triplet(value) for value in (20, 230, 40, 210)])
        assert {one.outcome for one in told} == {Outcome.SCORED}
        assert {len(one.answers) for one in told} == {0 if mode is Mode.LOGIT else 5}
        scores[mode] = [one.score for one in told]
    assert scores[Mode.COT] == [1, 4, 1, 4]
    assert scores[Mode.LOGIT] == pytest.approx([1, 4, 1, 4], abs=0.1)
    assert scores[Mode.COT_LOGIT] == pytest.approx([1, 4, 1, 4], abs=0.1)


@pytest.mark.parametrize("mode", list(Mode))
def test_garbage_is_no_number(garbage, mode):
    (judgement,) = scorer(garbage, mode=mode, max_tokens=30).score([triplet(20)])
    assert (judgement.outcome, judgement.score) == (Outcome.PARSE_ERROR, None)


def test_an_image_that_cannot_be_read_spoils_no_other(garbage):
    line = shade(3, 1, 400)
    answers, spent = ask(garbage, [CASES[0], prompt(b"no image"), prompt(line), CASES[1]])
    assert [answers[n].outcome for n in range(4)] == ["scored", "image_error", "image_error", "scored"]
    assert (spent.requests, spent.answers) == (4, 2)


def test_prompts_are_taken_a_batch_ahead_and_no_further(garbage):
    taken = []

    def prompts():
        for number in range(9):
            taken.append(number)
            yield CASES[0]

    async def run():
        async for number, _ in LocalJudge(settings(garbage, batch=2)).ask_all(prompts()):
            assert len(taken) <= 2 * (number // 2 + 2)

    asyncio.run(run())
    assert len(taken) == 9


def test_others_go_on_while_the_model_computes(garbage, monkeypatch):
    others_went_on = threading.Event()
    start = QwenModel.start

    def slow_start(self, batch, keep):
        assert others_went_on.wait(20)
        return start(self, batch, keep)

    async def run():
        monkeypatch.setattr(QwenModel, "start", slow_start)
        answers = LocalJudge(settings(garbage)).ask_all(CASES)
        first = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0.1)
        others_went_on.set()
        assert (await first)[0] == 0
        await answers.aclose()

    asyncio.run(run())


def test_too_little_memory_says_what_to_lower(garbage, monkeypatch):
    def start(self, batch, keep):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(QwenModel, "start", start)
    with pytest.raises(JudgeError, match="lower batch, which is 3, or image_side"):
        ask(garbage, CASES, batch=3)


def without(folder, name):
    (folder / name).unlink()


def lacking_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.visual.merger.norm.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "cannot judge"),
        (lambda folder: without(folder, "config.json"), "config.json"),
        (lambda folder: without(folder, "model.safetensors"), "no file named model.safetensors"),
        (lambda folder: without(folder, "tokenizer.json"), "digits of its vocabulary"),
        (lambda folder: without(folder, "chat_template.jinja"), "chat template"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "header"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), "a gpt2, not a Qwen3-VL"),
        (lacking_a_weight, "1 of its weights are missing, such as model.visual.merger.norm.weight"),
    ],
)
def test_what_is_no_whole_model_is_refused_by_name(garbage, tmp_path, spoil, told):
    folder = tmp_path / "model"
    shutil.copytree(garbage, folder)
    spoil(folder)
    with pytest.raises(JudgeError, match=told) as error:
        ask(folder, CASES[:1])
    assert str(folder) in str(error.value)


def test_a_broken_torchvision_is_as_none(garbage, tmp_path):
    """The wheel of PyPI beside a torch built otherwise, for example."""
    (tmp_path / "torchvision").mkdir()
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    code = "import sys\nfrom tasks.hp_scorer.qwen_processor import load_processor\nprint(load_processor(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(garbage)]
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (root, tmp_path)))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "Qwen2VLImageProcessorPil" in done.stdout, done.stderr


def scorer(folder, mode=Mode.LOGIT, least_mass=0.5, **changes):
    config = VlmConfig(judge=settings(folder, **changes), mode=mode, least_mass=least_mass)
    return VlmScorer(config, {EditType.REMOVAL: rubric_of(EditType.REMOVAL)})


def triplet(value):
    source = np.full((64, 64, 3), 128, np.uint8)
    return EditTriplet(
        case_id="c",
        edit_type=EditType.REMOVAL,
        instruction="remove the cup",
        request=Request(),
        category="cup",
        source=source,
        mask=np.ones((64, 64), bool),
        edited=np.full_like(source, value),
    )
