"""A real vision-language model behind a real OpenAI-compatible server: `transformers serve` with a tiny Qwen3-VL.

This server silently ignores log-probabilities and the schema of replies, which is what a client must notice.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from storage.records import EditType
from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.judge import JudgeError, Spent
from tasks.hp_scorer.local_judge import LocalJudge
from tasks.hp_scorer.openai_judge import OpenAIJudge
from tasks.hp_scorer.rubric import generic_rubric, rubric_of
from tasks.hp_scorer.settings import LocalSettings, Mode, ServerSettings, VlmConfig
from tasks.hp_scorer.vlm_scorer import VlmScorer
from tests.tasks.hp_scorer.tiny_qwen import make_light_judge, prompt, shade, verdict

ROOT = Path(__file__).parents[3]
START_SECONDS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_light_judge(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """Its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server.log"
    command = [sys.executable, "-m", "tests.tasks.hp_scorer.serve_tiny_qwen", str(folder), str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url, process, log):
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"transformers serve is not ready after {START_SECONDS} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


def settings(server, folder, **changes):
    fields = {"base_url": server, "model": str(folder), "timeout_seconds": 60, "tries": 1, "concurrency": 2}
    return ServerSettings(**fields | {"max_tokens": 150} | changes)


def ask(judge, prompts):
    async def run():
        try:
            return {number: answer async for number, answer in judge.ask_all(prompts)}
        finally:
            await judge.close()

    answers = asyncio.run(run())
    return [answers[number] for number in range(len(prompts))]


def scored(config, answers, rubric):
    judge = VlmScorer(config, {EditType.REMOVAL: rubric})
    return [(one.outcome, one.score) for one in (judge.judge(answer, rubric) for answer in answers)]


def test_the_model_sees_both_images_and_its_verdict_comes_through(server, folder):
    chosen = settings(server, folder)
    spent = Spent()
    asked = [prompt(shade(20), Mode.COT), prompt(shade(230), Mode.COT)]
    answers = ask(OpenAIJudge(chosen, spent), asked)
    assert [answer.text for answer in answers] == [verdict(1), verdict(4)]
    told = scored(VlmConfig(judge=chosen, mode=Mode.COT), answers, rubric_of(EditType.REMOVAL))
    assert told == [(Outcome.SCORED, 1.0), (Outcome.SCORED, 4.0)]
    assert {answer.model for answer in answers} == {f"{folder}@main"}
    assert spent.prompt_tokens == sum(answer.prompt_tokens for answer in answers)


def test_the_judge_in_this_process_reads_the_same_and_says_the_same(server, folder):
    asked = [prompt(shade(20), Mode.COT), prompt(shade(230, 96, 32), Mode.COT, source=shade(90, 32, 64))]
    served = ask(OpenAIJudge(settings(server, folder, max_tokens=120), Spent()), asked)
    local = ask(LocalJudge(LocalSettings(model=str(folder), dtype="float32", max_tokens=120, device="cpu")), asked)
    for one, other in zip(served, local, strict=True):
        assert (one.outcome, one.text) == (other.outcome, other.text)
        assert (one.prompt_tokens, one.completion_tokens) == (other.prompt_tokens, other.completion_tokens)


def test_tokens_are_counted_and_grow_with_each_image(server, folder):
    sizes = [(64, 64), (128, 64), (64, 128)]
    asked = [prompt(shade(20, edited), Mode.COT, source=shade(128, source)) for source, edited in sizes]
    counts = [answer.prompt_tokens for answer in ask(OpenAIJudge(settings(server, folder), Spent()), asked)]
    # 32 x 32 pixels a token; images are 64 wide.
    assert [count - counts[0] for count in counts] == [0, 4, 4]


def test_a_reply_that_is_cut_off_is_no_number(server, folder):
    chosen = settings(server, folder, max_tokens=10)
    answers = ask(OpenAIJudge(chosen, Spent()), [prompt(shade(20), Mode.COT)])
    told = scored(VlmConfig(judge=chosen, mode=Mode.COT), answers, rubric_of(EditType.REMOVAL))
    assert told == [(Outcome.PARSE_ERROR, None)]
    assert answers[0].completion_tokens == 10


def test_a_schema_that_the_server_ignores_is_checked_here(server, folder):
    """The model knows one rubric by heart; asked about another it answers the same, which is no answer to that."""
    chosen = settings(server, folder)
    rubric = generic_rubric()
    answers = ask(OpenAIJudge(chosen, Spent()), [prompt(shade(230), Mode.COT, rubric=rubric)])
    assert scored(VlmConfig(judge=chosen, mode=Mode.COT), answers, rubric) == [(Outcome.PARSE_ERROR, None)]


@pytest.mark.parametrize("mode", [Mode.LOGIT, Mode.COT_LOGIT])
def test_probabilities_that_the_server_leaves_out_are_missed(server, folder, mode):
    with pytest.raises(JudgeError, match="use mode cot") as error:
        ask(OpenAIJudge(settings(server, folder), Spent()), [prompt(shade(20), mode)])
    assert server in str(error.value)


def test_a_model_that_the_server_does_not_have_is_refused(server, folder):
    with pytest.raises(JudgeError, match="nobody/nothing"):
        ask(OpenAIJudge(settings(server, folder, model="nobody/nothing"), Spent()), [prompt(shade(20), Mode.COT)])
