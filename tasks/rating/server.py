"""The rating page's server: what a rater is to see next, the images, and ratings.

What is sent about an item is in `_shown`, and that is all: no score of anybody, no judge, no editor.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tasks.calibration.ratings import BEST
from tasks.hp_scorer.rubric import generic_rubric
from tasks.rating.guard import LOOPBACK, guard
from tasks.rating.order import blind_order, counts, pace_seconds, still_to_rate
from tasks.rating.ratings import Rating, RatingBook, RatingItem, media_type

logger = logging.getLogger(__name__)

COMING = 4
"""Items that are sent ahead of time, so that their images are there when they are needed."""
LONGEST_NAME = 60
FOLDER = Path(__file__).parent
STATIC = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "pair.js": "text/javascript",
    "outbox.js": "text/javascript",
}
FOREVER = "private, max-age=31536000, immutable"


def rater_name(name: str) -> str:
    """A rater's name in one spelling. Raises: ValueError unless it has 1 to 60 printable characters."""
    name = unicodedata.normalize("NFC", name.strip())
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
        raise ValueError(f"a name has 1 to {LONGEST_NAME} printable characters")
    return name


Rater = Annotated[str, AfterValidator(rater_name)]


class RateBody(BaseModel):
    """What /rate is sent."""

    model_config = ConfigDict(extra="forbid")

    edit_id: str
    rater: Rater
    score: int = Field(ge=0, le=BEST, strict=True)


class UndoBody(BaseModel):
    """What /undo is sent. With an `edit_id`, a request whose answer was lost can be sent again without harm."""

    model_config = ConfigDict(extra="forbid")

    rater: Rater
    edit_id: str | None = None


def rating_app(
    items: Iterable[RatingItem],
    book: RatingBook,
    seed: int,
    *,
    names: Collection[str] = LOOPBACK,
    next_command: str = "",
) -> FastAPI:
    """The application.

    Args:
        items: what is to be rated; kept in memory with the images.
        book: where ratings go.
        seed: of the order in which each rater sees the items.
        names: by which browsers may call the server, see `guard.is_served`.
        next_command: what whoever runs the study does next; shown at the end.

    Raises: ValueError where two items have the same identifier.
    """
    by_id: dict[str, RatingItem] = {}
    for item in items:
        if by_id.setdefault(item.edit_id, item) is not item:
            raise ValueError(f"two items are called {item.edit_id}")
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    guard(app, names)

    @lru_cache(256)
    def order_of(rater: str) -> list[RatingItem]:
        return blind_order(by_id.values(), seed, rater)

    @cache
    def shown(edit_id: str) -> dict[str, str]:
        return _shown(by_id[edit_id])

    def of(rater: str) -> list[Rating]:
        return [rating for rating in book.of(rater) if rating.edit_id in by_id]

    def known(edit_id: str) -> RatingItem:
        if edit_id not in by_id:
            raise HTTPException(404, f"there is no edit {edit_id!r} here")
        return by_id[edit_id]

    @app.exception_handler(OSError)
    async def not_kept(_: Request, error: OSError) -> Response:
        logger.error("a rating could not be kept: %s", error)
        return JSONResponse({"detail": "the server could not write its file of ratings"}, 503)

    @app.get("/")
    def page() -> Response:
        return HTMLResponse(_page(next_command))

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in STATIC:
            raise HTTPException(404)
        return Response((FOLDER / name).read_bytes(), media_type=STATIC[name])

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/next")
    def next_item(rater: Annotated[Rater, Query()], skipped: Annotated[tuple[str, ...], Query()] = ()) -> Any:
        own = of(rater)
        left = still_to_rate(order_of(rater), {rating.edit_id for rating in own}, skipped)
        upcoming = [shown(item.edit_id) for item in left[: COMING + 1]]
        return {
            "item": upcoming[0] if upcoming else None,
            "coming": upcoming[1:],
            "previous": shown(own[-1].edit_id) if own else None,
            "done": len(own),
            "left": len(left),
            "seconds_each": pace_seconds([rating.rated_at for rating in own]),
        }

    @app.get("/image/{edit_id}/{which}")
    def image(edit_id: str, which: Literal["source", "edited"]) -> Response:
        data: bytes = getattr(known(edit_id), which)
        return Response(data, media_type=media_type(data), headers={"Cache-Control": FOREVER})

    @app.post("/rate")
    def rate(body: RateBody) -> Any:
        book.rate(known(body.edit_id).edit_id, body.rater, body.score)
        return {"edit_id": body.edit_id}

    @app.post("/undo")
    def undo(body: UndoBody) -> Any:
        # The file may hold ratings of other items too; those are not taken back here.
        last = next((rating.edit_id for rating in reversed(of(body.rater))), None)
        edit_id = last if body.edit_id is None else known(body.edit_id).edit_id
        return {"edit_id": edit_id if edit_id and book.undo(body.rater, edit_id) else None}

    @app.get("/progress")
    def progress() -> Any:
        total = Counter(item.edit_type for item in by_id.values())
        return {"total": dict(sorted(total.items())), "raters": counts(by_id.values(), book.ratings())}

    return app


def _shown(item: RatingItem) -> dict[str, str]:
    """All that a browser is told of an item. An address changes with the image, since browsers keep it forever."""

    def address(which: str) -> str:
        version = hashlib.sha256(getattr(item, which)).hexdigest()[:16]
        return f"/image/{quote(item.edit_id, safe='')}/{which}?v={version}"

    return {
        "edit_id": item.edit_id,
        "edit_type": item.edit_type,
        "instruction": item.instruction,
        "source": address("source"),
        "edited": address("edited"),
    }


@cache
def _page(next_command: str) -> str:
    rubric = generic_rubric()
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        anchors=rubric.anchors,
        criteria=rubric.criteria,
        scores=range(BEST + 1),
        longest_name=LONGEST_NAME,
        next_command=next_command,
    )


def bind(host: str = "127.0.0.1", port: int = 8765) -> socket.socket:
    """A socket for `serve`. Raises: OSError, as where the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer on a socket of `bind` until interrupted. Warns where others than this machine can reach it."""
    host = listener.getsockname()[0]
    if host not in LOOPBACK:
        logger.warning(
            "%s is not this machine alone: whoever reaches the port sees all images and instructions and can rate "
            "under any name; there is no password, and nothing is encrypted. An SSH tunnel to 127.0.0.1 avoids both.",
            host,
        )
    config = uvicorn.Config(app, log_level="warning", lifespan="off", server_header=False, timeout_graceful_shutdown=2)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
