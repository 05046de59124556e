"""Small versions to test a store with, and what a store should hold."""

from __future__ import annotations

import io
import json
import os
import uuid

import numpy as np
import pyarrow as pa
from PIL import Image

from perf.s3_server import BUCKET
from storage.files import path_of
from storage.manifest import Manifest
from storage.records import Case, EditType, Request
from storage.schemas import CASES, to_table
from storage.store import FOLDERS, Store, Version
from storage.work import Finished, Journal, ShardResult, files_of_record


def place_on_s3() -> str:
    """An address where nothing lies yet."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def manifest_of(store: Store, key: str = "k", rows: tuple[int, ...] = (1, 2), **changes) -> Manifest:
    """A manifest of `cases` with one table, whose file is in the store."""
    fields = {"artifact": "cases", "stage": "collect", "stage_version": 1, "key": key, "config": {}}
    tables = {} if "tables" in changes else {"tables": {"t": (store.add_table(pa.table({"id": list(rows)})),)}}
    return Manifest(**fields | tables | changes)


def commit_child(store: Store, artifact: str, *parents: Version, rows: tuple[int, ...] = (1, 2), **changes) -> Version:
    """A version of an artifact that was made from others."""
    named = {parent.artifact: parent.as_parent() for parent in parents}
    changes = {"stage": f"make-{artifact}", "parents": named} | changes
    return store.commit(manifest_of(store, artifact=artifact, rows=rows, **changes))


def nightly_work(store: Store, number: int, padding: int = 0) -> Version:
    """What a stage does with a store: find, remember, commit. Can be killed anywhere and done again.

    Args:
        padding: bytes that make its files larger.
    """
    key = f"work-{number}"
    if found := store.find("cases", key):
        return found
    finished = Finished(store, "collect")
    if key not in finished.find([key]):
        # Parts of a killed run end where time ended them, so that no two runs have the same.
        Journal(store, "collect", key).add(store.add_table(pa.table({"id": [number], "run": [os.getpid()]})))
        ids = [pa.table({"id": [number, part], "image": [b"", bytes(padding * part)]}) for part in range(2)]
        files = tuple(store.add_table(table) for table in ids)
        finished.remember(key, ShardResult(tables={"t": files}, done=2))
    return store.commit(manifest_of(store, key, tables=finished.find([key])[key].tables))


def files_in(store: Store) -> set[str]:
    """Every file of a store, also what killed writers left."""
    return {path for folder in FOLDERS for left in (False, True) for path in store.walk(folder, unfinished=left)}


def files_needed(store: Store) -> set[str]:
    """What versions, tags, keys and remembered shards need, found without asking `gc`."""
    needed = {path for folder in ("versions", "tags", "keys", "shards") for path in store.walk(folder)}
    for path in store.walk("versions"):
        manifest = f"manifests/{json.loads(store.read(path))['manifest']}.json"
        files = Manifest.model_validate_json(store.read(manifest)).tables.values()
        needed |= {manifest, *(path_of(file) for some in files for file in some)}
    for path in store.walk("shards"):
        needed |= files_of_record(store.read(path))
    return needed


def png(shade: int = 200) -> bytes:
    """A real, small image."""
    sink = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), shade, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def case(number: int, **changes) -> Case:
    """A case whose image shows its number."""
    fields = {
        "case_id": f"case-{number}",
        "split": "train",
        "edit_type": EditType.BOKEH,
        "instruction": f"blur {number}",
        "request": Request(),
        "category": "cup",
        "source_id": str(number),
        "source": png(number),
        "width": 6,
        "height": 4,
        "mask": {"size": [4, 6], "counts": "x"},
        "licence": "CC BY 2.0",
        "licence_url": "https://example.org/by",
        "origin_url": "",
    }
    return Case(**fields | changes)


def commit_cases(store: Store, *splits: str, **changes) -> Version:
    """Two cases of each split in a file each, and a file without any."""
    tables = {}
    for at, split in enumerate(splits):
        cases = [[], [case(2 * at, split=split, **changes)], [case(2 * at + 1, split=split)]]
        tables[split] = tuple(store.add_table(to_table(some, CASES)) for some in cases)
    return store.commit(manifest_of(store, tables=tables, statistics={"cases": 2 * len(splits)}, config={"seed": 1}))
