"""A stream goes on by itself in a thread, hands over what comes, and ends with its reader."""

import asyncio
import gc
import threading
import time
import warnings
from contextlib import contextmanager

import pytest

from perf.judge_server import judge_server
from tasks.hp_scorer.judge import JudgeError
from tasks.serving.streaming import iterate
from tests.tasks.hp_scorer.test_vlm_scorer import scorer, triplet

WAIT = 5.0
"""Seconds after which a test gives up; none comes near."""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


@contextmanager
def nothing_left():
    """No thread and nothing unclosed remains of what is done in the block."""
    before = set(threading.enumerate())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
        ours = [thread.name for thread in set(threading.enumerate()) - before]
        gc.collect()
    assert ours == []
    assert [str(one.message) for one in told if issubclass(one.category, ResourceWarning | RuntimeWarning)] == []


class Endless:
    """Counts upwards, and notes that it was ended."""

    def __init__(self, each=0.001):
        self.each, self.given, self.ended = each, 0, False

    async def __call__(self):
        try:
            while True:
                yield self.given
                self.given += 1
                await asyncio.sleep(self.each)
        finally:
            await asyncio.sleep(0.05)
            self.ended = True


def test_items_are_there_while_the_stream_goes_on():
    got_first = threading.Event()

    async def stream():
        yield "first"
        yield await asyncio.to_thread(got_first.wait, WAIT)

    items = []
    for item in iterate(stream()):
        items.append(item)
        got_first.set()
    assert items == ["first", True], "the second says that the first had been read by then"


def test_the_stream_does_not_wait_for_its_reader():
    all_given = threading.Event()

    async def stream():
        for number in range(3):
            yield number
        all_given.set()

    items = iterate(stream())
    assert next(items) == 0
    assert all_given.wait(WAIT), "it is through, while the reader holds the first"
    assert list(items) == [1, 2]


def test_a_running_event_loop_is_no_hindrance():
    """As in a notebook or an asynchronous flow."""

    async def notebook():
        async def stream():
            for number in range(3):
                await asyncio.sleep(0)
                yield number, asyncio.get_running_loop()

        found = list(iterate(stream()))
        return [number for number, _ in found], {loop for _, loop in found} == {asyncio.get_running_loop()}

    assert asyncio.run(notebook()) == ([0, 1, 2], False)


def test_an_error_in_the_stream_reaches_the_reader_after_what_came_before_it():
    async def stream():
        yield 1
        yield 2
        raise LookupError("nothing more to be had")

    items = []
    with nothing_left(), pytest.raises(LookupError, match="nothing more"):
        items.extend(iterate(stream()))
    assert items == [1, 2]


def test_closing_early_ends_the_stream_and_waits_until_it_has_cleaned_up():
    stream = Endless()
    with nothing_left():
        items = iterate(stream())
        assert [next(items), next(items)] == [0, 1]
        items.close()
    assert stream.ended
    given = stream.given
    time.sleep(0.05)
    assert stream.given == given
    assert list(items) == []


def test_an_error_of_the_reader_ends_the_stream():
    stream = Endless()

    def read():
        for item in iterate(stream()):
            if item == 3:
                raise ZeroDivisionError("of the reader")

    with nothing_left(), pytest.raises(ZeroDivisionError, match="of the reader"):
        read()
    assert stream.ended


def test_a_stream_that_nobody_reads_is_never_begun():
    stream = Endless()
    with nothing_left():
        iterate(stream()).close()
    assert (stream.given, stream.ended) == (0, False)


def test_a_stream_that_ended_before_it_is_closed_is_closed_all_the_same():
    async def stream():
        yield 1
        yield 2

    with nothing_left():
        items = iterate(stream())
        assert next(items) == 1
        time.sleep(0.1)  # by now its thread has ended
        items.close()


class Judged:
    """Ratings of many edits by a slow server, which are broken off."""

    def __init__(self, count=40):
        self.taken = 0
        self.count = count

    def triplets(self):
        for _ in range(self.count):
            self.taken += 1
            yield triplet()

    def broken_off(self, leave):
        """What the server was asked when the reader left after the first rating, and a while later."""
        with judge_server(lambda body: "4", latency_seconds=0.05) as (url, server):
            with nothing_left():
                leave(scorer(url).judgements(self.triplets()))
            asked = server.books.requests
            time.sleep(0.25)
            return asked, server.books.requests


def closes(judgements):
    next(judgements)
    judgements.close()


def fails(judgements):
    def read(judgements):
        for _ in judgements:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read(judgements)


@pytest.mark.parametrize("leave", [closes, fails])
def test_a_judge_is_asked_nothing_more_once_its_reader_is_gone(leave):
    judged = Judged()
    at_the_end, later = judged.broken_off(leave)
    assert 1 <= at_the_end < judged.count
    assert later == at_the_end
    assert judged.taken < judged.count, "edits are not read for a judge that is no longer asked"


def test_an_edit_that_cannot_be_prepared_ends_the_rating_with_its_error():
    def broken():
        yield triplet()
        raise OSError("the store is gone")

    with judge_server(lambda body: "4") as (url, _), nothing_left(), pytest.raises(OSError, match="store is gone"):
        list(scorer(url).judgements(broken()))


def test_ratings_of_a_judge_are_read_inside_a_running_event_loop():
    async def notebook(url):
        return [judgement.score for judgement in scorer(url).score([triplet()] * 3)]

    with judge_server(lambda body: "5") as (url, _):
        assert asyncio.run(notebook(url)) == pytest.approx([4.8] * 3)


def test_a_judge_that_cannot_be_used_leaves_nothing_behind():
    with nothing_left(), pytest.raises(JudgeError, match="spend_at_most is set"):
        scorer(judge=scorer().config.judge.model_copy(update={"spend_at_most": 1.0})).score([triplet()])
