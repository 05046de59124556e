"""Is everything there, and is it what it was? Every file of a version is read and compared with its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage.files import path_of
from storage.manifest import DataFile
from storage.store import Store, Version

_AT_ONCE = 8
"""Files that are read at a time; one of them is in memory per reader."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong."""

    version: str
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.version}: {self.path}: {self.what}"


def verify(
    versions: Iterable[Version], quick: bool = False, progress: Callable[[int, int], None] = lambda done, of: None
) -> list[Damage]:
    """Check versions: manifests, files, sizes, contents and parents. A file of several versions is read once.

    Args:
        quick: only look whether the files are there in their sizes.
        progress: told the number of bytes that were checked, and how many there are.
    """
    found: list[Damage] = []
    users: dict[DataFile, str] = {}
    for version in versions:
        try:
            manifest = version.manifest
        except (OSError, ValueError) as error:
            found.append(Damage(str(version), f"manifests/{version.ref.manifest}.json", str(error)))
            continue
        for file in manifest.files():
            users.setdefault(file.model_copy(update={"partition": None, "rows": None}), str(version))
        for role, parent in manifest.parents.items():
            try:
                held = version.store.version(parent.artifact, parent.version).ref.manifest
            except (LookupError, OSError, ValueError) as error:
                found.append(Damage(str(version), f"parent {role}", str(error)))
                continue
            if held != parent.manifest:
                found.append(Damage(str(version), f"parent {role}", f"{parent.artifact}@v{parent.version} is another"))
        store = version.store
    if users:
        found += _damaged_files(store, users, quick, progress)
    return found


def _damaged_files(
    store: Store, users: dict[DataFile, str], quick: bool, progress: Callable[[int, int], None]
) -> Iterator[Damage]:
    total, done = sum(file.size for file in users), 0

    def look(file: DataFile) -> str | None:
        if quick:
            size = store.size(path_of(file))
            return None if size == file.size else ("missing" if size is None else f"{size} bytes, not {file.size}")
        try:
            store.read_file(file, thorough=True)
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for file, what in zip(users, pool.map(look, users), strict=True):
            done += file.size
            progress(done, total)
            if what:
                yield Damage(users[file], path_of(file), what)
