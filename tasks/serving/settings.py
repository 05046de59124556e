"""What settings of servers must not hold: they stand in manifests and on rows, which many read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

_SECRET = re.compile(r"(^|_)(api_?key|key|token|secret|password|authorization)$", re.IGNORECASE)


def check_address(value: str | None) -> str | None:
    """An address itself. Raises: ValueError for one with credentials."""
    if value is not None and ("@" in urlsplit(value).netloc or urlsplit(value).query):
        raise ValueError("an address with a name, password or query: the key comes by OPENAI_API_KEY alone")
    return value


def check_no_secret(value: dict[str, Any]) -> dict[str, Any]:
    """What is sent along itself. Raises: ValueError that names what looks like a secret."""
    if found := sorted(name for name in _names(value) if _SECRET.search(name)):
        raise ValueError(f"{', '.join(found)}: settings stand in manifests and on rows, so no secret may be there")
    return value


def _names(value: Any) -> Iterator[str]:
    """All keys of nested JSON."""
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield str(name)
            yield from _names(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _names(inside)
