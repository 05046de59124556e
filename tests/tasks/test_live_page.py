"""The live page of a run, in a real Prefect server."""

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from tasks import live_page
from tasks.live_page import ALARM_EVENT, LivePage

pytestmark = pytest.mark.prefect


def test_a_page_is_brought_up_to_date_in_place(prefect_server, monkeypatch):
    sent = []
    monkeypatch.setattr(live_page, "emit_event", lambda **event: sent.append(event))

    @flow
    def training():
        show = LivePage("a-page-of-its-own")
        show("# one", 10.0)
        show("# two", 50.0, "the judges come apart")
        show("# three", 100.0, "the judges come apart further")

    training()
    with get_client(sync_client=True) as client:
        rows = client.request("POST", "/artifacts/filter", json={}).json()
    pages = [row for row in rows if row["key"] == "a-page-of-its-own"]
    assert [(page["data"], page["description"]) for page in pages] == [("# three", "Done")]
    assert [row["data"] for row in rows if row["key"] == "a-page-of-its-own-progress"] == [100.0]
    assert [event["event"] for event in sent] == [ALARM_EVENT], "once"
    assert sent[0]["payload"] == {"says": "the judges come apart"}


def test_where_the_server_is_gone_the_work_goes_on(monkeypatch, caplog):
    def gone(*_, **__):
        raise ConnectionError("no server")

    monkeypatch.setattr(live_page, "create_markdown_artifact", gone)
    LivePage("a-page-of-its-own")("# one", 10.0)
    assert "could not be shown: no server" in caplog.text
