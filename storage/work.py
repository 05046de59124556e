"""What is remembered of work in progress: finished shards and finished parts of a shard.

Nothing here is part of a version. It is found again by what it was made from, so that a killed run continues, and a run
over mostly unchanged inputs takes over what did not change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.files import Files, path_of
from storage.manifest import DataFile, check_name


class ShardResult(BaseModel):
    """What working on one shard gave: files that are kept already, and numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tables: dict[str, tuple[DataFile, ...]] = {}
    counts: dict[str, Any] = {}
    """Numbers, lists of numbers, or dictionaries of such, summed over the shards for the manifest's statistics."""
    done: int = 0
    """How many items were really worked on; the others were taken over, or could not be tried."""
    failed: int = 0
    """How many items ended without a result and may be tried again."""


class Finished:
    """The finished shards of a stage's work."""

    def __init__(self, files: Files, stage: str) -> None:
        """Those of one stage, whatever versions they went into."""
        self._files, self._folder = files, f"shards/{check_name(stage)}"

    def find(self, keys: Sequence[str]) -> dict[str, ShardResult]:
        """The results of those shards that were finished before, by key."""
        there = set(self._files.names(self._folder))
        known = [key for key in dict.fromkeys(keys) if f"{key}.json" in there]
        records = self._files.read_all([self._path(key) for key in known])
        return {key: ShardResult.model_validate_json(data) for key, data in zip(known, records, strict=True)}

    def remember(self, key: str, result: ShardResult) -> None:
        """Keep a shard's result under what it was made from; the newest counts."""
        self._files.put(self._path(key), result.model_dump_json().encode())

    def forget(self, keys: Sequence[str]) -> None:
        """Drop what is remembered of some shards: it is in doubt."""
        self._files.remove([self._path(key) for key in keys])

    def _path(self, key: str) -> str:
        return f"{self._folder}/{check_name(key)}.json"


class Journal:
    """The finished parts of one shard, each a data file."""

    def __init__(self, files: Files, stage: str, key: str) -> None:
        """Of the shard with this key."""
        self._files, self._folder = files, f"journal/{check_name(stage)}/{check_name(key)}"

    def parts(self) -> list[DataFile]:
        """The parts so far."""
        paths = [f"{self._folder}/{name}" for name in self._files.names(self._folder)]
        return [DataFile.model_validate_json(data) for data in self._files.read_all(paths)]

    def forget(self) -> None:
        """Drop the parts: the shard is finished, or made again."""
        if names := self._files.names(self._folder):
            self._files.remove([f"{self._folder}/{name}" for name in names])

    def add(self, file: DataFile) -> None:
        """Note a part, named by its content."""
        self._files.put(f"{self._folder}/{file.sha256}.json", file.model_dump_json().encode())


def files_of_record(data: bytes) -> set[str]:
    """The paths of the data files that a remembered shard or part of one names."""
    record: Mapping[str, Any] = json.loads(data)
    listed = [file for files in record["tables"].values() for file in files] if "tables" in record else [record]
    return {path_of(DataFile.model_validate(file)) for file in listed}
