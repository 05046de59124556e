"""The cases of a data set while training goes on: what is narrow at once, images one by one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.manifest import DataFile
from storage.records import EditType, Request
from storage.store import Version
from tasks.collection.coco import decode_mask
from tasks.hp_scorer.contract import EditTriplet
from tasks.images import decode
from tasks.post_training.reading import Recent, narrow_parts, write_whole

MEMORY = 256 * 2**20
"""Bytes of decoded images and masks that a reader keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """What is narrow of a case."""

    case_id: str
    edit_type: EditType
    instruction: str
    request: Request
    category: str
    difficulty: float
    """What the baseline left to gain."""
    file: DataFile
    """Where its image is."""
    position: int
    """The row in that file."""


class TrainingSources(Mapping[str, EditTriplet]):
    """The cases to train on as a judge sees them, without an edited image, by case.

    The narrow columns are read at once, less than a kilobyte of memory per case. When the first case of a file is asked
    for, the file's source images and masks are laid out in `folder` so that each is reached without the others; from
    then on the disk is read and not the store, by other processes too. In the end the folder holds the source images
    once. Threads may share a reader.
    """

    def __init__(self, version: Version, folder: Path, memory: int = MEMORY) -> None:
        """The table `train` of a version of `realpref`.

        Args:
            folder: on the local disk.
            memory: bytes of decoded images and masks to keep.
        """
        self.version = version
        self.rows: dict[str, SourceRow] = dict(_rows_of(version))
        """In the order of the data set."""
        self.recent: Recent[EditTriplet] = Recent(memory)
        self._folder = folder
        self._laying_out = threading.Lock()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __getitem__(self, case_id: str) -> EditTriplet:
        """Raises: KeyError for a case that is not in the data set."""
        if (triplet := self.recent.get(case_id)) is not None:
            return triplet
        if case_id not in self.rows:
            raise KeyError(f"case {case_id} is not among the {len(self)} of {self.version}")
        row = self.rows[case_id]
        cells = self._cells(row)
        triplet = EditTriplet(
            case_id=case_id,
            edit_type=row.edit_type,
            instruction=row.instruction,
            request=row.request,
            category=row.category,
            source=decode(cells["source"]["bytes"]),
            mask=decode_mask(json.loads(cells["mask"])),
            edited=None,
        )
        return self.recent.keep(case_id, triplet, triplet.source.nbytes + triplet.mask.nbytes)

    def _cells(self, row: SourceRow) -> dict[str, Any]:
        """The wide columns of one row."""
        path = self._folder / f"{row.file.sha256}.arrow"
        with self._laying_out:
            if not path.exists():
                table = self.version.store.read_table(row.file, ["source", "mask"])
                write_whole(path, _one_batch(table))
        # Mapped, not read: only the pages of this row are.
        with pa.memory_map(str(path)) as mapped:
            cells: dict[str, Any] = pa.ipc.open_file(mapped).get_batch(0).slice(row.position, 1).to_pylist()[0]
        return cells


def _rows_of(version: Version) -> Iterator[tuple[str, SourceRow]]:
    columns = ["case_id", "edit_type", "instruction", "request", "category", "difficulty"]
    for file, part in narrow_parts(version, "train", columns):
        for position, cells in enumerate(part.to_pylist()):
            told = {
                "edit_type": EditType(cells["edit_type"]),
                "request": Request.from_dict(json.loads(cells["request"])),
            }
            yield cells["case_id"], SourceRow(**cells | told, file=file, position=position)


def _one_batch(table: pa.Table) -> pa.Buffer:
    """A table in Arrow's file format, which can be used where it lies."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()
