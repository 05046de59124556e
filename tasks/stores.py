"""Opening the store that a flow was told of: a folder, an address, or a Prefect block with address and credentials."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from storage.store import Store

_BLOCK = re.compile(r"remote-file-system/(?P<name>[a-z0-9-]+)")


def open_store(place: str) -> Store:
    """A store.

    Args:
        place: a folder, taken from where the flow runs; an fsspec address such as `s3://bucket/prefix`, with the
            credentials in the environment; or `remote-file-system/<name>`, a block of Prefect's type `RemoteFileSystem`
            with `basepath` and `settings`.
    """
    if block := _BLOCK.fullmatch(place):
        from prefect.filesystems import RemoteFileSystem

        found = RemoteFileSystem.load(block["name"], _sync=True)  # type: ignore[call-arg]
        store = Store(str(found.basepath), **(found.settings or {}))  # type: ignore[union-attr]
    elif "://" in place:
        store = Store(place)
    else:
        return Store(str(Path(place).absolute()))
    store.reopen = partial(open_store, place)
    return store
