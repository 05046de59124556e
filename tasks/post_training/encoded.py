"""Reading single encoded cases of a version of `encodings` while training goes on."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from storage.files import DamagedFileError, path_of
from storage.manifest import DataFile
from storage.store import Version
from tasks.post_training.encoding import shape_of_json, unpack
from tasks.post_training.reading import AT_ONCE, Recent, narrow_parts, write_whole
from training.editors.interface import Condition, Shape

MEMORY = 256 * 2**20
"""Bytes of conditions that a reader keeps; one of Qwen-Image-Edit at 512 x 512 has about two million."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an encoding lies."""

    file: DataFile
    start: int
    size: int
    crc32: int
    shape: Shape


class EncodedConditions:
    """The encodings of a version, read case by case, see `training.cases.Conditions`.

    What is read at once is where each case lies, some hundred bytes of memory per case. A condition is read when it is
    asked for: from the store's own file where that is on this disk, else by one request, kept in `folder` for the next
    time and for other processes; no more than is asked for is ever there. Threads may share a reader. Nobody may write
    into the tensors that it gives: it gives them again.
    """

    def __init__(self, version: Version, folder: Path, editor: str, memory: int = MEMORY) -> None:
        """The encodings of `version`.

        Args:
            folder: on the local disk, for what lies elsewhere.
            editor: the fingerprint of the model that is trained, see `tasks.editing.models.fingerprint_of_model`.
            memory: bytes of conditions to keep.

        Raises: ValueError where another model encoded them.
        """
        self.version = version
        self.recent: Recent[Condition] = Recent(memory)
        self.failures: dict[str, str] = {}
        """Why cases have no condition, by case."""
        parent = version.manifest.parents["realpref"]
        self._remedy = f"encode the cases of {parent.artifact}@v{parent.version} with the model that is trained"
        made_by = version.manifest.fingerprints["editor"]
        if made_by != editor:
            raise ValueError(
                f"{version} was encoded by the editing model {made_by}, not by {editor}: {self._remedy}, "
                "by the flow encode-cases with the same `model`"
            )
        self._store, self._folder = version.store, folder
        self._in_place = isinstance(version.store.fs, LocalFileSystem)
        self._places = self._index()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        """The cases that have a condition, in the order of the data set."""
        return iter(self._places)

    def __contains__(self, case_id: str) -> bool:
        """Whether there is a condition of this case."""
        return case_id in self._places

    def __call__(self, case_ids: Sequence[str]) -> list[Condition]:
        """One condition of one sample per case, on the CPU, in order. Raises: KeyError for a case without one."""
        wanted = {case_id: self._place_of(case_id) for case_id in case_ids}
        found: Mapping[str, Condition]
        if self._in_place or len(wanted) == 1:
            found = {case_id: self._condition(case_id, place) for case_id, place in wanted.items()}
        else:
            with ThreadPoolExecutor(min(AT_ONCE, len(wanted) or 1)) as pool:
                found = dict(zip(wanted, pool.map(self._condition, wanted, wanted.values()), strict=True))
        return [found[case_id] for case_id in case_ids]

    def shape_of(self, case_id: str) -> Shape:
        """A case's shape; nothing is read for it. Raises: KeyError for a case without a condition."""
        return self._place_of(case_id).shape

    def _index(self) -> dict[str, _Place]:
        places = {}
        files = self.version.manifest.tables.get("encodings", ())
        # Files of the two tables correspond.
        parts = narrow_parts(self.version, "index", ["case_id", "shape", "start", "size", "crc32", "failure"])
        for file, (_, part) in zip(files, parts, strict=True):
            for row in part.to_pylist():
                if row["failure"]:
                    self.failures[row["case_id"]] = row["failure"]
                    continue
                shape = shape_of_json(row["shape"])
                places[row["case_id"]] = _Place(file, row["start"], row["size"], row["crc32"], shape)
        return places

    def _place_of(self, case_id: str) -> _Place:
        if place := self._places.get(case_id):
            return place
        if reason := self.failures.get(case_id):
            raise KeyError(f"case {case_id} could not be encoded in {self.version}: {reason}")
        raise KeyError(f"case {case_id} is not in {self.version}: {self._remedy}")

    def _condition(self, case_id: str, place: _Place) -> Condition:
        if (condition := self.recent.get(case_id)) is not None:
            return condition
        return self.recent.keep(case_id, unpack(place.shape, self._read(case_id, place)), place.size)

    def _read(self, case_id: str, place: _Place) -> bytes:
        """The bytes of an encoding. Raises: DamagedFileError where they are not those that were written."""
        kept = self._folder / f"{place.file.sha256[:16]}-{place.start}"
        if not self._in_place and kept.exists():
            data = kept.read_bytes()
            if zlib.crc32(data) == place.crc32:
                return data
        data = self._store.read(path_of(place.file), place.start, place.start + place.size)
        if zlib.crc32(data) != place.crc32:
            raise DamagedFileError(
                f"data file {path_of(place.file)} in {self._store.url} is damaged: the encoding of case {case_id} is "
                "not what was written; delete it and make it again with refresh"
            )
        if not self._in_place:
            write_whole(kept, data)
        return data
