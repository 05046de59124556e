"""The rating page over HTTP: what it sends, what it refuses, and what the command line makes of a version."""

import json
import logging
import re

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from storage.manifest import Manifest
from storage.schemas import IMAGE
from tasks.hp_scorer.rubric import generic_rubric
from tasks.rating import __main__ as command_line
from tasks.rating.guard import is_served, names_of
from tasks.rating.ratings import RatingBook
from tasks.rating.server import bind, rating_app, serve
from tests.tasks.rating.served import NASTY, make_item, make_items

URL = "http://127.0.0.1:8765"
ITEM = {"edit_id", "edit_type", "instruction", "source", "edited"}


@pytest.fixture
def book(tmp_path):
    return RatingBook(tmp_path / "ratings.jsonl")


@pytest.fixture
def client(book):
    return TestClient(rating_app(make_items(12), book, 0), URL)


def rate(client, score=3, edit_id="edit0001", rater="A", **more):
    return client.post("/rate", json={"edit_id": edit_id, "rater": rater, "score": score}, **more)


def test_nothing_but_the_allowed_is_ever_sent(client, book):
    """A rater who knew what others or a judge think would tell that back."""
    for number in range(12):
        rate(client, number % 6, f"edit{number:04d}", "somebody else")
    for score in range(3):
        rate(client, score, f"edit{score:04d}")
    answer = client.get("/next", params={"rater": "A"}).json()
    assert set(answer) == {"item", "coming", "previous", "done", "left", "seconds_each"}
    items = [answer["item"], *answer["coming"], answer["previous"]]
    assert all(set(item) == ITEM for item in items)
    assert (answer["done"], answer["left"], answer["previous"]["edit_id"]) == (3, 9, "edit0002")
    image = client.get(answer["item"]["source"])
    assert set(image.headers) <= {
        *("content-type", "content-length", "cache-control", "content-security-policy", "referrer-policy"),
        *("cross-origin-resource-policy", "x-content-type-options"),
    }
    assert rate(client, 5).json() == {"edit_id": "edit0001"}
    assert client.post("/undo", json={"rater": "A"}).json() == {"edit_id": "edit0001"}
    progress = client.get("/progress").json()
    assert progress["total"] == {"bokeh": 6, "object_removal": 6}
    assert progress["raters"] == {"A": {"object_removal": 2}, "somebody else": progress["total"]}


def test_the_order_does_not_know_scores(book):
    """The same order before and after everybody else has rated."""

    def order(items):
        app = TestClient(rating_app(items, book, 0), URL)
        answer = app.get("/next", params={"rater": "A"}).json()
        return [item["edit_id"] for item in (answer["item"], *answer["coming"])]

    before = order(make_items(12))
    for number, edit_id in enumerate(before):
        book.rate(edit_id, "B", number)
    assert order(make_items(12)[::-1]) == before


def test_images_are_whole_and_may_be_kept_forever_under_an_address_of_their_content(client):
    item = make_item(1)
    for which, kind in (("source", "image/png"), ("edited", "image/jpeg")):
        found = client.get(f"/image/edit0001/{which}")
        assert found.content == getattr(item, which)
        assert found.headers["content-type"] == kind
        assert "immutable" in found.headers["cache-control"]


def test_another_image_of_the_same_name_has_another_address(book):
    addresses = set()
    for side in (64, 32):
        client = TestClient(rating_app([make_item(1, side=side)], book, 0), URL)
        item = client.get("/next", params={"rater": "A"}).json()["item"]
        addresses |= {item["source"], item["edited"]}
        assert client.get(item["source"]).content == make_item(1, side=side).source
    assert len(addresses) == 4
    assert all(re.fullmatch(r"/image/edit0001/(source|edited)\?v=[0-9a-f]{16}", address) for address in addresses)


def test_the_page_may_load_nothing_from_elsewhere(client):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert set(re.findall(r"(?:script|style|img|connect)-src ([^;]+)", policy)) == {"'self'"}
    assert all(meaning.split(";")[0] in page.text for meaning in generic_rubric().anchors.values())
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert path.startswith("/static/")
        assert "http" not in client.get(path).text
    assert client.get("/static/server.py").status_code == client.get("/static/..%2Fserver.py").status_code == 404
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


@pytest.mark.parametrize("score", [-1, 6, 2.5, 3.0, "3", True, None])
def test_scores_other_than_0_to_5_are_refused(client, book, score):
    assert rate(client, score).status_code == 422
    assert not book.path.exists()


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "a\nb", "a\u200bb", "\x00"])
def test_names_are_1_to_60_printable_characters(client, book, name):
    assert rate(client, rater=name).status_code == 422
    assert client.get("/next", params={"rater": name}).status_code == 422
    assert not book.path.exists()


def test_one_name_has_one_spelling(client, book):
    rate(client, 1, "edit0001", " Zoe\u0308 ")
    rate(client, 2, "edit0002", "Zo\u00eb")
    assert {rating.rater for rating in book.ratings()} == {"Zo\u00eb"}


def test_bad_requests_are_refused(client, book):
    assert rate(client, edit_id="nobody").status_code == 404
    assert client.post("/undo", json={"rater": "A", "edit_id": "nobody"}).status_code == 404
    assert client.get("/image/nobody/source").status_code == 404
    assert client.get("/image/edit0001/mask").status_code == 422
    assert client.get("/next").status_code == 422
    body = {"edit_id": "edit0001", "rater": "A", "score": 3}
    assert client.post("/rate", json=body | {"rated_at": "2020-01-01"}).status_code == 422
    assert client.post("/rate", content=b"{").status_code == 422
    # What a form on another page can send without being asked first.
    plain = client.post("/rate", content=json.dumps(body).encode(), headers={"content-type": "text/plain"})
    assert plain.status_code == 422
    assert not book.path.exists()


def test_undo_leaves_ratings_of_other_items_alone(client, book):
    book.rate("edit0001", "A", 2)
    book.rate("of another study", "A", 3)
    assert client.post("/undo", json={"rater": "A"}).json() == {"edit_id": "edit0001"}
    assert client.post("/undo", json={"rater": "A"}).json() == {"edit_id": None}
    assert [rating.edit_id for rating in book.ratings()] == ["of another study"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0", "", "[::1"]
)
def test_other_hosts_are_refused(client, host):
    """A name that somebody else lets point here (DNS rebinding)."""
    for path in ("/", "/next?rater=A", "/image/edit0001/source", "/progress", "/nowhere"):
        assert client.get(path, headers={"host": host}).status_code == 421


def test_loopback_has_three_names_and_any_port():
    assert all(
        is_served(host, names_of("127.0.0.1")) for host in ("127.0.0.1:1", "localhost", "LOCALHOST:2", "[::1]:3")
    )


def test_a_server_for_everybody_answers_to_addresses_and_told_names():
    names = names_of("0.0.0.0", ["Ratings.example"])
    assert all(is_served(host, names) for host in ("192.168.1.4:8765", "[fe80::1]:8765", "ratings.example:80"))
    assert not is_served("evil.example:8765", names)
    assert not is_served("192.168.1.4:8765", names_of("10.0.0.1"))


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8765"])
def test_posts_from_other_pages_are_refused(client, book, origin):
    assert rate(client, headers={"origin": origin}).status_code == 403
    assert client.post("/undo", json={"rater": "A"}, headers={"origin": origin}).status_code == 403
    assert not book.path.exists()
    assert rate(client, headers={"origin": URL}).status_code == 200


def test_a_rating_that_cannot_be_written_is_to_be_sent_again(client, book, caplog):
    book.path.symlink_to("/dev/full")
    with caplog.at_level(logging.CRITICAL, "tasks.rating.server"):
        assert rate(client).status_code == 503


def test_two_items_of_one_name_are_refused(book):
    with pytest.raises(ValueError, match="edit0001"):
        rating_app([make_item(1), make_item(1)], book, 0)


def test_listening_for_others_is_warned_of(book, caplog, monkeypatch):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        caplog.clear()
        with bind(host, 0) as listener:
            serve(rating_app([], book, 0), listener)
        assert ("no password" in caplog.text) is warned


# --- the command line -----------------------------------------------------------------------------------------------


def commit(store, rows):
    columns = [(name, pa.string()) for name in ("edit_id", "edit_type", "instruction", "editor")]
    schema = pa.schema([*columns, ("source", IMAGE), ("edited", IMAGE)])
    file = store.add_table(pa.Table.from_pylist(rows, schema=schema))
    what = {"artifact": "triplets", "stage": "test", "stage_version": 1, "key": "k", "config": {}}
    return store.commit(Manifest(**what, tables={"triplets": (file,)}))


def row(number, **changes):
    item = make_item(number)
    images = {name: {"bytes": getattr(item, name), "path": None} for name in ("source", "edited")}
    return vars(item) | images | {"editor": "secret"} | changes


def test_items_are_read_from_a_version_and_what_cannot_be_shown_is_counted(store):
    rows = [row(1), row(2, edited=None), row(3, edited={"bytes": None, "path": "x.png"}), row(4, edit_id="a/b")]
    items, left_out = command_line.read_items(commit(store, [*rows, row(5, instruction=NASTY)]))
    assert items == [make_item(1), make_item(5, instruction=NASTY)]
    assert sum(left_out.values()) == 3
    assert left_out["no edited image"] == 2


def test_the_command_line_says_where_it_is_and_what_comes_next(store, tmp_path, monkeypatch, capsys):
    commit(store, [row(1), row(2)])
    ratings = tmp_path / "ratings.jsonl"
    RatingBook(ratings).rate("edit0001", "Ann", 3)
    told = []
    monkeypatch.setattr(command_line, "serve", lambda app, listener: told.append((app, listener)))
    words = ["triplets@latest", "--ratings", str(ratings), "--port", "0", "--store", str(tmp_path / "store")]
    assert command_line.main(words) == 0
    ((_, listener),) = told
    port = listener.getsockname()[1]
    said = capsys.readouterr().out
    listener.close()
    assert "2 triplets of triplets@v1" in said
    assert "1 by Ann" in said
    assert f"http://127.0.0.1:{port}/" in said
    assert f"python -m flows.collect_labels triplets@v1 --ratings {ratings}" in said


def test_the_command_line_fails_in_one_line(store, tmp_path, capsys):
    words = ["--ratings", str(tmp_path / "r"), "--store", str(tmp_path / "store")]
    assert command_line.main(words) == 2
    assert "has no version of it" in capsys.readouterr().err
    commit(store, [row(1)])
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        assert command_line.main([*words, "--port", str(taken.getsockname()[1])]) == 2
    assert "in use" in capsys.readouterr().err
