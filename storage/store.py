"""Versioned artifacts on any fsspec filesystem: content-named files, manifests, and create-only numbered refs.

Layout below the root:

    files/ab/ab12...parquet            data, named by the SHA-256 of its content
    manifests/ab12....json             what a version is, named likewise
    versions/<artifact>/000012.json    makes a manifest `<artifact>@v12`; created once, never rewritten
    keys/<artifact>/<key>/000012.json  which versions a stage's key gave; the highest counts
    tags/<artifact>/<tag>/000001.json  which version a tag means; the highest number counts
    work/<stage key>/...               finished parts of a stage that is not committed yet

A crash leaves files that no ref names, never half a version; two writers get two versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from storage.manifest import DataFile, Manifest, Parent, Ref, check_name

_SPEC = re.compile(r"(?P<artifact>[^@]+)(@(?P<version>.+))?")


class VersionNotFoundError(LookupError):
    """There is no such version."""


@dataclass(frozen=True)
class Version:
    """One committed version of an artifact."""

    store: Store
    artifact: str
    number: int
    ref: Ref

    def __str__(self) -> str:
        return f"{self.artifact}@v{self.number}"

    @cached_property
    def manifest(self) -> Manifest:
        """What the version is."""
        data = self.store.read(f"manifests/{self.ref.manifest}.json")
        if hashlib.sha256(data).hexdigest() != self.ref.manifest:
            raise OSError(f"{self}: manifest {self.ref.manifest} does not have the content its name promises")
        return Manifest.model_validate_json(data)

    def as_parent(self) -> Parent:
        """How a child's manifest names it."""
        return Parent(artifact=self.artifact, version=self.number, manifest=self.ref.manifest)

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole table; see `parts` for one that is larger than memory."""
        parts = [self.store.read_table(file, columns) for file in self._files(name)]
        return pa.concat_tables(parts)

    def parts(self, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The table file by file."""
        for file in self._files(name):
            yield self.store.read_table(file, columns)

    def paths(self, name: str) -> list[str]:
        """Where the files of a table lie, for readers other than this one."""
        return [self.store.url_of(file) for file in self._files(name)]

    def file(self, name: str) -> bytes:
        """The content of a single file."""
        (file,) = self._files(name)
        return self.store.read_file(file)

    def _files(self, name: str) -> tuple[DataFile, ...]:
        if name not in self.manifest.tables:
            raise KeyError(f"{self} has no {name!r}; it has {', '.join(sorted(self.manifest.tables))}")
        return self.manifest.tables[name]


class Store:
    """A root folder or bucket prefix with versioned artifacts."""

    def __init__(self, url: str, **options: Any) -> None:
        """Open a store; it need not exist yet.

        Args:
            url: a path, or `file://`, `memory://`, `s3://bucket/prefix` and whatever else fsspec knows.
            options: for the filesystem, such as credentials; never written anywhere.
        """
        self.url = url
        self.fs, self.root = fsspec.url_to_fs(url, **options)

    # --- files ---------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        """The content of a path below the root."""
        return self.fs.cat_file(f"{self.root}/{path}")

    def create(self, path: str, data: bytes) -> bool:
        """Write a path that must not exist yet, all or nothing; False where it does exist."""
        full = f"{self.root}/{path}"
        self.fs.makedirs(self.fs._parent(full), exist_ok=True)
        if isinstance(self.fs, LocalFileSystem):
            return _create_on_disk(Path(full), data)
        try:
            self.fs.pipe_file(full, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if "pre-condition" not in str(error).lower():  # how s3fs says that the object exists
                raise
            return False
        return True

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where it does not exist. Unfinished files of a killed writer are not."""
        self.fs.invalidate_cache()
        try:
            paths = self.fs.ls(f"{self.root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if not name.startswith("."))

    def add_file(self, data: bytes, suffix: str, rows: int | None = None) -> DataFile:
        """Keep data under its hash; the same data twice is one file."""
        file = DataFile(sha256=hashlib.sha256(data).hexdigest(), suffix=suffix, size=len(data), rows=rows)
        if not self.create(_path_of(file), data) and self.fs.size(f"{self.root}/{_path_of(file)}") != len(data):
            # Cut short by something else: the name says what belongs there.
            self.fs.pipe_file(f"{self.root}/{_path_of(file)}", data)
        return file

    def read_file(self, file: DataFile) -> bytes:
        """The content of a data file. Raises: OSError that names the file where it is missing or damaged."""
        try:
            data = self.read(_path_of(file))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data file {_path_of(file)} is missing from {self.url}") from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            what = f"data file {_path_of(file)} in {self.url}"
            raise OSError(f"{what} is damaged: its SHA-256 is not its name; delete it and make it again with refresh")
        return data

    def add_table(self, table: pa.Table) -> DataFile:
        """Keep a table as a Parquet file. The same rows give the same bytes."""
        sink = pa.BufferOutputStream()
        # Image bytes are compressed already; small row groups let readers skip and a viewer page.
        pq.write_table(
            table,
            sink,
            compression="zstd",
            row_group_size=256,
            use_content_defined_chunking=True,
            write_page_index=True,
        )
        return self.add_file(sink.getvalue().to_pybytes(), ".parquet", rows=table.num_rows)

    def read_table(self, file: DataFile, columns: list[str] | None = None) -> pa.Table:
        """The rows of a Parquet file."""
        return pq.read_table(pa.BufferReader(self.read_file(file)), columns=columns)

    def url_of(self, file: DataFile) -> str:
        """Where a data file lies, for other readers."""
        return str(self.fs.unstrip_protocol(f"{self.root}/{_path_of(file)}"))

    # --- versions ------------------------------------------------------------------------------------------------

    def commit(self, manifest: Manifest, *, seconds: float = 0.0, flow_run_id: str | None = None) -> Version:
        """Make a manifest the next version of its artifact. The last step creates the ref; all before is invisible."""
        check_name(manifest.artifact)
        self.create(f"manifests/{manifest.id}.json", manifest.to_bytes())
        ref = Ref(
            manifest=manifest.id,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            flow_run_id=flow_run_id,
        )
        number = max(self.numbers(manifest.artifact), default=0) + 1
        while not self.create(_version_path(manifest.artifact, number), ref.model_dump_json().encode()):
            number += 1  # another writer was faster
        # Only a shortcut for `find`, which looks at the versions themselves where it is missing.
        self.create(f"keys/{manifest.artifact}/{check_name(manifest.key)}/{number:06d}.json", b"{}")
        return Version(self, manifest.artifact, number, ref)

    def numbers(self, artifact: str) -> list[int]:
        """The numbers of an artifact's versions, ascending."""
        return [_number(name) for name in self.names(f"versions/{check_name(artifact)}")]

    def version(self, artifact: str, number: int) -> Version:
        """A version by number."""
        try:
            data = self.read(_version_path(check_name(artifact), number))
        except FileNotFoundError as error:
            raise VersionNotFoundError(f"{artifact}@v{number}: {self._known(artifact)}") from error
        return Version(self, artifact, number, Ref.model_validate_json(data))

    def resolve(self, spec: str) -> Version:
        """A version by name: `cases`, `cases@latest`, `cases@v3` or `cases@<tag>`.

        Raises: VersionNotFoundError that says what there is.
        """
        match = _SPEC.fullmatch(spec)
        if not match:
            raise ValueError(f"{spec!r} is not of the form artifact, artifact@v3 or artifact@tag")
        artifact, wanted = check_name(match["artifact"]), match["version"] or "latest"
        if re.fullmatch(r"v\d{1,9}", wanted):
            return self.version(artifact, int(wanted[1:]))
        if wanted == "latest":
            numbers = self.numbers(artifact)
            if not numbers:
                raise VersionNotFoundError(f"{artifact}@latest: {self._known(artifact)}")
            return self.version(artifact, numbers[-1])
        tags = self.names(f"tags/{artifact}/{check_name(wanted)}")
        if not tags:
            raise VersionNotFoundError(f"{artifact}@{wanted}: {self._known(artifact)}")
        return self.version(artifact, int(json.loads(self.read(f"tags/{artifact}/{wanted}/{tags[-1]}"))["version"]))

    def find(self, artifact: str, key: str) -> Version | None:
        """The newest version that a stage's key gave, if it was ever committed."""
        if numbered := self.names(f"keys/{check_name(artifact)}/{check_name(key)}"):
            return self.version(artifact, _number(numbered[-1]))
        for number in reversed(self.numbers(artifact)):
            version = self.version(artifact, number)
            if version.manifest.key == key:
                return version
        return None

    def tag(self, version: Version, name: str) -> None:
        """Make `artifact@name` mean this version."""
        folder = f"tags/{version.artifact}/{check_name(name)}"
        if re.fullmatch(r"v\d+|latest", name):
            raise ValueError(f"tag {name!r}: such names mean versions already")
        number = len(self.names(folder)) + 1
        while not self.create(f"{folder}/{number:06d}.json", json.dumps({"version": version.number}).encode()):
            number += 1

    def ancestors(self, version: Version) -> list[Version]:
        """The version and all that it was made from, children before parents, each once."""
        found: dict[tuple[str, int], Version] = {}
        waiting = [version]
        while waiting:
            current = waiting.pop(0)
            # Seen again, it moves to the end: behind every child of its own.
            found.pop((current.artifact, current.number), None)
            found[(current.artifact, current.number)] = current
            waiting += [self.version(p.artifact, p.version) for p in current.manifest.parents.values()]
        return list(found.values())

    def _known(self, artifact: str) -> str:
        numbers = self.numbers(artifact)
        if numbers:
            return f"{self.url} has v{numbers[0]} to v{numbers[-1]} of it"
        return f"{self.url} has no version of it; run the stage that makes it first"


def _create_on_disk(path: Path, data: bytes) -> bool:
    """Create a file with all of its content or not at all, even if the process is killed half way.

    Raises: OSError that names the file, which a write to a full disk does not by itself.
    """
    if path.exists():
        return False
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unfinished-") as unfinished:
        try:
            unfinished.write(data)
            unfinished.flush()
            os.fchmod(unfinished.fileno(), 0o666 & ~_umask())  # temporary files are private, a store is shared
            os.fsync(unfinished.fileno())
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}, writing {len(data)} bytes", str(path)) from error
        try:
            os.link(unfinished.name, path)  # unlike a rename, it fails where the file exists
        except FileExistsError:
            return False
    return True


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _number(name: str) -> int:
    return int(name.split(".")[0])


def _path_of(file: DataFile) -> str:
    return f"files/{file.sha256[:2]}/{file.sha256}{file.suffix}"


def _version_path(artifact: str, number: int) -> str:
    return f"versions/{artifact}/{number:06d}.json"
