"""What a judge is set up with: nothing secret, and settings of before there were several kinds."""

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.hp_scorer.settings import MeasuredConfig, ScorerConfig, ServerSettings, VlmConfig
from tasks.rate_edits import RateConfig


@pytest.mark.parametrize("name", ["api_key", "X-Authorization", "token", "password", "my_secret", "key"])
def test_no_secret_can_stand_in_what_is_sent_along(name):
    body = {"nested": [{name.replace("X-", ""): "sk-1"}]}
    with pytest.raises(ValidationError, match="no secret may be there"):
        ServerSettings(model="m", extra_body=body)


def test_sampling_parameters_may_be_sent_along():
    body = {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}, "max_tokens_hint": 3}
    assert ServerSettings(model="m", extra_body=body).extra_body == body


@pytest.mark.parametrize("address", ["http://me:word@host/v1", "https://token@host/v1", "https://host/v1?key=1"])
def test_no_credentials_can_stand_in_the_address(address):
    with pytest.raises(ValidationError, match="OPENAI_API_KEY"):
        ServerSettings(model="m", base_url=address)


def test_settings_that_do_not_say_their_kind_are_those_of_before():
    assert RateConfig.model_validate({"scorer": {"mode": "continuous"}}).scorer == MeasuredConfig(mode="continuous")
    adapter = TypeAdapter(ScorerConfig)
    found = adapter.validate_python({"kind": "vlm", "judge": {"model": "m"}})
    assert found == VlmConfig(judge=ServerSettings(model="m"))
    assert adapter.validate_json(adapter.dump_json(found)) == found
    with pytest.raises(ValidationError, match="nois"):
        adapter.validate_python({"nois": 1})


def test_the_form_shows_both_kinds():
    schema = RateConfig.model_json_schema()
    assert {"MeasuredConfig", "VlmConfig", "ServerSettings", "LocalSettings"} <= set(schema["$defs"])
