"""What a real S3 server refuses, and bytes that somebody damaged on it: one sentence each, and nothing half-written."""

from typing import Any

import pytest

from distillery.data.manifest import MANIFEST
from distillery.data.reference import SetReference, open_reference, write_reference
from distillery.data.store import SyntheticSet
from distillery.errors import MissingResourceError, StoreError
from distillery.models.bundle import fetch_bundle
from distillery.storage import Store, open_store
from distillery.storage.s3 import S3Store, make_client
from s3_servers import Ceph
from sets import publish, write

pytestmark = pytest.mark.integration

VERBS: dict[str, tuple[Any, ...]] = {
    "read": ("key",),
    "write": ("key", b"1"),
    "size": ("key",),
    "exists": ("key",),
    "list": (),
    "delete": ("key",),
    "create": ("key", b"1"),
    "clean": (),
    "holds": ("key", 1, "0" * 64),
}


def refuse(store: Store, verb: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        getattr(store, verb)(*VERBS[verb])
    assert str(caught.value).startswith("Cannot ")
    assert "\n" not in str(caught.value)
    assert "labsecret" not in str(caught.value)


@pytest.mark.parametrize("verb", VERBS)
def test_a_key_that_the_server_does_not_know(real_store: S3Store, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    refuse(real_store, verb, r"does not know the access key 'nobody'; check AWS_ACCESS_KEY_ID or AWS_PROFILE\.$")


@pytest.mark.parametrize("verb", VERBS)
def test_a_secret_that_is_wrong(real_store: S3Store, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "labsecret124")
    refuse(real_store, verb, r"the secret does not fit the access key 'labaccess'; check AWS_SECRET_ACCESS_KEY or AWS_PROFILE\.$")


@pytest.mark.parametrize("verb", [verb for verb in VERBS])
def test_a_bucket_that_is_not_there(real_bucket: str, verb: str) -> None:
    refuse(
        open_store("s3://no-such-bucket/x"), verb, r"there is no bucket 'no-such-bucket' on http://127.*; create it, or correct the URI\.$"
    )


@pytest.fixture(scope="module")
def second_user(ceph: Ceph) -> str:
    ceph.add_user("guestaccess", "labsecret456")
    return "guestaccess"


@pytest.mark.parametrize("verb", VERBS)
def test_a_user_without_permission(real_store: S3Store, second_user: str, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    real_store.write("key", b"0")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", second_user)
        patch.setenv("AWS_SECRET_ACCESS_KEY", "labsecret456")
        refuse(real_store, verb, r"'guestaccess' has no permission for it; grant it reading, .* or use another key\.$")
    assert real_store.read("key") == b"0"


def test_one_who_may_read_only(real_store: S3Store, second_user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = publish(real_store, 2)
    rule = f'"Effect": "Allow", "Principal": {{"AWS": ["arn:aws:iam:::user/{second_user}"]}}, "Action": ["s3:GetObject", "s3:ListBucket"]'
    place = f'"Resource": ["arn:aws:s3:::{real_store.bucket}", "arn:aws:s3:::{real_store.bucket}/*"]'
    policy = f'{{"Version": "2012-10-17", "Statement": [{{{rule}, {place}}}]}}'
    make_client().put_bucket_policy(Bucket=real_store.bucket, Policy=policy)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", second_user)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "labsecret456")
    SyntheticSet.open(reference.uri).verify()
    with pytest.raises(StoreError, match=r"Cannot write 'shards/.*no permission"):
        write(real_store, 3, name="another")
    assert len(real_store.list("shards")) == 2


def damage(store: S3Store, key: str, data: bytes) -> None:
    """Replace an object as somebody might who wishes us ill: under the metadata that it had."""
    client, name = make_client(), f"{store.prefix}/{key}"
    metadata = client.head_object(Bucket=store.bucket, Key=name)["Metadata"]
    client.put_object(Bucket=store.bucket, Key=name, Body=data, Metadata=metadata)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty"])
@pytest.mark.parametrize("reader", ["load", "verify"])
def test_a_damaged_shard_is_an_error_and_never_kept(real_store: S3Store, how: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(real_store, 3)
    entry = SyntheticSet(real_store).manifest.shards[1]
    data = real_store.read(entry.key)
    damage(real_store, entry.key, {"truncated": data[:-1], "flipped": flipped(data), "empty": b""}[how])
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"The shard '{entry.key}' of the set 's3://.* is damaged .* delete it and materialize"):
            getattr(SyntheticSet(real_store), reader)()
    real_store.delete(entry.key)
    with pytest.raises(MissingResourceError, match=rf"The shard '{entry.key}' is missing"):
        getattr(SyntheticSet(real_store), reader)()
    publish(real_store, 3)  # sends the missing one and adopts the set
    SyntheticSet(real_store).verify()


def test_a_damaged_manifest_is_an_error(real_store: S3Store, tmp_path: Any) -> None:
    reference: SetReference = publish(real_store, 1)
    write_reference(tmp_path / "artifact", reference)
    damage(real_store, MANIFEST, flipped(real_store.read(MANIFEST)))
    with pytest.raises(StoreError, match=r"'manifest.json' in the store .* does not match the sha256 it was written with"):
        open_reference(tmp_path / "artifact")


def test_a_damaged_bundle_is_an_error(real_store: S3Store, tmp_path: Any) -> None:
    real_store.write("bundle.json", b'{"format": "distillery-bundle"}')
    damage(real_store, "bundle.json", b'{"format": "distillery-bundlf"}')
    with pytest.raises(StoreError, match="does not match the sha256 it was written with"):
        fetch_bundle(real_store.uri, tmp_path / "bundles")
    assert not (tmp_path / "bundles").exists()
