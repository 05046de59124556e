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
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        **_OPTIONS,
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


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, bool]]:
    """Column paths as Parquet names them, and whether they hold bytes."""
    for field in schema:
        if pa.types.is_struct(field.type):
            for inner in field.type:
                yield f"{field.name}.{inner.name}", pa.types.is_binary(inner.type)
        else:
            yield field.name, pa.types.is_binary(field.type)


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
