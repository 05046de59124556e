"""Retention as a flow: told first, removed on demand."""

import pyarrow as pa
import pytest

from flows.collect_garbage import collect_garbage
from storage.gc import Retention
from storage.manifest import Manifest
from storage.verify import verify
from tasks.prefect_stage import RunOptions


def commit(store, number):
    table = store.add_table(pa.table({"id": [number]}))
    fields = {"stage": "s", "stage_version": 1, "config": {}, "tables": {"t": (table,)}}
    return store.commit(Manifest(artifact="cases", key=f"k{number}", **fields))


@pytest.mark.prefect
def test_old_versions_go_when_it_is_said(prefect_server, store):
    versions = [commit(store, number) for number in range(4)]
    store.tag(versions[0], "paper")
    options, retention = RunOptions(store=store.url), Retention(keep_newest=1, grace_hours=0)
    assert sorted(collect_garbage(retention, options=options)) == ["cases@v2", "cases@v3"]
    assert store.numbers("cases") == [1, 2, 3, 4], "it was only told"
    assert sorted(collect_garbage(retention, delete=True, options=options)) == ["cases@v2", "cases@v3"]
    assert store.numbers("cases") == [1, 4]
    assert not verify(store.versions("cases"))
    assert collect_garbage(retention, delete=True, options=options) == []
    assert len(store.walk("files")) == 2
