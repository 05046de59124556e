"""Small edits to rate, and a real server for them that can go away and come back on the same port."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import uvicorn

from storage.records import EditType
from tasks.images import jpeg, png
from tasks.rating.ratings import RatingBook, RatingItem
from tasks.rating.server import bind, rating_app

NASTY = "<img src=x onerror=\"document.title='broken'\"> & <b>make it red</b>"


def make_item(number, edit_type=EditType.REMOVAL, instruction=None, side=64):
    source = np.full((side, side, 3), (60, 120, number * 20 % 256), np.uint8)
    edited = source.copy()
    edited[side // 4 : side // 2, side // 4 : side // 2] = (220, 40, 40)
    return RatingItem(f"edit{number:04d}", str(edit_type), instruction or f"do {number}", png(source), jpeg(edited, 90))


def make_items(count, edit_types=(EditType.REMOVAL, EditType.BOKEH)):
    return [make_item(number, edit_types[number % len(edit_types)]) for number in range(count)]


class Site:
    """The page at `url`."""

    def __init__(self, items, path, seed=0):
        self.items, self.book, self.seed = items, RatingBook(path), seed
        self.port, self._server, self._thread = 0, None, None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def scores(self):
        """What the file says, read anew: scores by rater and edit."""
        return {(rating.rater, rating.edit_id): rating.score for rating in RatingBook(self.book.path).ratings()}

    def start(self):
        """As a new process would: nothing is remembered but the file."""
        self.book = RatingBook(self.book.path)
        app = rating_app(self.items, self.book, self.seed, next_command="python -m flows.collect_labels x")
        listener = bind("127.0.0.1", self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(listener,), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def _run(self, listener):
        with listener:
            self._server.run(sockets=[listener])

    def stop(self):
        self._server.should_exit = True
        self._thread.join(10)


@contextmanager
def served(items, path, seed=0):
    site = Site(items, path, seed)
    site.start()
    try:
        yield site
    finally:
        site.stop()
