"""An editor behind a server, through the real SDK and real HTTP, against a scripted one."""

import asyncio
import base64
import io
import json
import time

import numpy as np
import pytest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image

from perf.editor_server import darken, editor_server
from tasks.editing.catalogue import fingerprint_of_editor, make_editor
from tasks.editing.interface import EditFailure, EditorError, EditTask
from tasks.editing.remote import LARGEST_ANSWER, RemoteEditor, SpendingCapError
from tasks.editing.settings import RemoteEditorConfig
from tasks.images import LARGEST_IMAGE, png

KEY = "sk-test-secret"
RNG = np.random.default_rng(0)
SOURCE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
PNG = png(SOURCE)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """What is waited between tries is a matter of `tasks.serving`; here only that it is tried."""
    monkeypatch.setattr("tasks.editing.remote.pause", lambda number, chance: 0.01)


def task(number=0, instruction="darken it", source=SOURCE):
    return EditTask(case_id=f"case-{number}", instruction=instruction, source=source, seed=number)


def editor(url, **settings):
    settings = {"model": "scripted", "timeout_seconds": 2.0, "tries": 3} | settings
    return RemoteEditor(RemoteEditorConfig(base_url=url, **settings))


def one(script, **settings):
    """The answer to one task, and how often the server was asked."""
    with editor_server(script) as (url, server):
        (picture,) = editor(url, **settings).edit([task()])
    return picture, server.books.requests


def test_pictures_come_back_each_with_its_task():
    sources = [RNG.integers(0, 256, (16 + n, 24, 3), dtype=np.uint8) for n in range(20)]
    with editor_server() as (url, server):
        made = editor(url)
        pictures = made.edit([task(n, source=source) for n, source in enumerate(sources)])
    for number, (source, picture) in enumerate(zip(sources, pictures, strict=True)):
        assert picture.shape == source.shape
        assert picture[0, 0, 0] == number, "its own seed"
        assert np.abs(picture[1:].astype(int) - source[1:] // 2).max() <= 1
    assert sorted(server.books.delivered.values()) == [1] * 20
    assert (made.books.requests, made.books.made) == (20, 20)


def test_what_is_sent():
    asked = []

    def script(request):
        asked.append(request)
        return darken(request)

    with editor_server(script) as (url, _):
        editor(url, extra_body={"num_inference_steps": 20}, size="source").edit([task(7, 'say "hé"\nand more')])
        editor(url, model="gpt-image-1", send_seed=False).edit([task(7)])
    first, second = asked
    told = {"model": "scripted", "prompt": 'say "hé"\nand more', "n": "1", "size": "30x20", "seed": "7"}
    assert first.fields == told | {"num_inference_steps": "20", "response_format": "b64_json"}
    assert first.image == PNG
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert second.fields == {"model": "gpt-image-1", "prompt": "darken it", "n": "1"}, "it refuses response_format"


def test_pictures_are_there_while_others_are_drawn():
    def script(request):
        if request.fields["seed"] == "1":
            time.sleep(0.3)
        return darken(request)

    with editor_server(script) as (url, _):
        order = [position for position, _ in editor(url, concurrency=2).edits(task(n) for n in range(3))]
    assert sorted(order) == [0, 1, 2]


def test_tasks_are_taken_as_they_are_needed():
    taken = []

    def tasks():
        for number in range(100):
            taken.append(number)
            yield task(number)

    with editor_server() as (url, server):
        pictures = editor(url, concurrency=2).edits(tasks())
        next(pictures)
        pictures.close()
        asked = server.books.requests
        time.sleep(0.1)
        assert server.books.requests == asked, "nothing is asked once the reader is gone"
    assert len(taken) < 100


def said(status, message, code=None, headers=None):
    return lambda request: JSONResponse(
        {"error": {"message": message, "type": "invalid_request_error", "code": code}}, status, headers
    )


def raw(body, status=200):
    return lambda request: Response(body, status, media_type="application/json")


def with_data(*data):
    return lambda request: JSONResponse({"created": 0, "data": list(data)})


def with_picture(picture):
    return with_data({"b64_json": base64.b64encode(picture).decode()})


def large():
    """A picture of more pixels than are decoded, in few bytes."""
    encoded = io.BytesIO()
    Image.new("1", (10_000, LARGEST_IMAGE // 10_000 + 1)).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("script", "reason", "requests"),
    [
        (said(400, "Your request was rejected by our safety system", "moderation_blocked"), "filtered: Your", 1),
        (said(400, "no", "content_policy_violation"), "filtered: no", 1),
        (said(400, "rejected as a result of our safety system."), "filtered: rejected", 1),
        (said(400, "size not supported"), "refused: size not supported", 1),
        (lambda request: JSONResponse({"detail": "no such thing"}, 422), "refused: Error code: 422", 1),
        (said(400, "no", "invalid_image_format"), "image_error: no", 1),
        (said(429, "slow down", "rate_limit_exceeded", {"retry-after": "0.01"}), "rate_limited: slow down", 3),
        (said(500, "oh"), "server_error: oh", 3),
        (said(503, "oh"), "server_error: oh", 3),
        (raw("<html>a proxy</html>", 502), "server_error: Error code: 502", 3),
        (raw("<html>"), "server_error: an answer that is no JSON: Expecting value", 3),
        (raw(b"\xff\xfe\x00"), "server_error: an answer that is no JSON: Expecting value", 3),
        (raw("[" * 100_000), "server_error: an answer that is no JSON", 3),
        (raw("9" * 10_000), "server_error: an answer that is no JSON", 3),
        (raw("[" * 100_000, 500), "server_error: Error code: 500", 3),
        (lambda request: JSONResponse([1]), "server_error: an answer without a picture: [1]", 3),
        (lambda request: JSONResponse({"error": "in vain"}), "server_error: an answer without a picture", 3),
        (with_data(), "server_error: an answer without a picture", 3),
        (with_data("no"), "server_error: an answer without a picture", 3),
        (with_data({}), "image_error: an answer without b64_json", 1),
        (with_data({"b64_json": 3}), "image_error: an answer without b64_json", 1),
        (with_data({"url": "http://127.0.0.1:1/x.png"}), "image_error: the server gave an address, and addr", 1),
        (with_data({"b64_json": "not base64!"}), "image_error: ", 1),
        (with_data({"b64_json": "é"}), "image_error: ", 1),
        (with_picture(b""), "image_error: not an image of a kind that is read (PNG, JPEG, WEBP)", 1),
        (with_picture(b"GIF89a"), "image_error: not an image of a kind that is read (PNG, JPEG, WEBP)", 1),
        (with_picture(PNG[:-200]), "image_error: not a readable image: ", 1),
        (with_picture(large()), "image_error: 10000 x 5001 pixels, at most 50000000 are read", 1),
    ],
)
def test_a_failure_has_its_reason_and_is_tried_again_only_where_that_may_help(script, reason, requests):
    picture, asked = one(script)
    assert isinstance(picture, EditFailure)
    kind, told = reason.split(": ", 1)
    assert picture.reason.startswith(f"{kind}: ")
    assert told in picture.reason
    assert "\n" not in picture.reason
    assert asked == requests


def test_an_answer_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr("tasks.editing.remote.LARGEST_ANSWER", 10_000)
    picture, asked = one(with_data({"b64_json": "A" * 50_000}))
    assert picture == EditFailure("image_error: an answer of more than 10,000 bytes")
    assert asked == 1
    assert LARGEST_ANSWER == 100_000_000


def test_a_server_that_hangs_and_one_that_drips_are_timeouts():
    async def drip():
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.1)

    with editor_server(latency_seconds=0.8) as (url, _):
        (hangs,) = editor(url, timeout_seconds=0.2, tries=2).edit([task()])
    drips, _ = one(lambda request: StreamingResponse(drip(), media_type="application/json"), timeout_seconds=0.4)
    assert hangs == EditFailure("timeout: no picture within 0.2 s")
    assert drips == EditFailure("timeout: no picture within 0.4 s")


def test_an_answer_that_breaks_off_is_asked_for_again():
    class Broken(Response):
        async def __call__(self, scope, receive, send):
            headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"data":', "more_body": True})
            raise ConnectionResetError("cut on purpose")

    times = []

    def script(request):
        times.append(1)
        return Broken() if len(times) < 3 else darken(request)

    picture, asked = one(script)
    assert picture.shape == SOURCE.shape
    assert asked == 3


def test_errors_that_pass_are_tried_again_and_retry_after_is_kept():
    came = []

    def script(request):
        came.append(time.monotonic())
        if len(came) == 1:
            return said(500, "oh")(request)
        return said(429, "slow", None, {"retry-after": "0.3"})(request) if len(came) == 2 else darken(request)

    picture, _ = one(script)
    assert picture.shape == SOURCE.shape
    assert len(came) == 3
    assert came[2] - came[1] >= 0.3


@pytest.mark.parametrize(
    ("size", "drawn", "failure"),
    [
        ("auto", (64, 48), ""),
        ("64x48", (64, 48), ""),
        ("source", (30, 20), ""),
        ("64x64", (64, 48), "image_error: a picture of 64x48 instead of 64x64; size auto takes what comes"),
        ("source", (32, 32), "image_error: a picture of 32x32 instead of 30x20; size auto takes what comes"),
    ],
)
def test_a_size_that_was_asked_for_is_insisted_on(size, drawn, failure):
    picture, _ = one(with_picture(png(np.zeros((drawn[1], drawn[0], 3), np.uint8))), size=size)
    if failure:
        assert picture == EditFailure(failure)
    else:
        assert picture.shape == (drawn[1], drawn[0], 3)


def test_transparency_is_shown_on_white():
    encoded = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(encoded, "PNG")
    picture, _ = one(with_picture(encoded.getvalue()))
    assert (picture == 255).all()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (said(401, f"Incorrect API key provided: {KEY}.", "invalid_api_key"), r"Incorrect API key provided: \*\*\*\. "),
        (said(401, "no", "invalid_api_key"), "is OPENAI_API_KEY right"),
        (said(403, "no"), "is OPENAI_API_KEY right"),
        (said(404, "The model `scripted` does not exist", "model_not_found"), "is model or base_url right"),
        (said(429, "no", "insufficient_quota"), "no money left"),
    ],
)
def test_an_editor_that_is_set_up_wrongly_stops_at_once_and_shows_no_key(script, told):
    with editor_server(script) as (url, server), pytest.raises(EditorError, match=told) as error:
        editor(url).edit([task(n) for n in range(50)])
    assert server.books.requests <= 8
    assert KEY not in str(error.value)


def test_without_a_key_it_says_so(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EditorError, match="OPENAI_API_KEY"):
        editor("http://127.0.0.1:1/v1").edit([task()])
    assert editor("http://127.0.0.1:1/v1").fingerprint, "its edits are known without"


def test_a_server_that_never_gives_a_picture_is_given_up():
    """A parameter that it does not know, an address instead of a picture: else 50,000 rows would fail one by one."""
    unknown = said(400, "Unknown parameter: 'response_format'.", "unknown_parameter")
    for script in (unknown, with_data({"url": "http://x/y.png"})):
        with (
            editor_server(script) as (url, server),
            pytest.raises(EditorError, match=r"give_up_after.*: (refused|image)"),
        ):
            editor(url, give_up_after=6).edit([task(n) for n in range(200)])
        assert server.books.requests <= 6 + 8
    with editor_server(unknown) as (url, _):
        assert len(editor(url, give_up_after=None).edit([task(n) for n in range(30)])) == 30
    with editor_server(said(400, "no", "content_policy_violation")) as (url, _):
        assert len(editor(url, give_up_after=6).edit([task(n) for n in range(30)])) == 30, "it may be the cases"


def test_nobody_there_is_given_up():
    with pytest.raises(EditorError, match="server_error: Connection error"):
        editor("http://127.0.0.1:1/v1", give_up_after=3, tries=2).edit([task(n) for n in range(10)])


def test_every_task_ends_and_none_is_paid_twice_while_the_server_spoils_a_third():
    with editor_server(faults=0.3) as (url, server):
        made = editor(url, timeout_seconds=0.5, tries=8, concurrency=16)
        pictures = made.edit([task(n) for n in range(60)])
    drawn = [picture for picture in pictures if not isinstance(picture, EditFailure)]
    assert len(server.books.faults) == 5
    assert len(drawn) >= 57
    assert set(server.books.delivered.values()) == {1}
    assert len(server.books.delivered) == len(drawn) == made.books.made


def test_a_server_with_a_limit_is_not_overrun():
    with editor_server(at_once=3, latency_seconds=0.02) as (url, server):
        made = editor(url, concurrency=16, tries=12)
        pictures = made.edit([task(n) for n in range(60)])
        assert not any(isinstance(picture, EditFailure) for picture in pictures)
        refused = server.books.faults["too many"]
        made.edit([task(n) for n in range(60, 90)])
    assert server.books.most_under_way <= 3
    assert refused < 60
    assert server.books.faults["too many"] - refused < 20, "what was learnt of the server is kept"


def test_spending_stops_before_the_cap_and_what_was_paid_is_there():
    with editor_server(latency_seconds=0.01) as (url, server):
        made, came = editor(url, price=0.04, spend_at_most=0.5), []
        with pytest.raises(SpendingCapError, match=r"\$0\.48 spent on 12 pictures of this run, and \$0\.5 is allowed"):
            came.extend(made.edits(task(n) for n in range(40)))
    assert len(came) == server.books.requests == 12


def test_the_fingerprint_is_of_what_decides_the_picture():
    config = RemoteEditorConfig(model="qwen", base_url="http://one/v1")
    same = [{"base_url": "http://two/v1"}, {"timeout_seconds": 5}, {"concurrency": 1}, {"price": 1.0}]
    other = [{"revision": "abc"}, {"size": "source"}, {"send_seed": False}, {"extra_body": {"guidance_scale": 4}}]
    mark = fingerprint_of_editor(config, None)
    assert make_editor(config, None).fingerprint == mark
    for changes, alike in ((same, True), (other, False)):
        for change in changes:
            assert (fingerprint_of_editor(config.model_copy(update=change), None) == mark) is alike, change


def test_answers_of_all_kinds_that_are_read_look_alike():
    for kind in ("PNG", "JPEG", "WEBP"):
        encoded = io.BytesIO()
        Image.new("RGB", (16, 16), (10, 200, 30)).save(encoded, kind)
        picture, _ = one(with_picture(encoded.getvalue()))
        assert np.abs(picture.astype(int) - (10, 200, 30)).max() < 8
    assert json.dumps(RemoteEditorConfig(model="m").deciding())
