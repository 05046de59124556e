"""Versioned artifacts on any fsspec filesystem: content-named files, manifests, and create-only numbered refs.

Layout below the root:

    files/ab/ab12...parquet            data, named by the SHA-256 of its content
    manifests/ab12....json             what a version is, named likewise
    versions/<artifact>/000012.json    makes a manifest `<artifact>@v12`; created once, never rewritten
    keys/<artifact>/<key>/000012.json  which versions a stage's key gave; the highest counts
    tags/<artifact>/<tag>/000001.json  which version a tag means; the highest number counts
    shards/<stage>/<key>.json          finished shards of a stage's work, by what they were made from
    journal/<stage>/<key>/ab12....json finished parts of a shard that is being worked on

A crash leaves files that no ref names, never half a version; two writers get two versions.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import pyarrow as pa

from storage.files import DamagedFileError, Files, path_of
from storage.manifest import DataFile, Manifest, Parent, Ref, Tag, check_name, parse, sha256_of

FOLDERS = ("files", "manifests", "versions", "keys", "tags", "shards", "journal")
LATEST = "latest"
"""The tag of the version that a stage's last accepted run ended with."""
REJECTED = "rejected"
"""The tag of versions that broke the limits of their stage."""
_AT_ONCE = 16
"""Requests to the filesystem at a time."""
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
        return parse(Manifest, self.manifest_bytes(), _manifest_path(self.ref.manifest))

    def manifest_bytes(self) -> bytes:
        """The same as it was written, perhaps by older code. Raises: DamagedFileError."""
        path = _manifest_path(self.ref.manifest)
        data = self.store.read(path)
        if sha256_of(data) != self.ref.manifest:
            raise DamagedFileError(f"{self}: {path} in {self.store.url} does not have the content its name promises")
        return data

    def as_parent(self) -> Parent:
        """How a child's manifest names it."""
        return Parent(artifact=self.artifact, version=self.number, manifest=self.ref.manifest)

    def files(self, table: str) -> tuple[DataFile, ...]:
        """The files of a table, in order. Raises: KeyError that says what there is."""
        if table not in self.manifest.tables:
            raise KeyError(f"{self} has no {table!r}; it has {', '.join(sorted(self.manifest.tables))}")
        return self.manifest.tables[table]

    def samples(self, table: str) -> tuple[DataFile, ...]:
        """The first file of each partition of a table: enough for examples of everything, without reading it all."""
        return tuple({file.partition: file for file in reversed(self.files(table))}.values())[::-1]

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table; see `parts` for one that is larger than memory."""
        return pa.concat_tables(list(self.parts(name, columns)))

    def parts(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The table file by file."""
        for file in self.files(name):
            yield self.store.read_table(file, columns)

    def paths(self, name: str) -> list[str]:
        """Where the files of a table lie, for readers other than this one; without empty files, which some refuse."""
        files = self.files(name)
        return [self.store.url_of(file) for file in ([f for f in files if f.rows != 0] or files)]

    def file(self, name: str) -> bytes:
        """The content of a single file."""
        (file,) = self.files(name)
        return self.store.read_file(file)


class Store(Files):
    """A root folder or bucket prefix with versioned artifacts."""

    def commit(
        self,
        manifest: Manifest,
        *,
        latest: bool = True,
        checkpoint: bool = False,
        seconds: float = 0.0,
        flow_run_id: str | None = None,
        done: int | None = None,
    ) -> Version:
        """Make a manifest the next version of its artifact. The last step creates the ref; all before is invisible.

        Args:
            latest: let `<artifact>@latest` mean it at once.
            checkpoint: it is the state of work in progress, which `latest` never means.
            seconds, flow_run_id, done: recorded in the ref, beside the content.

        Raises: FileNotFoundError where a file of the manifest is not in the store, as after a `gc` with too short a
            grace period; no version is made then.
        """
        check_name(manifest.artifact)
        self._check_present(manifest)
        self.create(_manifest_path(manifest.id), manifest.to_bytes())
        ref = Ref(
            manifest=manifest.id,
            created_at=_now(),
            seconds=round(seconds, 3),
            flow_run_id=flow_run_id,
            done=done,
            checkpoint=checkpoint,
            commit_id=uuid.uuid4().hex,
        )
        number = max(self.numbers(manifest.artifact), default=0) + 1
        while not self.create(_version_path(manifest.artifact, number), ref.model_dump_json().encode()):
            number += 1  # another writer was faster
        # Only a shortcut for `find`, which looks at the versions themselves where it is missing.
        self.create(f"keys/{manifest.artifact}/{check_name(manifest.key)}/{number:06d}.json", b"{}")
        version = Version(self, manifest.artifact, number, ref)
        if latest and not checkpoint:
            self.tag(version, LATEST)
        return version

    # --- names of versions ---------------------------------------------------------------------------------------

    def artifacts(self) -> list[str]:
        """The names of the artifacts that have a version."""
        return self.names("versions")

    def numbers(self, artifact: str) -> list[int]:
        """The numbers of an artifact's versions, ascending."""
        return [_number(name) for name in self.names(f"versions/{check_name(artifact)}")]

    def version(self, artifact: str, number: int) -> Version:
        """A version by number."""
        path = _version_path(check_name(artifact), number)
        try:
            data = self.read(path)
        except FileNotFoundError as error:
            raise VersionNotFoundError(f"{artifact}@v{number}: {self._known(artifact)}") from error
        return Version(self, artifact, number, parse(Ref, data, path))

    def versions(self, artifact: str) -> list[Version]:
        """All versions of an artifact, oldest first."""
        paths = {number: _version_path(artifact, number) for number in self.numbers(artifact)}
        refs = self.read_all(list(paths.values()))
        return [
            Version(self, artifact, number, parse(Ref, ref, path))
            for (number, path), ref in zip(paths.items(), refs, strict=True)
        ]

    def resolve(self, spec: str) -> Version:
        """A version by name: `cases`, `cases@latest`, `cases@v3` or `cases@<tag>`.

        Raises: VersionNotFoundError that says what there is.
        """
        match = _SPEC.fullmatch(spec)
        if not match:
            raise ValueError(f"{spec!r} is not of the form artifact, artifact@v3 or artifact@tag")
        artifact, wanted = check_name(match["artifact"]), match["version"] or LATEST
        if re.fullmatch(r"v\d{1,9}", wanted):
            return self.version(artifact, int(wanted[1:]))
        if tag := self._tag(artifact, wanted):
            return self.version(artifact, tag.version)
        if wanted == LATEST:
            # A store whose versions were all made before latest was a tag.
            rejected = {tag.version for tag in self.tag_history(artifact, REJECTED)}
            accepted = (self.version(artifact, n) for n in reversed(self.numbers(artifact)) if n not in rejected)
            if found := next((version for version in accepted if not version.ref.checkpoint), None):
                return found
        raise VersionNotFoundError(f"{artifact}@{wanted}: {self._known(artifact)}")

    def latest(self, artifact: str) -> Version | None:
        """What `<artifact>@latest` means, if anything."""
        try:
            return self.resolve(artifact)
        except VersionNotFoundError:
            return None

    def find(self, artifact: str, key: str) -> Version | None:
        """The newest version that a stage's key gave, if it was ever committed."""
        for name in reversed(self.names(f"keys/{check_name(artifact)}/{check_name(key)}")):
            try:
                return self.version(artifact, _number(name))
            except VersionNotFoundError:
                continue  # a `gc` that was killed removed the version, and its key not yet
        # A writer that was killed between the ref and its key leaves a version that no key names.
        named = {_number(path.rsplit("/", 1)[-1]) for path in self.walk(f"keys/{artifact}")}
        unnamed = (self.version(artifact, n) for n in reversed(self.numbers(artifact)) if n not in named)
        return next((version for version in unnamed if version.manifest.key == key), None)

    # --- tags ----------------------------------------------------------------------------------------------------

    def tag(self, version: Version, name: str, reasons: Sequence[str] = ()) -> None:
        """Make `artifact@name` mean this version from now on. Raises: ValueError for a name like `v3`."""
        folder = f"tags/{version.artifact}/{check_name(name)}"
        if re.fullmatch(r"v\d+", name):
            raise ValueError(f"tag {name!r}: such names mean versions already")
        data = Tag(version=version.number, created_at=_now(), reasons=tuple(reasons)).model_dump_json().encode()
        number = max(map(_number, self.names(folder)), default=0) + 1
        while not self.create(f"{folder}/{number:06d}.json", data):
            number += 1

    def tag_history(self, artifact: str, name: str) -> list[Tag]:
        """What a tag meant one after the other; the last counts."""
        folder = f"tags/{check_name(artifact)}/{check_name(name)}"
        paths = [f"{folder}/{number}" for number in self.names(folder)]
        return [parse(Tag, data, path) for path, data in zip(paths, self.read_all(paths), strict=True)]

    def tags(self, artifact: str) -> dict[str, Tag]:
        """What each tag of an artifact means."""
        names = self.names(f"tags/{check_name(artifact)}")
        return {name: tag for name in names if (tag := self._tag(artifact, name))}

    def rejections(self, artifact: str) -> dict[int, Tag]:
        """Why versions were rejected, by number; without those that `latest` was moved to all the same."""
        accepted = {tag.version for tag in self.tag_history(artifact, LATEST)}
        return {tag.version: tag for tag in self.tag_history(artifact, REJECTED) if tag.version not in accepted}

    def rejection(self, version: Version) -> Tag | None:
        """Why a version was rejected, if it was; see `rejections`."""
        told = [tag for tag in self.tag_history(version.artifact, REJECTED) if tag.version == version.number]
        # The long history of latest is read only for the few that were rejected.
        return self.rejections(version.artifact).get(version.number) if told else None

    # --- below ---------------------------------------------------------------------------------------------------

    def _tag(self, artifact: str, name: str) -> Tag | None:
        """What a tag means now."""
        folder = f"tags/{check_name(artifact)}/{check_name(name)}"
        path = next((f"{folder}/{number}" for number in reversed(self.names(folder))), None)
        return parse(Tag, self.read(path), path) if path else None

    def _check_present(self, manifest: Manifest) -> None:
        """Every file of a manifest is there. Raises: FileNotFoundError that names the first that is not."""
        wanted = [path_of(file) for file in manifest.files()]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            missing = [path for path, size in zip(wanted, pool.map(self.size, wanted), strict=True) if size is None]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(wanted)} files of this version of {manifest.artifact} are not in "
                f"{self.url}, {missing[0]} among them: run the stage again"
            )

    def _known(self, artifact: str) -> str:
        numbers = self.numbers(artifact)
        if not numbers:
            return f"{self.url} has no version of it; run the stage that makes it first"
        rejected = sorted({tag.version for tag in self.tag_history(artifact, REJECTED)})
        return f"{self.url} has v{numbers[0]} to v{numbers[-1]} of it" + (
            f", rejected: {', '.join(f'v{n}' for n in rejected)}" if rejected else ""
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _number(name: str) -> int:
    return int(name.split(".")[0])


def _version_path(artifact: str, number: int) -> str:
    return f"versions/{artifact}/{number:06d}.json"


def _manifest_path(sha256: str) -> str:
    return f"manifests/{sha256}.json"
