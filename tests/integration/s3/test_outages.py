"""The server is killed in the middle of something and started again: nothing is lost, nothing is half-published."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distillery.data.store import SyntheticSet
from distillery.errors import MissingResourceError, StoreError
from distillery.storage.s3 import LARGE_BYTES, PART_BYTES, S3Store, make_client
from s3_requests import before, counting
from s3_servers import Ceph
from sets import publish, write

pytestmark = pytest.mark.integration
SECONDS = 30.0
"""More than any retry may take before it gives up."""


@pytest.fixture
def gateway(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ceph]:
    """The server, whose gateway runs again when the test is over, and which is soon given up."""
    monkeypatch.setenv("DISTILLERY_S3_PATIENCE", "3")
    yield ceph
    ceph.settle()


class KillAt:
    """Kills the gateway before the n-th request, and starts it again some seconds later where told to."""

    def __init__(self, ceph: Ceph, number: int, start_after: float = 0.0) -> None:
        self.ceph, self.number, self.start_after = ceph, number, start_after
        self._lock = threading.Lock()

    def __call__(self, request: Any) -> None:
        with self._lock:
            self.number -= 1
            if self.number == 0:
                self.ceph.kill_gateway()
                if self.start_after:
                    self.ceph.start_gateway_after(self.start_after)


def uploads(store: S3Store) -> list[str]:
    return [upload["Key"] for upload in make_client().list_multipart_uploads(Bucket=store.bucket).get("Uploads", [])]


def test_killed_in_the_middle_of_an_upload(gateway: Ceph, real_store: S3Store) -> None:
    data = os.urandom(LARGE_BYTES + 3 * PART_BYTES)
    began = time.monotonic()
    with before("UploadPart", KillAt(gateway, 3)), pytest.raises(StoreError, match="cannot be reached"):
        real_store.write("large", data)
    assert time.monotonic() - began < SECONDS
    gateway.start_gateway()
    assert real_store.list() == []
    assert uploads(real_store) == ["sets/one/large"]  # it could not be aborted, for there was nobody to ask
    assert real_store.clean() == 0  # it may be another machine's
    real_store.write("large", data)
    assert real_store.clean(older_than=-5) == 1
    assert uploads(real_store) == []
    assert hashlib.sha256(real_store.read("large")).digest() == hashlib.sha256(data).digest()


def test_a_short_outage_in_the_middle_of_an_upload_is_sat_out(gateway: Ceph, real_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(LARGE_BYTES + 3 * PART_BYTES)
    monkeypatch.setenv("DISTILLERY_S3_PATIENCE", "20")
    with before("UploadPart", KillAt(gateway, 3, start_after=1.0)):
        real_store.write("large", data)
    gateway.settle()
    assert real_store.read("large") == data
    assert real_store.list() == ["large"]


def test_killed_in_the_middle_of_a_set(gateway: Ceph, real_store: S3Store) -> None:
    with before("PutObject", KillAt(gateway, 4)), pytest.raises(StoreError, match=r"Cannot write 'shards/.*cannot be reached"):
        publish(real_store, 5)
    gateway.start_gateway()
    assert len(real_store.list()) == 3
    with pytest.raises(MissingResourceError, match="No synthetic set is published"):
        SyntheticSet(real_store)
    with counting() as seen:
        publish(real_store, 5)
    assert seen["PutObject"] <= 2 + 2  # two shards, the manifest, and the question whether the server refuses it a second time
    assert seen["GetObject"] == 1  # the manifest as it stands there: another writer may have been first
    SyntheticSet(real_store).verify()


def test_killed_before_the_manifest_is_written(gateway: Ceph, real_store: S3Store) -> None:
    with before("PutObject", KillAt(gateway, 3)), pytest.raises(StoreError, match=r"Cannot write 'manifest.json'"):
        publish(real_store, 2)
    gateway.start_gateway()
    assert all(key.startswith("shards/") for key in real_store.list())
    with counting() as seen:
        publish(real_store, 2)
    assert seen["PutObject"] <= 2
    SyntheticSet(real_store).verify()


def test_killed_in_the_middle_of_a_read(gateway: Ceph, real_store: S3Store) -> None:
    data = os.urandom(64 * 1024**2)
    real_store.write("large", data)
    began, parts = time.monotonic(), real_store.stream("large")
    sizes = [len(next(parts))]
    gateway.kill_gateway()
    with pytest.raises(StoreError, match="cannot be reached|stopped answering"):
        sizes.extend(len(part) for part in parts)
    assert 0 < sum(sizes) < len(data)
    assert time.monotonic() - began < 2 * SECONDS
    gateway.start_gateway()
    assert real_store.read("large") == data


def test_a_short_outage_in_the_middle_of_a_read_is_sat_out(gateway: Ceph, real_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(64 * 1024**2)
    real_store.write("large", data)
    monkeypatch.setenv("DISTILLERY_S3_PATIENCE", "20")
    ranges: list[str] = []
    with before("GetObject", lambda request: ranges.append(request.headers.get("Range", b"").decode())):
        parts = real_store.stream("large")
        first = next(parts)
        gateway.kill_gateway()
        gateway.start_gateway_after(1.0)
        assert first + b"".join(parts) == data
    assert ranges[0] == ""
    assert all(wanted.startswith("bytes=") for wanted in ranges[1:])
    assert len(ranges) > 1


def test_a_writer_whose_upload_is_cleaned_away_sends_it_again(real_store: S3Store) -> None:
    data = os.urandom(LARGE_BYTES)
    aborted: list[int] = []

    def abort(request: Any) -> None:
        if not aborted:
            aborted.append(real_store.clean(older_than=-5))

    with before("CompleteMultipartUpload", abort):
        real_store.write("large", data)
    assert aborted == [1]
    assert real_store.read("large") == data
    assert uploads(real_store) == []


WRITER = """
import logging, sys, time
from pathlib import Path
from distillery.storage import open_store
from sets import publish_set, write
logging.basicConfig(level=logging.WARNING)
uri, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
writer = write(open_store(uri), 6, name=name)
(folder / name).touch()
while len(list(folder.iterdir())) < 2:
    time.sleep(0.001)
print(publish_set(writer).sha256)
"""


def test_two_processes_publish_at_once(real_store: S3Store, tmp_path: Path) -> None:
    """Sets that differ under one prefix: one of them stands whole, and who comes later is refused in a sentence."""
    tests = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path]), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, real_store.uri, name, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for name in ("one", "other")
    ]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in running]
    (first,), (later,) = ([said for said in ended if bool(said[2]) is failed] for failed in (False, True))
    assert b"cannot be published at" in later[1]
    found = SyntheticSet(real_store)
    assert found.digest == first[0].decode().strip()
    found.verify()
    origins = {entry.key for entry in found.manifest.shards}
    assert origins in [{entry.key for entry in write(real_store, 6, name=name).entries} for name in ("one", "other")]
