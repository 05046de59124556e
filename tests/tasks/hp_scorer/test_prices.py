"""What rating will cost is told before anything is asked: numbers that a pencil can check."""

import pytest
from pydantic import ValidationError

from storage.records import EditType
from tasks.hp_scorer.prices import CallTokens, Forecast, forecast, price_of, tokens_of_call, tokens_of_image
from tasks.hp_scorer.rubric import Rubric, RubricQuestion
from tasks.hp_scorer.settings import LocalSettings, Mode, Price, ServerSettings, VlmConfig

RUBRIC = Rubric(introduction="x" * 200, criteria=(), anchors={})
ASKING = RUBRIC.with_questions([RubricQuestion(name=f"q{n}", text="is it good?") for n in range(4)])
CHEAP = Price(prompt=2.0, completion=10.0)


@pytest.fixture(autouse=True)
def openai_itself(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def config(model="gpt-4.1", mode=Mode.LOGIT, side=512, repeats=1, **server):
    judge = ServerSettings(model=model, **server)
    return VlmConfig(judge=judge, mode=mode, image_side=side, repeats=repeats)


@pytest.mark.parametrize(
    ("model", "side", "tokens"),
    [
        ("gpt-4.1", 512, 85 + 170),
        ("gpt-4o-2024-08-06", 512, 255),
        ("gpt-4.1", 256, 255),
        ("gpt-4.1", 513, 85 + 4 * 170),
        ("gpt-4.1", 1024, 765),
        ("gpt-4.1", 2048, 765),
        ("Qwen/Qwen3-VL-8B-Instruct", 512, 16 * 16),
        ("Qwen/Qwen3-VL-8B-Instruct", 500, 256),
        ("Qwen/Qwen3-VL-8B-Instruct", 1024, 1024),
    ],
)
def test_an_image_takes_the_tokens_of_its_models_rule(model, side, tokens):
    assert tokens_of_image(model, side) == tokens


def test_a_call_takes_its_text_two_images_and_the_form_of_its_answer():
    text = len(RUBRIC.text()) // 4
    assert text >= 50
    digit = tokens_of_call(config(), RUBRIC)
    assert digit == CallTokens(prompt=text + 120 + 2 * 255, completion=1)
    larger = tokens_of_call(config(side=1024), RUBRIC)
    assert larger.prompt - digit.prompt == 2 * (765 - 255)
    reasoned = tokens_of_call(config(mode=Mode.COT), ASKING)
    assert reasoned.completion == 70 + 8 * 5, "a reason, four answers and the score"
    assert reasoned.prompt > digit.prompt, "questions are read, too"


def test_tokens_cost_by_the_million():
    assert CallTokens(prompt=1_500_000, completion=100_000).dollars(CHEAP) == pytest.approx(3.0 + 1.0)


@pytest.mark.parametrize(
    ("server", "price"),
    [
        ({"model": "gpt-4.1"}, Price(prompt=2, completion=8)),
        ({"model": "gpt-4o"}, Price(prompt=2.5, completion=10)),
        ({"model": "gpt-4.1", "base_url": "https://api.openai.com/v1"}, Price(prompt=2, completion=8)),
        ({"model": "gpt-4.1", "price": CHEAP}, CHEAP),
        ({"model": "no-such-model", "price": CHEAP}, CHEAP),
        ({"model": "qwen3-vl", "base_url": "http://127.0.0.1:8000/v1", "price": CHEAP}, CHEAP),
        ({"model": "no-such-model"}, None),
        ({"model": "Qwen/Qwen3-VL-8B-Instruct"}, None),
        ({"model": "gpt-4.1", "base_url": "http://localhost:8000/v1"}, None),
        ({"model": "gpt-4.1", "base_url": "http://127.0.0.1:8000/v1"}, None),
        ({"model": "gpt-4.1", "base_url": "http://10.0.0.3:8000/v1"}, None),
    ],
)
def test_a_price_is_the_one_set_or_the_one_listed_or_unknown(server, price):
    assert price_of(ServerSettings(**server)) == price


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.1:8000/v1", "http://judge.internal:8000/v1"])
def test_a_server_named_by_the_environment_is_not_taken_for_openai(monkeypatch, elsewhere):
    """A server of one's own may call its model as it likes; the client goes where OPENAI_BASE_URL says."""
    monkeypatch.setenv("OPENAI_BASE_URL", elsewhere)
    assert price_of(ServerSettings(model="gpt-4.1")) is None
    named = ServerSettings(model="gpt-4.1", base_url="https://api.openai.com/v1")
    assert price_of(named) == Price(prompt=2, completion=8)


def test_a_model_in_this_process_costs_nothing():
    assert price_of(LocalSettings(model="somewhere")) == Price(prompt=0, completion=0)


def test_a_price_below_nothing_is_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Price(prompt=-1, completion=0)


def test_a_forecast_adds_up_over_edit_types_and_repeats():
    asked = config(repeats=3, price=CHEAP)
    rubrics = dict.fromkeys(EditType, RUBRIC) | {EditType.STYLE: ASKING}
    plain, longer = tokens_of_call(asked, RUBRIC), tokens_of_call(asked, ASKING)
    assert longer.prompt > plain.prompt
    told = forecast(asked, rubrics, {EditType.BOKEH: 10, EditType.STYLE: 5}, known=7, seconds_each=2.0)
    prompt = 30 * plain.prompt + 15 * longer.prompt
    assert (told.calls, told.known) == (45, 7)
    assert (told.prompt_tokens, told.completion_tokens) == (prompt, 45)
    assert told.dollars == pytest.approx((prompt * 2 + 45 * 10) / 1e6)
    assert told.hours == pytest.approx(15 * 2 / 3600), "seconds are of a judgement with all of its repeats"


def test_a_forecast_does_not_make_up_what_nobody_knows():
    told = forecast(config(model="no-such-model"), dict.fromkeys(EditType, RUBRIC), {EditType.BOKEH: 10})
    assert told.calls == 10
    assert (told.dollars, told.hours) == (None, None)
    nothing = forecast(config(), dict.fromkeys(EditType, RUBRIC), {}, known=12, seconds_each=1.0)
    assert (nothing.calls, nothing.prompt_tokens, nothing.dollars, nothing.hours) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("dollars", "hours", "last"),
    [
        (1234.5, 2.254, "about $1,234.50; about 2.25 hours"),
        (0.0, None, "about $0.00; hours unknown before the first run"),
        (None, 0.5, "price unknown (set judge.price); about 0.50 hours"),
    ],
)
def test_a_forecast_is_two_lines_for_people(dollars, hours, last):
    told = Forecast(45_000, 1_200, 31_500_000, 45_000, dollars, hours)
    assert list(told.lines()) == [
        "45,000 calls to the judge; 1,200 judgements are known already",
        f"about 31,500,000 prompt and 45,000 completion tokens; {last}",
    ]
