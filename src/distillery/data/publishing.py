"""Publication of a set whose step's result is decided: again and again the same one, whoever gets to it."""

from distillery.data.manifest import MANIFEST, SetManifest
from distillery.data.reference import SetReference
from distillery.data.shards import check_whole
from distillery.errors import StoreError
from distillery.provenance import sha256_bytes
from distillery.storage import Store


def publish_manifest(store: Store, data: bytes) -> SetReference:
    """Make exactly this set of shards that are there; where it is published already, its shards are looked at again, and nothing is done.

    Args:
        store: below the set's prefix.
        data: the manifest, as `SetWriter.manifest` gives it.

    Raises:
        StoreError: a shard is gone or damaged, another set is published there, or the store cannot be written.
    """
    check_whole(store, SetManifest.from_bytes(data, f"The manifest of the set {store.uri!r}").shards)
    if not store.exists(MANIFEST):
        store.create(MANIFEST, data)
    if (found := sha256_bytes(store.read(MANIFEST))) != (sha256 := sha256_bytes(data)):
        raise StoreError(
            f"The set {sha256[:12]} cannot be published at {store.uri!r}, where the set {found[:12]} is: delete {MANIFEST!r} there, if "
            "nothing needs that set any more, and run again, or give a new run_salt."
        )
    return SetReference(uri=store.uri, sha256=sha256)
