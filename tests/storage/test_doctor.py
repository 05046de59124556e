"""A filesystem that cannot be trusted with commits is found out."""

import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from storage.doctor import examine
from storage.files import StoreError
from storage.store import Store
from tests.storage.samples import commit_child, files_in


class Careless(MemoryFileSystem):
    """Takes a conditional write and ignores the condition, as some S3 gateways do."""

    protocol = "careless"
    store = {}  # noqa: RUF012  (as its parent has it)
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value, mode="overwrite", **kwargs)


class Forgetful(MemoryFileSystem):
    """Says that it removed a file, and keeps it."""

    protocol = "forgetful"

    def rm(self, path, recursive=False, maxdepth=None):
        pass


@pytest.fixture(autouse=True)
def known():
    for kind in (Careless, Forgetful):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)


def test_ordinary_filesystems_pass(any_store):
    commit_child(any_store, "cases")
    before = files_in(any_store)
    findings = list(examine(any_store, writers=4, rounds=2))
    assert [str(finding) for finding in findings if not finding.ok] == []
    assert str(findings[5]) == "ok    2 races of 4 writers for one name: one winner each"
    assert len(findings) == 8
    assert files_in(any_store) == before
    assert any_store.walk("doctor") == any_store.walk("doctor", unfinished=True) == {}, "it cleans up"


def test_one_that_ignores_conditional_writes_is_found_out():
    store = Store(f"careless://{uuid.uuid4().hex}")
    failed = [finding.what for finding in examine(store, writers=4, rounds=2) if not finding.ok]
    assert failed[0] == "creating it again with other content is refused"
    assert failed[1].startswith("2 races of 4 writers for one name: [")
    assert failed[1].endswith(
        "this endpoint does not honour conditional writes (If-None-Match), and would lose versions"
    )
    assert len(failed) == 2
    assert store.walk("doctor") == {}


def test_one_that_does_not_remove_is_found_out():
    failed = [finding.what for finding in examine(Store(f"forgetful://{uuid.uuid4().hex}"), 2, 1) if not finding.ok]
    assert failed == ["a removed file is gone"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot write doctor/.*/once"):
        list(examine(Store(str(tmp_path / "file"))))
