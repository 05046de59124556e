"""Rows by their identifier: what was made before is taken over, the rest is made and noted as it comes.

A shard is remembered whole under what it was made from. This is for the shards that are not: cut off by a crash, packed
into other files, or with failures to try again. An identifier says everything that a row depends on, so a row that
bears it need not be made twice, wherever it lies; unless it lies in a version that was rejected for what is in it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic

import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest import DataFile
from storage.schemas import Record, from_table, to_table
from storage.store import Store, Version
from storage.work import Journal
from tasks.limits import only_missing

logger = logging.getLogger(__name__)

JOURNAL_SECONDS = 30.0
"""A killed run loses at most the rows of about this long."""
LOOK_BACK = 5
"""Versions in which rows are looked for, of those made by the same model or judge."""


@dataclass(frozen=True)
class Kind(Generic[Record]):
    """What kind of rows."""

    artifact: str
    table: str
    record: type[Record]
    schema: pa.Schema
    id_column: str
    good: tuple[str, str]
    """Column and value of the rows that need not be tried again."""
    maker: str
    """Column with the fingerprint of the model or judge."""

    def id_of(self, row: Record) -> str:
        """A row's identifier."""
        return str(getattr(row, self.id_column))

    def is_good(self, row: Record) -> bool:
        """Whether a row need not be tried again."""
        return str(getattr(row, self.good[0])) == self.good[1]


@dataclass(frozen=True)
class Filled(Generic[Record]):
    """The rows of a shard, in order."""

    rows: list[Record]
    made: Sequence[int]
    """The positions of those that were made now."""
    failed: int


class Rows(Generic[Record]):
    """The rows of one artifact that a store knows."""

    def __init__(
        self,
        store: Store,
        kind: Kind[Record],
        stage: str,
        fingerprints: Iterable[str],
        also: Iterable[DataFile] = (),
    ) -> None:
        """Rows made by any of these models or judges, by their fingerprint in a version's manifest.

        Args:
            also: files of other artifacts that hold such rows.
        """
        self._also = tuple(also)
        self._store, self._stage = store, stage
        self._kind: Kind[Record] = kind
        self._fingerprints = set(fingerprints)
        self._index: dict[str, tuple[DataFile, int] | None] | None = None
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, Record]] = {}
        """What was made of shards that are not finished."""

    def fill(
        self,
        shard_key: str,
        identifiers: Sequence[str],
        make: Callable[[Sequence[int]], Generator[tuple[int, Record], None, None]],
        progress: Callable[[int], None],
        refresh: bool = False,
        more_to_come: bool = False,
    ) -> Filled[Record]:
        """Every row of a shard, in order.

        Args:
            shard_key: names the shard's journal.
            identifiers: of the rows wanted.
            make: makes the rows at some positions and gives each with its position, as they come.
            refresh: make all of them again.
            more_to_come: the shard is not finished with these, so they are noted at once.
        """
        journal = Journal(self._store, self._stage, shard_key)
        rows = self._noted(shard_key, journal, refresh)
        if not refresh:
            rows |= self._take([i for i in identifiers if i not in rows])
        # Of equal identifiers one is made.
        first = {identifier: number for number, identifier in reversed(list(enumerate(identifiers)))}
        todo = sorted(number for identifier, number in first.items() if identifier not in rows)
        progress(len(identifiers) - len(todo))
        unnoted: list[Record] = []
        noted_at = time.monotonic()
        try:
            with contextlib.closing(make(todo)) as making:
                for number, row in making:
                    rows[identifiers[number]] = row
                    unnoted.append(row)
                    if time.monotonic() - noted_at > JOURNAL_SECONDS:
                        journal.add(self._store.add_table(to_table(unnoted, self._kind.schema)))
                        unnoted, noted_at = [], time.monotonic()
                    progress(1)
        except BaseException:
            more_to_come = True  # what was made is not lost with what failed
            raise
        finally:
            if more_to_come and unnoted:
                journal.add(self._store.add_table(to_table(unnoted, self._kind.schema)))
        if more_to_come:
            self._kept[shard_key] = rows
        filled = [rows[identifier] for identifier in identifiers]
        return Filled(filled, todo, sum(not self._kind.is_good(row) for row in filled))

    def _good(self, rows: Iterable[Record]) -> dict[str, Record]:
        return {self._kind.id_of(row): row for row in rows if self._kind.is_good(row)}

    def _take(self, identifiers: Sequence[str]) -> dict[str, Record]:
        """Rows of earlier versions."""
        index = self._known() if identifiers else {}
        wanted: dict[DataFile, list[int]] = {}
        for identifier in identifiers:
            if found := index.get(identifier):
                wanted.setdefault(found[0], []).append(found[1])
        rows: dict[str, Record] = {}
        for file, numbers in wanted.items():
            try:
                table = self._store.read_table(file)
            except OSError as error:
                logger.warning("%s: rows are not taken over: %s", self._kind.artifact, error)
                continue
            rows |= self._good(from_table(table.take(numbers), self._kind.record))
        return rows

    def _noted(self, shard_key: str, journal: Journal, refresh: bool) -> dict[str, Record]:
        """What is noted of a shard: by this object, or by a run that was cut off."""
        if shard_key in self._kept:
            return self._kept.pop(shard_key)
        rows: dict[str, Record] = {}
        if refresh:
            journal.forget()
            return rows
        for part in journal.parts():
            rows |= self._good(from_table(self._store.read_table(part), self._kind.record))
        return rows

    def done_with(self, shard_key: str) -> None:
        """Forget what was kept of a shard in memory: all of it is made."""
        self._kept.pop(shard_key, None)

    def known_of(self, column: str, shard_keys: Iterable[str] = ()) -> set[str]:
        """The values of a column in the good rows that are there, made by one of these models or judges.

        Args:
            shard_keys: shards whose journals count beside the earlier versions.
        """
        found: set[str] = set()
        good, value = self._kind.good
        files = self._files()
        for key in shard_keys:
            files += Journal(self._store, self._stage, key).parts()
        for file in files:
            with contextlib.suppress(OSError):  # as in `_rows_of`
                table = self._store.read_table(file, [column, good, self._kind.maker])
                rows = table.filter(pc.is_in(table[self._kind.maker], pa.array(self._fingerprints)))
                found |= set(rows.filter(pc.equal(rows[good], value))[column].to_pylist())
        return found

    def seconds_each(self) -> float | None:
        """How long a row took when one was last made; None where none ever was."""
        for version in self._versions():
            if version.ref.done:
                return version.ref.seconds / version.ref.done
        return None

    def _known(self) -> dict[str, tuple[DataFile, int] | None]:
        """Where each row lies, read on first use: identifiers only, no images.

        None for a row that failed when it was last made: an older one had been given up by then.
        """
        with self._lock:
            if self._index is None:
                self._index = {}
                with ThreadPoolExecutor(8) as pool:
                    for found in pool.map(self._rows_of, self._files()):
                        # Newer versions come first and win.
                        self._index = found | self._index
            return self._index

    def _versions(self) -> Iterator[Version]:
        """Earlier versions made by one of these models or judges, newest first."""
        rejections = self._store.rejections(self._kind.artifact)
        looked = 0
        for version in reversed(self._store.versions(self._kind.artifact)):
            if looked == LOOK_BACK:
                return
            rejection = rejections.get(version.number)
            if rejection and not only_missing(rejection.reasons):
                continue  # what is in it is in doubt
            if self._fingerprints & set(version.manifest.fingerprints.values()):
                looked += 1
                yield version

    def _files(self) -> list[DataFile]:
        """Their files, each once."""
        found: list[DataFile] = [f for v in self._versions() for f in v.files(self._kind.table)]
        return list(dict.fromkeys([*found, *self._also]))

    def _rows_of(self, file: DataFile) -> dict[str, tuple[DataFile, int] | None]:
        column, value = self._kind.good
        try:
            table = self._store.read_table(file, [self._kind.id_column, column])
        except OSError as error:  # of an earlier version, which nothing here depends on: its rows are made again
            logger.warning("%s: rows are not taken over: %s", self._kind.artifact, error)
            return {}
        pairs = zip(table[self._kind.id_column].to_pylist(), table[column].to_pylist(), strict=True)
        return {identifier: (file, number) if got == value else None for number, (identifier, got) in enumerate(pairs)}
