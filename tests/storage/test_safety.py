"""Nothing leaves the store's folder, and no credentials leave the process."""

import json
import os
import pickle
import stat
import threading

import fsspec.config
import pytest

from storage.export import export
from storage.files import Files
from storage.manifest import DataFile, Ref, sha256_of
from storage.store import Store
from storage.verify import verify
from storage.work import Finished, Journal, ShardResult
from tests.storage.samples import commit_child, files_in, manifest_of, place_on_s3

ESCAPES = ["..", "../x", "/etc/x", "a/b", "a\\b", "", ".hidden", "a\n", "A", "%2e%2e", "a" * 65, "~", "a*", "a\0"]


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_leaves_the_store(store, name):
    version = store.commit(manifest_of(store))
    before = files_in(store)
    for attempt in (
        lambda: store.resolve(name),
        lambda: store.resolve(f"cases@{name}") if name else store.numbers(name),
        lambda: store.versions(name),
        lambda: store.version(name, 1),
        lambda: store.find(name, "key"),
        lambda: store.find("cases", name),
        lambda: store.tag(version, name),
        lambda: store.tags(name),
        lambda: store.tag_history("cases", name),
        lambda: manifest_of(store, artifact=name),
        lambda: manifest_of(store, key=name),
        lambda: manifest_of(store, stage=name),
        lambda: manifest_of(store, tables={name: ()}),
        lambda: Finished(store, name),
        lambda: Finished(store, "stage").remember(name, ShardResult()),
        lambda: Journal(store, name, "key"),
        lambda: Journal(store, "stage", name),
    ):
        with pytest.raises(ValueError, match=r"name .*: use up to 64 of|is not of the form"):
            attempt()
    assert {path.split("/")[0] for path in files_in(store) - before} <= {"files"}


@pytest.mark.parametrize(
    "changes", [{"suffix": "/../x"}, {"suffix": ".a/b"}, {"sha256": "../" * 8}, {"partition": "../x"}]
)
def test_a_data_file_lies_where_its_content_says(changes):
    fields = {"sha256": sha256_of(b""), "suffix": ".bin", "size": 0}
    assert DataFile(**fields)
    with pytest.raises(ValueError, match="pattern"):
        DataFile(**fields | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"tables": {"../../escaped": []}},
        {"artifact": "../cases"},
        {"stage": "x\n```\n<script>alert(1)</script>"},
        {"parents": {"cases": {"artifact": "../../etc", "version": 1, "manifest": "0" * 64}}},
        {"schema_version": 3},
    ],
)
def test_a_manifest_from_elsewhere_that_breaks_the_rules_is_refused_and_found(store, tmp_path, change):
    """Whoever can write to a bucket could otherwise write to the disk of whoever exports from it."""
    values = json.loads(manifest_of(store).to_bytes()) | change
    data = json.dumps(values).encode()
    store.create(f"manifests/{sha256_of(data)}.json", data)
    ref = Ref(manifest=sha256_of(data), created_at="2026-01-01T00:00:00+00:00", seconds=0)
    store.create("versions/cases/000001.json", ref.model_dump_json().encode())
    version = store.resolve("cases")
    (damage,) = verify([version])
    assert damage.path == f"manifests/{sha256_of(data)}.json"
    assert next(iter(change)) in damage.what
    with pytest.raises(ValueError, match="is no Manifest that this code knows"):
        export(version, tmp_path / "out" / "folder")
    assert not (tmp_path / "escaped").exists()
    assert list((tmp_path / "out").rglob("*.*")) == []


def test_a_ref_from_elsewhere_that_breaks_the_rules_is_named(store):
    store.create("versions/cases/000001.json", b'{"manifest": "../x", "created_at": "yesterday"}')
    for attempt in (lambda: store.version("cases", 1), lambda: store.versions("cases")):
        with pytest.raises(ValueError, match=r"^versions/cases/000001\.json is no Ref that this code knows: manifest"):
            attempt()


def test_files_of_others_are_left_alone_by_a_store_with_wildcards_in_its_name(tmp_path):
    """On object stores, removing `a[b]/x` would remove `ab/x`."""
    for place in ("memory://some[ab]/store", "s3://lake/a*", "s3://lake/x?y"):
        with pytest.raises(ValueError, match=r"cannot hold '\*'"):
            Store(place)
    ours, others = Store(str(tmp_path / "a[b]*")), Store(str(tmp_path / "abc"))
    for store in (ours, others):
        commit_child(store, "cases")
    assert [v.table("t").num_rows for v in ours.versions("cases")] == [2]
    ours.remove(list(files_in(ours)))
    assert files_in(ours) == set()
    assert verify(others.versions("cases")) == []


def test_the_umask_is_kept_by_threads_that_write_at_once(tmp_path):
    """Reading it by setting it, two threads once left a process with the other's umask."""
    files, before = Files(str(tmp_path)), os.umask(0o077)
    try:
        threads = [
            threading.Thread(target=lambda n=n: [files.add_file(f"{n} {i}".encode(), ".bin") for i in range(40)])
            for n in range(8)
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    finally:
        assert os.umask(before) == 0o077
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.bin")}
    assert modes == {0o600}


@pytest.mark.parametrize(
    "address",
    [
        "s3://someone:hush@lake/x",
        "s3://someone@lake/x",
        "s3://someone:hu/sh@lake/x",
        "simplecache::s3://someone:hush@lake/x",
        "ftp://someone:hush@host/x",
    ],
)
def test_an_address_with_credentials_is_refused_without_showing_them(address):
    with pytest.raises(ValueError, match="holds a user or password: give credentials by the environment") as caught:
        Store(address)
    assert "hu" not in str(caught.value)
    assert "someone" not in str(caught.value)


def test_a_folder_with_an_at_sign_is_no_address_with_credentials(tmp_path):
    for place in (str(tmp_path / "a:b@c"), f"file://{tmp_path}/d:e@f"):
        assert Store(place).read_file(Store(place).add_file(b"x", ".bin")) == b"x"


def test_credentials_stay_in_the_process(s3):
    """Stores travel to workers by pickle, and turn up in logs by repr."""
    store = Store(place_on_s3(), **s3.options)
    version = store.commit(manifest_of(store))
    told = [repr(store), repr(version), str(version), str(version.manifest)]
    told += [repr(pickle.dumps(one)) for one in (store, version)]
    assert not any(secret in text for text in told for secret in (s3.secret, s3.key))
    assert store.url in told[0]


def test_credentials_are_not_among_the_files(s3):
    store = Store(place_on_s3(), **s3.options)
    commit_child(store, "cases")
    written = b"".join(store.read(path) for path in files_in(store))
    assert s3.secret.encode() not in written
    assert s3.key.encode() not in written


def test_a_store_opens_in_another_process_by_what_its_environment_holds(s3, monkeypatch):
    store = Store(place_on_s3(), **s3.options)
    version = store.commit(manifest_of(store))
    packed = pickle.dumps(version)
    monkeypatch.setattr(fsspec.config, "conf", {})
    fsspec.config.set_conf_env(fsspec.config.conf, store.environment())
    assert pickle.loads(packed).table("t").num_rows == 2  # noqa: S301
