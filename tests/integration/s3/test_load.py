"""Many readers, a large set, and how fast that is beside plain boto3."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from distillery.data.shards import pack_shard, read_shard
from distillery.data.store import SetWriter, SyntheticSet
from distillery.storage.s3 import S3Store, make_client
from sets import header, publish, shard

pytestmark = pytest.mark.integration
MIB = 1024**2


@pytest.mark.parametrize("fresh", [True, False])
def test_500_reads_at_once(real_store: S3Store, fresh: bool) -> None:
    reference = publish(real_store, 25, images=20)
    entries = SyntheticSet.open(reference.uri).manifest.shards * 20
    with ThreadPoolExecutor(500) as pool:
        found = list(pool.map(lambda entry: len(read_shard(real_store, entry, fresh).images), entries))
    assert found == [20] * 500


LARGE = """
import json, os, resource, sys, time
from pathlib import Path
from distillery.data.store import SyntheticSet
from distillery.storage import open_store
from sets import header, publish, publish_set, shard
from distillery.data.store import SetWriter

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

warm = open_store(sys.argv[1] + "/warm")
publish(warm, 2, 1366)
for _ in SyntheticSet(warm).shards("train"):
    pass
store, numbers = open_store(sys.argv[1] + "/large"), {"before": peak()}
began = time.monotonic()
writer = SetWriter(store, header())
for number in range(24):
    writer.append(*shard(number, 1366))
publish_set(writer)
numbers |= {"wrote": peak(), "write_seconds": time.monotonic() - began}
began, total = time.monotonic(), 0
for part in SyntheticSet(store).shards("train"):
    total += part.images.numel()
numbers |= {"read": peak(), "read_seconds": time.monotonic() - began, "bytes": total}
cache = Path(os.environ["DISTILLERY_WORKDIR"], "cache")
numbers["cached"] = sum(path.stat().st_size for path in cache.iterdir()) // 1024**2
print(json.dumps(numbers))
"""


def test_a_large_set_needs_the_memory_of_a_few_shards(real_store: S3Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = str(Path(__file__).parents[2])
    limits = {"DISTILLERY_CACHE_BYTES": str(100 * MIB), "DISTILLERY_WORKDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **limits, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    done = subprocess.run([sys.executable, "-c", LARGE, real_store.uri], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    say(capsys, f"384 MiB set: {numbers}")
    assert numbers["bytes"] >= 384 * MIB
    assert numbers["wrote"] - numbers["before"] < 150
    assert numbers["read"] - numbers["before"] < 150
    assert 0 < numbers["cached"] <= 100
    for key in real_store.list():
        real_store.delete(key)


def test_throughput_beside_plain_boto3(real_store: S3Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed for the reader, not asserted: a shared machine is no bench."""
    client, origin = make_client(), header().provenance
    shards = [shard(number, 1024) for number in range(12)]
    packed = [pack_shard(part, origin) for part in shards]
    writer = SetWriter(real_store, header())
    entries = []

    def plain() -> None:
        for number, data in enumerate(packed):
            client.upload_fileobj(io.BytesIO(data), real_store.bucket, f"plain/{number}")

    def ours() -> None:
        for number, data in enumerate(packed):
            real_store.write(f"ours/{number}", data)

    def whole() -> None:
        entries.extend(writer.append(*part) for part in shards)

    def fetch() -> None:
        for number in range(len(packed)):
            client.get_object(Bucket=real_store.bucket, Key=f"plain/{number}")["Body"].read()

    def read() -> None:
        for entry in entries:
            read_shard(real_store, entry, fresh=True)

    size = sum(map(len, packed)) / MIB
    actions: dict[str, Callable[[], None]] = {
        "boto3 upload": plain,
        "store upload": ours,
        "shards packed, hashed and uploaded": whole,
        "boto3 download": fetch,
        "shards downloaded and verified": read,
    }
    rates = []
    for name, action in actions.items():
        began = time.perf_counter()
        action()
        rates.append(f"{name} {size / (time.perf_counter() - began):.0f} MiB/s")
    say(capsys, f"{size:.0f} MiB in {len(packed)} objects: {', '.join(rates)}")
    assert real_store.read("ours/0") == packed[0]


def say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Past pytest's capture, so that a plain run shows it."""
    with capsys.disabled():
        Console(soft_wrap=True, highlight=False).print(f"\n{line}")
