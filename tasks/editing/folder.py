"""An editor that draws nothing: pictures that were made elsewhere lie in a folder, a file per case.

Either the files are named by their cases, `<case_id>.png` (`.jpg`, `.jpeg`, `.webp`), or a `metadata.jsonl` or
`metadata.csv` beside them has the columns `case_id` and `file_name`, as the `imagefolder` of Hugging Face's datasets.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from storage.files import Files
from storage.records import identity
from tasks.editing.interface import EditFailure, EditTask, Picture
from tasks.editing.photographs import read_photograph
from tasks.editing.settings import FolderEditorConfig

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
METADATA = ("metadata.jsonl", "metadata.csv")
LARGEST_FILE = 200_000_000
"""Bytes; a larger file is not read."""
_AT_ONCE = 16
"""Files read at a time: object storage takes many, and each takes long."""


class FolderError(ValueError):
    """A folder that cannot be used as a whole."""


@dataclass(frozen=True)
class Listing:
    """What is in a folder, without the pictures themselves."""

    files: Files
    fingerprint: str
    """The hash of all names and sizes, of the checksums that an object store tells, of the metadata, and of who made
    it. Pictures that are replaced by others are new edits; one of the very same size in a folder on a disk is not
    noticed: reading gigabytes only to find that nothing changed would make every rerun pay.
    """
    sizes: Mapping[str, int] = field(repr=False)
    """Of the pictures, by their path below the folder."""
    of_case: Mapping[str, tuple[str, ...]] = field(repr=False)
    """The paths that are said to be a case's: one, if all is well."""
    described: bool
    """Whether there is metadata."""


@dataclass(frozen=True)
class FolderEditor:
    """See `Editor`. A case without exactly one readable picture is a failure."""

    listing: Listing

    @property
    def fingerprint(self) -> str:
        return self.listing.fingerprint

    def edit(self, tasks: Sequence[EditTask]) -> list[Picture]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda task: self._picture_of(task.case_id), tasks))

    def _picture_of(self, case_id: str) -> Picture:
        listing = self.listing
        paths = listing.of_case.get(case_id, ())
        if not paths:
            return EditFailure("missing: no row of the metadata" if listing.described else f"missing: no {case_id}.png")
        if len(paths) > 1:
            return EditFailure(f"ambiguous: {', '.join(paths)}")
        if _leaves(paths[0]):
            return EditFailure(f"refused: {paths[0]} is not below the folder")
        if (size := listing.sizes.get(paths[0])) is None:
            return EditFailure(f"missing: no file {paths[0]}, or not one of {', '.join(SUFFIXES)}")
        if size > LARGEST_FILE:
            return EditFailure(f"image_error: {paths[0]} has {size:,} bytes, at most {LARGEST_FILE:,} are read")
        try:
            data = listing.files.read(paths[0])
            if len(data) != size:
                return EditFailure(f"changed: {paths[0]} is not as it was listed")
            return read_photograph(data).pixels
        except FileNotFoundError:
            return EditFailure(f"changed: {paths[0]} is gone")
        except ValueError as error:
            return EditFailure(f"image_error: {paths[0]}: {error}")


def read_listing(config: FolderEditorConfig) -> Listing:
    """Look into a folder. Raises: FolderError for one without pictures, or with metadata that cannot be read."""
    files = Files(config.folder)
    found = {path.lstrip("/"): info for path, info in files.walk("").items()}
    sizes = {path: int(info["size"]) for path, info in found.items() if path.lower().endswith(SUFFIXES)}
    if not sizes:
        raise FolderError(f"{config.folder}: no picture here; expected <case_id>{'|'.join(SUFFIXES)}")
    described = [name for name in METADATA if name in found]
    if len(described) > 1:
        raise FolderError(f"{config.folder}: both {' and '.join(described)}; keep one")
    metadata = files.read(described[0]) if described else b""
    told = sorted((path, size, str(found[path].get("ETag", ""))) for path, size in sizes.items())
    return Listing(
        files=files,
        fingerprint=identity("folder", config.made_by, told, metadata),
        sizes=sizes,
        of_case=_grouped(_rows(described[0], metadata) if described else _named(sizes)),
        described=bool(described),
    )


def _named(sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Cases and pictures, by the names of the pictures."""
    yield from ((PurePosixPath(path).stem, path) for path in sizes if "/" not in path)


def _rows(name: str, data: bytes) -> Iterator[tuple[str, str]]:
    """Cases and pictures, as a metadata file has them. Raises: FolderError that names the line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FolderError(f"{name}: not UTF-8: {error}") from error
    for number, row in _lines(name, text):
        case_id, path = (row.get(column) if isinstance(row, Mapping) else None for column in ("case_id", "file_name"))
        if not isinstance(case_id, str) or not isinstance(path, str) or not case_id or not path:
            raise FolderError(f"{name}, line {number}: no case_id and file_name")
        yield case_id, path


def _lines(name: str, text: str) -> Iterator[tuple[int, Any]]:
    if name.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text))
        yield from ((reader.line_num, row) for row in reader)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise FolderError(f"{name}, line {number}: {error}") from error


def _grouped(pairs: Iterator[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for case_id, path in pairs:
        found[case_id] = (*found.get(case_id, ()), path)
    return found


def _leaves(path: str) -> bool:
    """Whether a path is not one below the folder."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return path.startswith(("/", "\\")) or ".." in parts or "://" in path or ":" in parts[0]
