"""How tables become Parquet files that anything reads, and how some of a file's columns are read without the rest."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_OPTIONS: dict[str, Any] = {
    # Small row groups let readers skip and a viewer page.
    "row_group_size": 256,
    "write_page_index": True,
    # A reader of some columns can check what it reads, without the whole file.
    "write_page_checksum": True,
}


def to_parquet(table: pa.Table) -> pa.Buffer:
    """A table as a file; the same rows give the same bytes.

    Image bytes are written as they are. Images are compressed already and no two are alike: trying again takes longer
    than writing them. As they are, the Hub stores what two versions share only once; cut into pages by content, it
    would find less of it, and cutting takes as long as all the rest.
    """
    is_binary = dict(_leaves(table.schema))
    others = [name for name, binary in is_binary.items() if not binary]
    # A page ends only between batches, and none can have two gigabytes.
    batches = {"write_batch_size": 1} if any(pa.types.is_large_binary(kind) for kind in table.schema.types) else {}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        **_OPTIONS,
        **batches,
        compression={name: "none" if binary else "zstd" for name, binary in is_binary.items()},
        use_dictionary=others or False,
        write_statistics=others or False,
    )
    return sink.getvalue()


def from_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The inverse of `to_parquet`, or some columns. Raises: pa.ArrowException or OSError for anything else."""
    if columns is not None:
        return pq.read_table(pa.BufferReader(data), columns=list(columns))
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read()


def starts_of(data: pa.Buffer, column: str, values: Sequence[bytes | None]) -> list[int | None]:
    """Where in a file each value of one of its binary columns begins; None where there is no value.

    Bytes are written as they are (see `to_parquet`), so who knows where a value lies reads it alone: in one request,
    and nothing of its neighbours. Row groups of one row would do that too, but reading the identifiers of a file would
    take a request for each of its rows then. What is found is compared, so a place is never wrong.

    Args:
        data: a file of `to_parquet`.
        values: the column's, in order.

    Raises: ValueError where a value is not there, as in a file that was written otherwise.
    """
    metadata = pq.read_metadata(pa.BufferReader(data))
    number = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index(column)
    starts: list[int | None] = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        at = group.column(number).data_page_offset
        for value in values[len(starts) : len(starts) + group.num_rows]:
            found = None if value is None else _find(data, value, at)
            at = at if found is None or value is None else found + len(value)
            starts.append(found)
    return starts


_LARGEST_GAP = 65_536
"""Bytes between two values of a column at most: the header of a page, and which of its values there are."""


def _find(data: pa.Buffer, value: bytes, at: int) -> int:
    """Where a value begins, from `at` on."""
    beginning = value[:64]
    window = data.slice(at, min(_LARGEST_GAP, data.size - at)).to_pybytes()
    found = window.find(beginning)
    while found >= 0:
        if data.slice(at + found, min(len(value), data.size - at - found)).equals(pa.py_buffer(value)):
            return at + found
        found = window.find(beginning, found + 1)
    raise ValueError(f"a value of {len(value)} bytes is not found from byte {at} on: it is not stored as it is")


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, bool]]:
    """Column paths as Parquet names them, and whether they hold bytes."""
    for field in schema:
        if pa.types.is_struct(field.type):
            for inner in field.type:
                yield f"{field.name}.{inner.name}", _is_binary(inner.type)
        else:
            yield field.name, _is_binary(field.type)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


class Ranges(io.RawIOBase):
    """A file as a seekable stream that reads only the ranges it is asked for."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        """A file of some size, of which `read` gives the bytes from a start to an end."""
        super().__init__()
        self._read, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises: EOFError where the file is shorter than it should be."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        data = self._read(self._at, end)
        if len(data) != end - self._at:
            raise EOFError(f"{len(data)} bytes instead of {end - self._at} from {self._at} on")
        self._at = end
        return data
