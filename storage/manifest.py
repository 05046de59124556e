"""What a version of an artifact is: one manifest, named by the hash of what it says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from storage.records import canonical_json

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Names of artifacts, tables and tags: nothing that could leave the store's folder."""
SHA256 = r"^[0-9a-f]{64}$"
MOMENT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+\d\d:\d\d$"


def check_name(name: str) -> str:
    """The name itself. Raises: ValueError for one that a store does not take."""
    if not NAME.fullmatch(name):
        raise ValueError(f"name {name!r}: use up to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")
    return name


Name = Annotated[str, AfterValidator(check_name)]
"""In a record: one from elsewhere with another name is refused when it is read."""


class DataFile(BaseModel):
    """One immutable file, named by its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=SHA256)
    suffix: str = Field(pattern=r"^\.[a-z0-9]{1,16}$")
    size: int = Field(ge=0)
    rows: int | None = None
    """Of a Parquet file."""
    crc32: int | None = Field(None, ge=0, lt=2**32)
    """Of the whole file: what a reader checks, in a third of the time that the SHA-256 takes. None before schema 2."""
    partition: str | None = Field(None, pattern=rf"^{NAME.pattern}$")
    """What all of its rows have in common, such as their edit type; None: nothing in particular."""


class Parent(BaseModel):
    """A version that another one was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Name
    version: int
    manifest: str


class Manifest(BaseModel):
    """Everything that makes a version what it is; when and by which run it was made stands beside it, in its `Ref`.

    Schema 2 knows partitions of files. Versions of schema 1 stay readable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1, 2] = 2
    artifact: Name
    stage: Name
    stage_version: int
    """The stage's code version, a declared number."""
    key: Name
    """The stage's key: the same key, the same work."""
    config: dict[str, Any]
    fingerprints: dict[str, str] = {}
    """Of the models and judges that took part."""
    parents: dict[str, Parent] = {}
    """By role."""
    tables: dict[Name, tuple[DataFile, ...]] = {}
    """The files of each table, in order; other files too, by name."""
    statistics: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """The SHA-256 of what the manifest says."""
        return sha256_of(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        return sum(file.rows or 0 for file in self.tables.get(table, ()))

    def files(self) -> tuple[DataFile, ...]:
        """The files of all tables."""
        return tuple(file for files in self.tables.values() for file in files)

    def num_rows(self) -> int:
        """How many rows its tables have together."""
        return sum(self.rows(table) for table in self.tables)


class Ref(BaseModel):
    """Makes a manifest a numbered version; what is not part of its content stands here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: str = Field(pattern=SHA256)
    created_at: str = Field(pattern=MOMENT)
    seconds: float
    """How long the stage took."""
    flow_run_id: str | None = None
    done: int | None = None
    """How many items were really worked on; the others were taken over from earlier work."""
    checkpoint: bool = False
    """The state of work in progress, kept so that the work can go on elsewhere: never `latest`."""
    commit_id: str = ""
    """Of this one commit: a writer whose answer got lost on the way recognises its own ref by it."""


class Tag(BaseModel):
    """What a tag means from some moment on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    created_at: str = ""
    reasons: tuple[str, ...] = ()
    """Why, such as the limits that a rejected version broke."""


def are_rows(files: Iterable[DataFile]) -> bool:
    """Whether these are files of rows, and nothing else."""
    return all(file.suffix == ".parquet" for file in files)


def sha256_of(data: bytes) -> str:
    """The SHA-256 in hexadecimal digits, by which files and manifests are named."""
    return hashlib.sha256(data).hexdigest()


Model = TypeVar("Model", bound=BaseModel)


def parse(kind: type[Model], data: bytes, path: str) -> Model:
    """What lies at a path of a store. Raises: ValueError that names the path, where it is something else."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise ValueError(f"{path} is no {kind.__name__} that this code knows: {where} {wrong['msg']}") from error
