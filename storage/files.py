"""Immutable files below one root on any fsspec filesystem: created whole or not at all, named by their content."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from storage.manifest import DataFile, sha256_of

S3_OPTIONS: dict[str, Any] = {
    # A request that gets no answer is tried again soon, with growing pauses, instead of blocking a stage for minutes.
    "config_kwargs": {
        "retries": {"mode": "standard", "max_attempts": 3},  # five times over, by s3fs
        "connect_timeout": 10,
        "read_timeout": 30,
    },
}
"""What an S3 filesystem is opened with, where the options do not say otherwise."""


_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs")


class StoreError(OSError):
    """The filesystem refused or failed, after its own retries; the message names the file and the store."""


class DamagedFileError(OSError):
    """A file does not hold what its name promises."""


class Files:
    """The files below a root folder or bucket prefix."""

    def __init__(self, url: str, **options: Any) -> None:
        """Open a root; it need not exist yet.

        Args:
            url: a path, or `file://`, `memory://`, `s3://bucket/prefix` and whatever else fsspec knows.
            options: for the filesystem, such as credentials; never written or shown anywhere. Without them fsspec and
                the filesystem look into the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `FSSPEC_S3_...`).

        Raises: ValueError for an address with a user or password in it.
        """
        if "@" in urlsplit(url).netloc:
            raise ValueError("a store's address holds a user or password: give credentials by the environment instead")
        if url.startswith(("s3://", "s3a://")):
            options = S3_OPTIONS | options
        self.url = url
        self._options = options
        self._is_object_store = url.split("://")[0] in _OBJECT_STORES
        self.reopen: Callable[[], Files] | None = None
        """How another process opens it; without, by its address, with credentials from the environment."""
        # Listings are never cached: other processes write here too.
        self.fs, self.root = fsspec.url_to_fs(url, use_listings_cache=False, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to other processes as the way to open it, never with its options: they may hold credentials."""
        return (self.reopen, ()) if self.reopen else (type(self), (self.url,))

    def environment(self) -> dict[str, str]:
        """What lets a process that is started here open it by its address: the options, for fsspec to find."""
        protocol = fsspec.utils.get_protocol(self.url)
        return {f"FSSPEC_{protocol.upper()}": json.dumps(self._options)} if self._options else {}

    # --- paths below the root ------------------------------------------------------------------------------------

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The content of a path, or bytes `start` to `end` of it. Raises: FileNotFoundError, StoreError."""
        with self._telling("read", path):
            return self.fs.cat_file(f"{self.root}/{path}", start=start, end=end)

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        """The contents of many small files, asked for together where the filesystem can."""
        with self._telling("read", f"{len(paths)} files"):
            found = self.fs.cat([f"{self.root}/{path}" for path in paths]) if len(paths) > 1 else None
        if not isinstance(found, dict):
            return [self.read(path) for path in paths]
        by_path = {self.fs._strip_protocol(path): data for path, data in found.items()}
        return [by_path[self.fs._strip_protocol(f"{self.root}/{path}")] for path in paths]

    def create(self, path: str, data: bytes) -> bool:
        """Write a path that must not exist yet, all or nothing; False where it exists with other content.

        A path that holds these very bytes counts as created: the answer to an earlier try may have got lost.
        """
        full = f"{self.root}/{path}"
        with self._telling("write", path):
            if self._create(full, data):
                return True
        return self.read(path) == data

    def put(self, path: str, data: bytes) -> None:
        """Write a path whether it exists or not, all or nothing. Only for what may be forgotten."""
        full = f"{self.root}/{path}"
        with self._telling("write", path):
            self._make_folder_of(full)
            if isinstance(self.fs, LocalFileSystem):
                with _unfinished(Path(full), data) as unfinished:
                    os.replace(unfinished, full)
            else:
                self.fs.pipe_file(full, data)

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where it does not exist. Unfinished files of a killed writer are not."""
        with self._telling("list", folder):
            try:
                paths = self.fs.ls(f"{self.root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if not name.startswith("."))

    def walk(self, folder: str, unfinished: bool = False) -> dict[str, dict[str, Any]]:
        """Every file below a folder by its path below the root, with what the filesystem tells of it.

        Args:
            unfinished: instead, what killed writers left of files that never came to be.
        """
        with self._telling("list", folder):
            try:
                found = self.fs.find(f"{self.root}/{folder}", detail=True)
            except FileNotFoundError:
                return {}
        prefix = len(self.fs._strip_protocol(self.root).rstrip("/")) + 1
        return {
            path[prefix:]: info
            for path, info in found.items()
            if info["type"] == "file" and path.rsplit("/", 1)[-1].startswith(".") == unfinished
        }

    def size(self, path: str) -> int | None:
        """The size of a path in bytes; None where it does not exist."""
        with self._telling("look at", path):
            try:
                return int(self.fs.size(f"{self.root}/{path}"))
            except FileNotFoundError:
                return None

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; those that are gone already count as removed."""
        for start in range(0, len(paths), 1000):
            some = paths[start : start + 1000]
            with self._telling("remove", f"{len(some)} files from {some[0]} on"):
                try:
                    self.fs.rm([f"{self.root}/{path}" for path in some])
                except FileNotFoundError:
                    for path in some:
                        if self.fs.exists(f"{self.root}/{path}"):
                            self.fs.rm_file(f"{self.root}/{path}")

    # --- data files, named by their content ----------------------------------------------------------------------

    def add_file(self, data: bytes, suffix: str, rows: int | None = None, partition: str | None = None) -> DataFile:
        """Keep data under its hash; the same data twice is one file."""
        file = DataFile(sha256=sha256_of(data), suffix=suffix, size=len(data), rows=rows, partition=partition)
        full = f"{self.root}/{path_of(file)}"
        with self._telling("write", path_of(file)):
            created = self._create(full, data)
            if not created and self.fs.size(full) != len(data):
                # Cut short by something else: the name says what belongs there.
                self.fs.pipe_file(full, data)
        return file

    def read_file(self, file: DataFile) -> bytes:
        """The content of a data file. Raises: OSError that names the file where it is missing or damaged."""
        try:
            data = self.read(path_of(file))
        except FileNotFoundError as error:
            raise self._missing(file) from error
        if sha256_of(data) != file.sha256:
            raise self._damaged(file, "its SHA-256 is not its name")
        return data

    def add_table(self, table: pa.Table, partition: str | None = None) -> DataFile:
        """Keep a table as a Parquet file. The same rows give the same bytes."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **_PARQUET, compression=_compression(table.schema))
        return self.add_file(sink.getvalue().to_pybytes(), ".parquet", rows=table.num_rows, partition=partition)

    def read_table(self, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a Parquet file; with `columns`, only their bytes are read and checked.

        Raises: OSError that names the file where it is missing or damaged.
        """
        if columns is None:
            return pq.read_table(pa.BufferReader(self.read_file(file)))
        with self._ranges_of(file) as source:
            return pq.read_table(source, columns=list(columns), page_checksum_verification=True, pre_buffer=True)

    def schema_of(self, file: DataFile) -> pa.Schema:
        """The columns of a Parquet file, of which only the end is read."""
        with self._ranges_of(file) as source:
            return pq.read_schema(source)

    @contextmanager
    def _ranges_of(self, file: DataFile) -> Iterator[pa.PythonFile]:
        """A data file of which only what is asked for is read; trouble with it names it."""
        try:
            with pa.PythonFile(_Ranges(self, file), mode="r") as source:
                yield source
        except FileNotFoundError as error:
            raise self._missing(file) from error
        except StoreError:
            raise
        except (pa.ArrowException, OSError, EOFError) as error:
            raise self._damaged(file, str(error)) from error

    def url_of(self, file: DataFile) -> str:
        """Where a data file lies, for other readers."""
        return str(self.fs.unstrip_protocol(f"{self.root}/{path_of(file)}"))

    # --- below ---------------------------------------------------------------------------------------------------

    def _create(self, full: str, data: bytes) -> bool:
        self._make_folder_of(full)
        if isinstance(self.fs, LocalFileSystem):
            return _create_on_disk(Path(full), data)
        while True:
            try:
                self.fs.pipe_file(full, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                said = str(error).lower()
                if "conditionalrequestconflict" in said.replace(" ", ""):
                    continue  # S3 could not decide between two writers: ask again
                if "pre-condition" in said or "precondition" in said:  # how s3fs may say that the object exists
                    return False
                raise
            return True

    def _make_folder_of(self, full: str) -> None:
        """Object stores have no folders, and asking for one costs a request."""
        if not self._is_object_store:
            self.fs.makedirs(self.fs._parent(full), exist_ok=True)

    @contextmanager
    def _telling(self, what: str, path: str) -> Iterator[None]:
        """Errors name what was done, the path and the store; they never show options."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and what != "write":
                raise
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise StoreError(
                getattr(error, "errno", None) or 0, f"cannot {what} {path} in {self.url}: {said}"
            ) from error

    def _missing(self, file: DataFile) -> FileNotFoundError:
        return FileNotFoundError(f"data file {path_of(file)} is missing from {self.url}")

    def _damaged(self, file: DataFile, why: str) -> DamagedFileError:
        what = f"data file {path_of(file)} in {self.url}"
        return DamagedFileError(f"{what} is damaged: {why}; delete it and make it again with refresh")


_PARQUET: dict[str, Any] = {
    # Small row groups let readers skip and a viewer page.
    "row_group_size": 256,
    # So that the Hub stores what two versions share only once.
    "use_content_defined_chunking": True,
    "write_page_index": True,
    # A reader of some columns can check what it reads, without the whole file.
    "write_page_checksum": True,
}


def _compression(schema: pa.Schema) -> dict[str, str]:
    """Per column: image bytes are compressed already, and trying again takes longer than writing them."""
    return {name: "none" if binary else "zstd" for name, binary in _leaves(schema)}


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, bool]]:
    """Column paths as Parquet names them, and whether they hold bytes."""
    for field in schema:
        if pa.types.is_struct(field.type):
            for inner in field.type:
                yield f"{field.name}.{inner.name}", pa.types.is_binary(inner.type)
        else:
            yield field.name, pa.types.is_binary(field.type)


class _Ranges(io.RawIOBase):
    """A data file as a seekable stream that reads only the ranges it is asked for."""

    def __init__(self, files: Files, file: DataFile) -> None:
        super().__init__()
        self._files, self._file, self._at = files, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._file.size if size < 0 else min(self._at + size, self._file.size)
        if end <= self._at:
            return b""
        data = self._files.read(path_of(self._file), self._at, end)
        if len(data) != end - self._at:
            raise EOFError(f"{len(data)} bytes instead of {end - self._at} from {self._at} on")
        self._at = end
        return data


@contextmanager
def _unfinished(path: Path, data: bytes) -> Iterator[str]:
    """A complete file beside `path`, to be linked or moved there.

    Raises: OSError that names the file, which a write to a full disk does not by itself.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with open(handle, "wb") as unfinished:
            try:
                unfinished.write(data)
                unfinished.flush()
                os.fchmod(handle, 0o666 & ~_umask())  # temporary files are private, a store is shared
                os.fsync(handle)
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror}, writing {len(data)} bytes", str(path)) from error
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def _create_on_disk(path: Path, data: bytes) -> bool:
    """Create a file with all of its content or not at all, even if the process is killed half way."""
    if path.exists():
        return False
    with _unfinished(path, data) as unfinished:
        try:
            os.link(unfinished, path)  # unlike a rename, it fails where the file exists
        except FileExistsError:
            return False
    return True


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def path_of(file: DataFile) -> str:
    """Where a data file lies below the root."""
    return f"files/{file.sha256[:2]}/{file.sha256}{file.suffix}"
