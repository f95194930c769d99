"""The S3 store on a server that takes every key: parts, retries, races, and who is told what. Keys and rights need the real server."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from distillery.errors import ConfigError, StoreError
from distillery.storage import s3 as module
from distillery.storage.s3 import LARGE_BYTES, PART_BYTES, S3Store, make_client
from s3_requests import Raw, before, counting, refused
from s3_servers import free_port


@pytest.fixture
def store(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Store:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_S3_PATIENCE", "1")
    return S3Store(bucket, "sets/one")


def uploads(bucket: str) -> list[str]:
    return [upload["Key"] for upload in make_client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def test_a_large_object_goes_in_parts(store: S3Store) -> None:
    data = os.urandom(LARGE_BYTES + PART_BYTES // 2)
    with counting() as seen:
        store.write("large", data)
    assert (seen["UploadPart"], seen["CompleteMultipartUpload"], seen["PutObject"]) == (3, 1, 0)
    assert hashlib.sha256(store.read("large")).digest() == hashlib.sha256(data).digest()
    with counting() as seen:
        store.write("small", data[:1000])
    assert (seen["UploadPart"], seen["PutObject"]) == (0, 1)


def test_what_is_written_carries_its_hash_and_is_compared_with_it(store: S3Store) -> None:
    store.write("key", b"12345")
    client, place = make_client(), {"Bucket": store.bucket, "Key": "sets/one/key"}
    digest = hashlib.sha256(b"12345").hexdigest()
    assert client.head_object(**place)["Metadata"] == {"sha256": digest}
    client.put_object(**place, Body=b"12346", Metadata={"sha256": digest})
    with pytest.raises(StoreError, match=r"'key' in the store 's3://.*/sets/one' does not match the sha256"):
        store.read("key")
    client.put_object(**place, Body=b"12346")
    assert store.read("key") == b"12346"  # foreign objects carry none
    assert not store.holds("key", 5, hashlib.sha256(b"12346").hexdigest())


def test_a_server_that_keeps_less_than_it_got_is_found_out(store: S3Store) -> None:
    digest = hashlib.sha256(b"12345").hexdigest()
    kept = AWSResponse("", 200, {"content-length": "4", "x-amz-meta-sha256": digest}, Raw(b""))
    with before("HeadObject", lambda _: kept), pytest.raises(StoreError, match="keeps 4 of the 5 bytes of 'key': write it again"):
        store.write("key", b"12345")


def test_a_broken_connection_is_taken_up_where_it_broke(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(5 * 1024**2)
    store.write("key", data)
    ranges: list[str] = []
    breaks = break_bodies(monkeypatch, after=2)
    with before("GetObject", lambda request: ranges.append(request.headers.get("Range", b"").decode())):
        assert b"".join(store.stream("key")) == data
    assert ranges == ["", "bytes=2097152-", "bytes=4194304-"]
    breaks.append(0)
    with pytest.raises(StoreError, match="stopped answering; run again"):
        list(store.stream("key"))


def break_bodies(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Break every body after that many parts, or after the number appended to the result."""
    from botocore.response import StreamingBody

    limits, read = [after], StreamingBody.read

    def broken(self: Any, amount: int | None = None) -> bytes:
        self.parts = getattr(self, "parts", 0) + 1
        if self.parts > limits[-1]:
            raise ReadTimeoutError(endpoint_url="there", error="silence")
        return read(self, amount)

    monkeypatch.setattr(StreamingBody, "read", broken)
    return limits


def test_an_object_replaced_while_it_is_read_is_an_error(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("key", os.urandom(3 * 1024**2))
    break_bodies(monkeypatch, after=1)
    parts = store.stream("key")
    next(parts)
    store.write("key", os.urandom(3 * 1024**2))
    with pytest.raises(StoreError, match="it was replaced while it was being read"):
        list(parts)


def test_a_busy_server_is_asked_again(store: S3Store) -> None:
    answers = [refused(503, "SlowDown"), refused(500, "InternalError")]
    with before("PutObject", lambda request: answers.pop()(request) if answers else None):
        store.write("key", b"1")
    assert store.read("key") == b"1"
    assert answers == []


@pytest.mark.parametrize("code", ["BadDigest", "XAmzContentSHA256Mismatch", "NoSuchUpload"])
def test_bytes_that_came_damaged_are_sent_again_but_not_for_ever(store: S3Store, code: str) -> None:
    answers = [refused(400, code)]
    with before("PutObject", lambda request: answers.pop()(request) if answers else None):
        store.write("key", b"1")
    assert store.read("key") == b"1"
    tries: list[object] = []
    with before("PutObject", lambda request: tries.append(request) or refused(400, code)(request)), pytest.raises(StoreError) as caught:
        store.write("key", b"2")
    assert len(tries) == 3
    assert "did not arrive as they were sent" in str(caught.value)
    assert store.read("key") == b"1"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "InvalidAccessKeyId", "does not know the access key 'labaccess'; check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "the secret does not fit the access key 'labaccess'"),
        (403, "AccessDenied", "'labaccess' has no permission"),
        (400, "ExpiredToken", "have expired; fetch new ones"),
        (403, "RequestTimeTooSkewed", "clock differs"),
        (404, "NoSuchBucket", "there is no bucket"),
        (403, "QuotaExceeded", "no room is left"),
        (418, "Teapot", r"answered Teapot \(No\); check the bucket"),
    ],
)
@pytest.mark.parametrize("verb", ["read", "write", "size", "exists", "list", "delete", "create", "clean"])
def test_a_refusal_is_one_sentence(store: S3Store, verb: str, status: int, code: str, words: str) -> None:
    arguments = {"write": ("key", b"1"), "create": ("key", b"1"), "list": (), "clean": ()}.get(verb, ("key",))
    with before("", refused(status, code)), pytest.raises(StoreError, match=words) as caught:
        getattr(store, verb)(*arguments)
    assert str(caught.value).startswith("Cannot ")
    assert store.uri in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["read", "size", "exists", "list", "create"])
def test_a_bucket_that_is_not_there_is_no_missing_object(bucket: str, verb: str) -> None:
    arguments = {"create": ("key", b"1"), "list": ()}.get(verb, ("key",))
    with pytest.raises(StoreError, match=r"there is no bucket 'absent-bucket' on http://127.*; create it, or correct the URI"):
        getattr(S3Store("absent-bucket"), verb)(*arguments)


def test_a_server_that_is_not_there_is_an_error_within_seconds(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(StoreError, match=rf"Cannot read 'key' from .*127\.0\.0\.1:{port} cannot be reached; check AWS_ENDPOINT_URL_S3"):
        store.read("key")
    assert time.monotonic() - began < 5
    config = make_client().meta.config
    assert config.connect_timeout * config.retries["total_max_attempts"] < 20  # nor does one that swallows packets take minutes


def test_missing_credentials_are_named(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StoreError, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
        store.exists("key")


def client_for(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Any:
    for name in [name for name in os.environ if name.startswith(("AWS_", "S3_", "DISTILLERY_S3_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return make_client()


def test_the_endpoint_decides_how_the_server_is_spoken_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    amazon = client_for(monkeypatch)
    assert (amazon.meta.region_name, amazon.meta.config.s3["addressing_style"]) == ("us-east-1", "auto")
    assert amazon.meta.config.request_checksum_calculation == "when_supported"
    first = {"S3_ENDPOINT_URL": "http://c:1"}
    for name, url in (("AWS_ENDPOINT_URL", "http://b:1"), ("AWS_ENDPOINT_URL_S3", "http://a:1")):
        first[name] = url
        own = client_for(monkeypatch, **first)
        assert own.meta.endpoint_url == url
        assert own.meta.config.s3["addressing_style"] == "path"
        assert own.meta.config.request_checksum_calculation == own.meta.config.response_checksum_validation == "when_required"
    assert client_for(monkeypatch, S3_ENDPOINT_URL="http://c:1").meta.endpoint_url == "http://c:1"
    virtual = client_for(monkeypatch, AWS_ENDPOINT_URL="http://b:1", DISTILLERY_S3_ADDRESSING="virtual", AWS_REGION="eu-north-1")
    assert (virtual.meta.config.s3["addressing_style"], virtual.meta.region_name) == ("virtual", "eu-north-1")
    (tmp_path / "config").write_text("[profile lab]\nregion = lab-1\nendpoint_url = http://d:1\n")
    profile = client_for(monkeypatch, AWS_CONFIG_FILE=str(tmp_path / "config"), AWS_PROFILE="lab")
    assert (profile.meta.endpoint_url, profile.meta.region_name) == ("http://d:1", "lab-1")
    assert profile.meta.config.s3["addressing_style"] == "path"
    assert profile.meta.config.retries == {"mode": "standard", "total_max_attempts": 5}


@pytest.mark.parametrize(
    "environment",
    [
        {"DISTILLERY_S3_ADDRESSING": "sideways"},
        {"DISTILLERY_S3_TIMEOUT": "soon"},
        {"AWS_MAX_ATTEMPTS": "0"},
        {"AWS_PROFILE": "nobody"},
        {"AWS_ENDPOINT_URL_S3": "nowhere"},
    ],
)
def test_an_environment_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(environment))}"):
        client_for(monkeypatch, **environment)


def test_boto3_is_imported_by_the_first_bucket_only(bucket: str) -> None:
    code = "import sys\nfrom distillery.storage import open_store\nopen_store('x')\nprint('boto3' in sys.modules)\n"
    code += "open_store('s3://bucket/x')\nprint('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_clean_aborts_abandoned_uploads_of_this_prefix_only(store: S3Store) -> None:
    client = make_client()
    for key in ("sets/one/shards/a", "sets/one/b", "sets/onefold", "other"):
        client.create_multipart_upload(Bucket=store.bucket, Key=key)
    assert store.clean() == 2  # moto's uploads are all of 2010
    assert sorted(uploads(store.bucket)) == ["other", "sets/onefold"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_writer_leaves_neither_object_nor_upload(store: S3Store, number: int) -> None:
    told, once = threading.Event(), iter([True])

    def leave(number: int, frame: object) -> None:
        if not told.is_set():
            told.set()
            raise SystemExit(128 + number)

    def stop(_: object) -> None:
        if next(once, False):
            # a signal that comes just before the writer lies down to wait does not wake it, so it is sent until it has arrived
            while not told.wait(0.1):
                os.kill(os.getpid(), number)
            time.sleep(0.5)  # this part stays unsent until the writer has given up

    previous = signal.signal(number, leave)
    try:
        with before("UploadPart", stop), pytest.raises(SystemExit):
            store.write("key", os.urandom(LARGE_BYTES + 4 * PART_BYTES))
    finally:
        signal.signal(number, previous)
    assert store.list() == []
    assert uploads(store.bucket) == []


@pytest.mark.parametrize("honours", [False, True])
def test_on_a_server_without_conditions_the_last_writer_stands(store: S3Store, monkeypatch: pytest.MonkeyPatch, honours: bool) -> None:
    """Both looked before either wrote; the first must not report what the second replaced."""
    waited: list[float] = []

    def settle(seconds: float) -> None:
        waited.append(seconds)
        if not honours:
            make_client().put_object(Bucket=store.bucket, Key="sets/one/key", Body=b"second")

    def forget(request: Any) -> None:
        if not honours and "If-None-Match" in request.headers:
            del request.headers["If-None-Match"]

    monkeypatch.setattr(module.time, "sleep", settle)
    with before("PutObject", forget):
        assert store.create("key", b"first") is honours
    assert waited == ([] if honours else [1.0])
    assert store.read("key") == (b"first" if honours else b"second")


def test_a_server_that_knows_no_conditions_is_written_to_all_the_same(store: S3Store) -> None:
    def answer(request: Any) -> AWSResponse | None:
        return refused(501, "NotImplemented")(request) if "If-None-Match" in request.headers else None

    with before("PutObject", answer):
        assert store.create("key", b"1")
        assert not store.create("key", b"2")


def test_refused_connections_are_no_traceback(store: S3Store) -> None:
    def gone(request: Any) -> None:
        raise EndpointConnectionError(endpoint_url="http://there")

    with before("", gone), pytest.raises(StoreError, match="cannot be reached"):
        store.write("key", os.urandom(LARGE_BYTES))
