"""How stages run: once, resumed, refreshed, checked."""

import pyarrow as pa
import pytest
from pydantic import ValidationError

from storage.work import ShardResult
from tasks.stage import Result, Shard, Stage, StageConfig, check_coverage, execute, join_tables, sum_counts


class Config(StageConfig):
    factor: int = 2


class Doubling(Stage):
    """Numbers times a factor, and a record of which shards were worked on."""

    name, artifact, code_version = "doubling", "doubles", 1

    def __init__(self, store, config=None, fail_on=None):
        super().__init__(store, config or Config(), {})
        self.worked, self.fail_on = [], fail_on

    def shards(self):
        return [Shard(name, 1, [name, self.config.factor]) for name in ("one", "two", "three")]

    def work(self, shard, progress):
        if shard.name == self.fail_on:
            raise KeyboardInterrupt
        self.worked.append(shard.name)
        progress(1)
        table = self.store.add_table(pa.table({"v": [len(shard.name) * self.config.factor]}))
        return ShardResult(tables={"t": (table,)}, counts={"items": 1}, done=1)


def test_a_stage_runs_once(store):
    first = execute(Doubling(store))
    again = Doubling(store)
    second = execute(again)
    assert (first.reused, second.reused) == (False, True)
    assert second.version.number == 1
    assert again.worked == []
    assert first.version.table("t")["v"].to_pylist() == [6, 6, 10]
    assert first.version.manifest.statistics == {"counts": {"items": 3}}


def test_another_config_or_code_is_other_work(store):
    execute(Doubling(store))
    assert execute(Doubling(store, Config(factor=3))).version.number == 2
    changed = Doubling(store)
    changed.__class__ = type("Changed", (Doubling,), {"code_version": 2})
    assert not execute(changed).reused


def test_a_killed_run_continues_where_it_was(store):
    killed = Doubling(store, fail_on="three")
    with pytest.raises(KeyboardInterrupt):
        execute(killed)
    assert killed.worked == ["one", "two"]
    with pytest.raises(LookupError):
        store.resolve("doubles")
    counted = []
    resumed = Doubling(store)
    version = execute(resumed, progress=counted.append).version
    assert resumed.worked == ["three"]
    assert sum(counted) == 3
    assert version.table("t").num_rows == 3


def test_refresh_does_everything_again(store):
    execute(Doubling(store))
    again = Doubling(store)
    run = execute(again, refresh=True)
    assert again.worked == ["one", "two", "three"]
    assert (run.reused, run.version.number) == (False, 2)
    # The same rows are the same files, and a later run finds the newest version.
    assert run.version.manifest.id == store.version("doubles", 1).manifest.id
    assert execute(Doubling(store)).version.number == 2


def test_a_failed_check_commits_nothing(store):
    class Losing(Doubling):
        def finish(self, results):
            check_coverage("rows", ["a", "b"], ["a"])
            return Result(join_tables(results))

    with pytest.raises(ValueError, match=r"rows: 1 rows missing \['b'\]"):
        execute(Losing(store))
    assert store.numbers("doubles") == []


@pytest.mark.parametrize(
    ("expected", "found", "said"),
    [(["a"], ["a", "a"], "1 doubled"), (["a"], ["a", "x"], "1 unexpected"), (["a", "b"], ["b"], "1 rows missing")],
)
def test_rows_cannot_get_lost(expected, found, said):
    with pytest.raises(ValueError, match=said):
        check_coverage("rows", expected, found)
    check_coverage("rows", found, found[::-1])


def test_an_unknown_config_key_is_refused():
    with pytest.raises(ValidationError, match="facter"):
        Config(facter=3)


def test_counts_are_summed():
    assert sum_counts([ShardResult(counts={"a": 1, "b": 2}), ShardResult(counts={"a": 3})]) == {"a": 4, "b": 2}
