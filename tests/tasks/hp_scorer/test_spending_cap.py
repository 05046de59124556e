"""What may be spent is not exceeded, and what was spent is not lost."""

import asyncio

import pytest

from perf.judge_server import judge_server
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditConfig
from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.judge import JudgeError, SpendingCapError
from tasks.hp_scorer.openai_judge import OpenAIJudge
from tasks.hp_scorer.settings import Mode, Price, ServerSettings, VlmConfig
from tasks.miniature.coco import write_coco
from tasks.rate_edits import RateConfig, RateEdits
from tasks.stage import execute
from tests.tasks.hp_scorer.test_openai_judge import prompt
from tests.tasks.hp_scorer.test_vlm_scorer import scorer, triplet
from tests.tasks.stand_ins import CountedEdits

A_DOLLAR = Price(prompt=1e6 / 900, completion=0)
"""With it every answer of the scripted server costs one dollar: it counts 900 tokens of each prompt."""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


def server_settings(url="http://127.0.0.1:1/v1", cap=None, **changes):
    fields = {"timeout_seconds": 5, "tries": 2, "concurrency": 8, "price": A_DOLLAR} | changes
    return ServerSettings(base_url=url, model="scripted", spend_at_most=cap, **fields)


def ask(settings, count):
    """The answers that came, the error that ended it if any, and what was spent."""

    async def run():
        judge, answers, ended = OpenAIJudge(settings), {}, None
        try:
            async for number, answer in judge.ask_all(prompt(n, Mode.LOGIT) for n in range(count)):
                assert number not in answers
                answers[number] = answer
        except SpendingCapError as error:
            ended = error
        finally:
            await judge.close()
        return answers, ended, judge.spent

    return asyncio.run(run())


@pytest.mark.parametrize("concurrency", [1, 8])
def test_requests_stop_before_the_cap_is_passed_and_all_under_way_are_answered(concurrency):
    with judge_server(lambda body: "4", latency_seconds=0.02) as (url, server):
        answers, ended, spent = ask(server_settings(url, cap=12.5, concurrency=concurrency), 40)
    assert server.books.requests == spent.answers == len(answers) == 12
    assert {answer.outcome for answer in answers.values()} == {Outcome.SCORED}
    assert ended is not None


def test_the_error_names_what_was_spent_on_how_many_answers_and_what_to_do():
    with judge_server(lambda body: "4") as (url, _):
        _, ended, _ = ask(server_settings(url, cap=6.5), 40)
    said = str(ended)
    assert "scripted: $6.00 spent in 6 answers" in said
    assert "$6.5 is allowed (judge.spend_at_most)" in said
    assert "a run with a higher cap goes on from there" in said


def test_a_run_that_the_cap_allows_is_not_stopped():
    """A first guess of what a call costs, four times too high, once let 2 of 8 workers begin and sent the others home
    with their prompts unasked: the run ended as if all had been spent, having spent a quarter.
    """
    with judge_server(lambda body: "4", latency_seconds=0.02) as (url, server):
        answers, ended, spent = ask(server_settings(url, cap=10.5, concurrency=8), 10)
    assert ended is None
    assert sorted(answers) == list(range(10))
    assert spent.answers == server.books.requests == 10


def test_a_cap_below_the_first_call_asks_nothing():
    with judge_server(lambda body: "4") as (url, server):
        answers, ended, _ = ask(server_settings(url, cap=0.5), 10)
    assert (answers, server.books.requests) == ({}, 0)
    assert "$0.00 spent in 0 answers" in str(ended)


def test_answers_that_were_paid_without_a_score_count():
    with judge_server(lambda body: "I would rather not") as (url, server):
        answers, ended, _ = ask(server_settings(url, cap=5.5), 40)
    assert ended is not None
    assert server.books.requests == len(answers) == 5


def capped(url, cap, **changes):
    return scorer(judge=server_settings(url, cap, **changes))


def test_what_was_spent_is_carried_over_between_calls_of_one_scorer():
    with judge_server(lambda body: "4") as (url, server):
        one = capped(url, 10.5)
        assert len(one.score([triplet()] * 6)) == 6
        came = []
        with pytest.raises(SpendingCapError, match=r"\$10\.00 spent in 10 answers"):
            came.extend(one.judgements([triplet()] * 6))
        assert server.books.requests == 10
        with pytest.raises(SpendingCapError):
            one.score([triplet()])
        assert server.books.requests == 10, "and stays spent"
        assert len(capped(url, 10.5).score([triplet()] * 6)) == 6, "another one begins at nothing"


def test_everything_answered_reaches_the_reader_before_the_error():
    with judge_server(lambda body: "4", latency_seconds=0.02) as (url, server):
        judgements, came = capped(url, 7.5).judgements([triplet()] * 20), []
        with pytest.raises(SpendingCapError):
            came.extend(judgements)
        assert len({position for position, _ in came}) == len(came) == server.books.requests == 7
        assert {judgement.outcome for _, judgement in came} == {Outcome.SCORED}


def test_a_cap_on_a_model_without_a_known_price_is_refused_before_anything_is_asked():
    with judge_server(lambda body: "4") as (url, server):
        said = r"scripted: spend_at_most is set, but no price is known: set judge\.price"
        with pytest.raises(JudgeError, match=said):
            OpenAIJudge(server_settings(url, 100, price=None))
        with pytest.raises(JudgeError, match="no price is known"):
            capped(url, 100, price=None).score([triplet()])
        assert server.books.requests == 0
        assert len(capped(url, None, price=None).score([triplet()])) == 1, "without a cap the price may be unknown"


def test_a_later_run_with_a_higher_cap_asks_only_for_the_rest(store, tmp_path):
    """By the books of the server: what was answered before the cap is not asked for again."""
    collect = CollectConfig(train_per_edit_type=2, bench_per_edit_type=1, cases_per_image=8)
    cases = execute(CollectCases(store, collect, write_coco(tmp_path, 5, 10))).version
    edits = execute(CountedEdits(store, EditConfig(), cases)).version

    def night(url, cap):
        config = RateConfig(limits={}, scorer=VlmConfig(judge=server_settings(url, cap, concurrency=3)))
        return execute(RateEdits(store, config, edits))

    with judge_server(lambda body: "4") as (url, server):
        for cap, asked in ((5.5, 5), (4.5, 9)):
            with pytest.raises(SpendingCapError):
                night(url, cap)
            assert server.books.requests == asked
            assert store.latest("scores") is None
        run = night(url, 7.5)
        assert server.books.requests == 16
        assert night(url, 0.1).reused, "a version that stands costs nothing, whatever may be spent"
    assert server.books.requests == 16
    assert list(server.books.delivered.values()) == [1] * 16, "each was asked about once"
    assert run.version.table("scores", ["outcome"])["outcome"].to_pylist() == ["scored"] * 16
