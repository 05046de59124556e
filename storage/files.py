"""Immutable files below one root on any fsspec filesystem: created whole or not at all, named by their content."""

from __future__ import annotations

import json
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from storage.manifest import DataFile, sha256_of
from storage.parquet import Ranges, from_parquet, to_parquet

S3_OPTIONS: dict[str, Any] = {
    # A request that gets no answer is tried again soon, with growing pauses, instead of blocking a stage for minutes.
    "config_kwargs": {
        "retries": {"mode": "standard", "max_attempts": 5},  # what timed out, s3fs tries five times over
        "connect_timeout": 10,
        "read_timeout": 30,
    },
}
"""What an S3 filesystem is opened with, where the options do not say otherwise."""

_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs")
_WITH_CREDENTIALS = re.compile(r"://([^/]*|[^/]*:.*)@")
"""A user before the host, also with a password that holds a slash."""


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

        Raises: ValueError for an address with a user or password in it, or with wildcards.
        """
        if _WITH_CREDENTIALS.search(url):
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
        if re.search(r"[*?\[]", self.root) and not isinstance(self.fs, LocalFileSystem):
            # Such filesystems would take paths to remove for patterns, and remove files of others.
            raise ValueError(f"{url}: a store's address cannot hold '*', '?' or '['")

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
        nothing = [None] * len(paths)
        with self._telling("read", f"{len(paths)} files"):
            # Unlike `cat`, it takes no path for a pattern.
            found = self.fs.cat_ranges([f"{self.root}/{path}" for path in paths], nothing, nothing, on_error="raise")
        return list(found)

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
        what = {"suffix": suffix, "size": len(data), "rows": rows, "partition": partition}
        file = DataFile(**_sums_of(data), **what)
        path = path_of(file)
        with self._telling("write", path):
            created = self._create(f"{self.root}/{path}", data)
        if not created and self.size(path) != len(data):
            self.put(path, data)  # cut short by something else: the name says what belongs there
        return file

    def read_file(self, file: DataFile, thorough: bool = False) -> bytes:
        """The content of a data file.

        Args:
            thorough: compare its SHA-256 with its name, which nobody can forge, instead of its CRC-32, which tells
                accidents in a third of the time.

        Raises: OSError that names the file where it is missing or damaged.
        """
        try:
            data = self.read(path_of(file))
        except FileNotFoundError as error:
            raise self._missing(file) from error
        if thorough or file.crc32 is None:
            if sha256_of(data) != file.sha256:
                raise self._damaged(file, "its SHA-256 is not its name")
        elif len(data) != file.size:
            raise self._damaged(file, f"it has {len(data)} bytes instead of {file.size}")
        elif zlib.crc32(data) != file.crc32:
            raise self._damaged(file, "its CRC-32 is not that of its manifest")
        return data

    def add_table(self, table: pa.Table, partition: str | None = None) -> DataFile:
        """Keep a table as a Parquet file. The same rows give the same bytes."""
        data = to_parquet(table)
        if data.size < _LARGE or not isinstance(self.fs, LocalFileSystem):
            return self.add_file(data.to_pybytes(), ".parquet", rows=table.num_rows, partition=partition)
        what = {"suffix": ".parquet", "size": data.size, "rows": table.num_rows, "partition": partition}
        folder = Path(self.root, "files")
        # Until the disk has it for sure takes as long as hashing it: both at once.
        with self._telling("write", f"a table of {table.num_rows} rows"), ThreadPoolExecutor(1) as aside:
            sums = aside.submit(_sums_of, data)
            folder.mkdir(parents=True, exist_ok=True)
            with _unfinished(folder / "table", data) as unfinished:
                file = DataFile(**sums.result(), **what)
                if self.size(path_of(file)) != file.size:
                    self._make_folder_of(f"{self.root}/{path_of(file)}")
                    os.replace(unfinished, Path(self.root, path_of(file)))
        return file

    def read_table(self, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a Parquet file; with `columns`, only their bytes of a large file are read and checked.

        Raises: OSError that names the file where it is missing or damaged.
        """
        if columns is None or file.size < _LARGE:
            return from_parquet(self.read_file(file), columns)
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
            with pa.PythonFile(Ranges(partial(self.read, path_of(file)), file.size), mode="r") as source:
                yield source
        except FileNotFoundError as error:
            raise self._missing(file) from error
        except StoreError as error:
            size = self.size(path_of(file))
            if size == file.size:
                raise
            # Object stores refuse ranges behind the end.
            raise self._damaged(file, f"it has {size} bytes instead of {file.size}") from error
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
            told = f"cannot {what} {path} in {self.url}: {said}"
            number = getattr(error, "errno", None)
            raise (StoreError(number, told) if number else StoreError(told)) from error

    def _missing(self, file: DataFile) -> FileNotFoundError:
        return FileNotFoundError(f"data file {path_of(file)} is missing from {self.url}")

    def _damaged(self, file: DataFile, why: str) -> DamagedFileError:
        what = f"data file {path_of(file)} in {self.url}"
        return DamagedFileError(f"{what} is damaged: {why}; delete it and make it again with refresh")


_LARGE = 1_000_000
"""Bytes from which on hashing takes longer than starting a thread, and reading all longer than asking for a part."""


@contextmanager
def _unfinished(path: Path, data: bytes) -> Iterator[str]:
    """A complete file beside `path`, to be linked or moved there.

    Raises: OSError that names the file, which a write to a full disk does not by itself.
    """
    name = path.with_name(f".unfinished-{uuid.uuid4().hex}")
    try:
        with name.open("xb") as unfinished:
            try:
                unfinished.write(data)
                unfinished.flush()
                os.fsync(unfinished.fileno())
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror}, writing {len(data)} bytes", str(path)) from error
        yield str(name)
    finally:
        name.unlink(missing_ok=True)


def _sums_of(data: bytes) -> dict[str, Any]:
    """What names a file and what checks it."""
    return {"sha256": sha256_of(data), "crc32": zlib.crc32(data)}


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


def path_of(file: DataFile) -> str:
    """Where a data file lies below the root."""
    return f"files/{file.sha256[:2]}/{file.sha256}{file.suffix}"
