"""Who may talk to a server without a password: pages that it served itself, under a name that it is known by.

A server on loopback is not private by that alone: any web page that the rater has open can send requests to it. A name
of the page's own that turns into 127.0.0.1 (DNS rebinding) is refused by the Host header; a form or script that posts
from elsewhere (CSRF) by the Origin header.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection, Iterable
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
"""Addresses that stand for every one that the machine has."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def is_served(host: str, names: Collection[str]) -> bool:
    """Whether a Host header means this server.

    Args:
        host: a name or an address, with or without a port. The port does not matter: a tunnel has its own.
        names: names and addresses that the server is known by. `EVERYWHERE` stands for any address in figures; such a
            one cannot be made to point here by somebody else, as a name can.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in names:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return any(name in names for name in EVERYWHERE)


def names_of(host: str, others: Iterable[str] = ()) -> frozenset[str]:
    """By which names a server that listens at `host` is known, beside `others` that whoever starts it tells."""
    return frozenset({host.lower(), *(name.lower() for name in others), *LOOPBACK})


def guard(app: FastAPI, names: Collection[str]) -> None:
    """Refuse requests under other names (421) and from other pages (403), and let no answer load anything elsewhere."""

    @app.middleware("http")
    async def refuse_strangers(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not is_served(host, names):
            return PlainTextResponse(f"no server here is called {host!r}\n", 421)
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("only the rating page itself may ask\n", 403)
        response = await go_on(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response
