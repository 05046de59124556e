"""A network that spoils requests, credentials that are wrong: the store loses nothing, and says what is the matter."""

import pickle

import pytest

from perf.faulty_proxy import FAULTS, faulty_proxy
from storage.files import S3_OPTIONS, StoreError
from storage.store import Store, VersionNotFoundError
from storage.verify import verify
from tests.storage.samples import commit_child, files_in, files_needed, manifest_of, place_on_s3

IMPATIENT = {"config_kwargs": S3_OPTIONS["config_kwargs"] | {"connect_timeout": 1, "read_timeout": 0.5}}
"""As many retries as ever, but soon."""


def no_secret_in(error, server):
    """Neither in what is said, nor in what travels to another process."""
    told = f"{error} {error!r} {pickle.dumps(error)!r}"
    return server.secret not in told and server.key not in told


def test_commits_survive_a_network_that_spoils_every_fifth_request(s3):
    url = place_on_s3()
    with faulty_proxy(s3.endpoint, share=0.2, seed=2, hang_seconds=1) as (endpoint, proxy):
        store = Store(url, **s3.behind(endpoint).options, **IMPATIENT)
        versions = [commit_child(store, "cases", rows=(n, n + 1), key=f"k{n}") for n in range(5)]
        assert set(proxy.faults) == set(FAULTS), "every kind of fault happened"
        assert [v.table("t").to_pydict()["id"] for v in versions] == [[n, n + 1] for n in range(5)]
    store = Store(url, **s3.options)
    assert [v.manifest.key for v in store.versions("cases")] == [f"k{n}" for n in range(5)]
    assert [v.number for v in versions] == list(range(1, 6)), "an answer that got lost made no second version"
    assert len(store.tag_history("cases", "latest")) == 5
    assert verify(store.versions("cases")) == []
    assert files_in(store) == files_needed(store), "nothing is left of what was tried twice"


def test_a_network_that_is_gone_gives_one_clear_error_and_nothing_half_written(s3):
    url = place_on_s3()
    with faulty_proxy(s3.endpoint, share=0, hang_seconds=1) as (endpoint, proxy):
        store = Store(url, **s3.behind(endpoint).options, **IMPATIENT)
        manifest = manifest_of(store)
        proxy.share = 1
        with pytest.raises(StoreError, match=f"cannot .*files/.* in {url}") as caught:
            store.commit(manifest)
        assert no_secret_in(caught.value, s3)
    store = Store(url, **s3.options)
    assert store.artifacts() == []
    assert [path.split("/")[0] for path in files_in(store)] == ["files"], "what was written before, whole"


@pytest.mark.parametrize("wrong", [{"secret": "of-nobody"}, {"key": "of-nobody"}])
def test_wrong_credentials_are_told_without_showing_any(s3, wrong):
    url = place_on_s3()
    store = Store(url, **s3.options | wrong)
    for attempt in (lambda: store.add_file(b"x", ".bin"), lambda: store.resolve("cases"), store.artifacts):
        with pytest.raises(StoreError, match=rf"cannot \w+ .* in {url}: .*(signature|key)") as caught:
            attempt()
        assert no_secret_in(caught.value, s3)
        assert "of-nobody" not in str(caught.value)
    assert files_in(Store(url, **s3.options)) == set()


def test_a_server_that_is_not_there_is_told(s3):
    url = place_on_s3()
    with faulty_proxy(s3.endpoint, share=0) as (endpoint, _):
        pass
    with pytest.raises(StoreError, match=f"cannot list .* in {url}: .*{endpoint}") as caught:
        Store(url, **s3.behind(endpoint).options, **IMPATIENT).artifacts()
    assert no_secret_in(caught.value, s3)


def test_a_bucket_that_is_not_there_is_told(s3):
    with pytest.raises(VersionNotFoundError, match="s3://no-such-bucket/x has no version of it") as caught:
        Store("s3://no-such-bucket/x", **s3.options).resolve("cases")
    assert no_secret_in(caught.value, s3)
    with pytest.raises(StoreError, match=r"cannot write files/.*\.bin in s3://No_Bucket/x: ") as refused:
        Store("s3://No_Bucket/x", **s3.options).add_file(b"x", ".bin")
    assert no_secret_in(refused.value, s3)
