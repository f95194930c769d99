"""A store in a bucket of an S3 server: the only file that knows boto3, imported by the first s3:// URI.

Few servers honour conditional writes and none locks, so nothing here relies on either: equal work writes equal keys and equal bytes.
"""

import hashlib
import io
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import boto3.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
from botocore.exceptions import ConnectionError as NoConnectionError

from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.storage.base import Store, check_key
from distillery.storage.local import checked
from distillery.storage.s3_refusals import ABSENT, AGAIN, refusal

T = TypeVar("T")
_log = logging.getLogger(__name__)

PART_BYTES = 8 * 1024**2
LARGE_BYTES = 2 * PART_BYTES
"""From here on an object is sent in parts, several at once."""

_CHUNK_BYTES = 1024**2
_TRIES = 3  # where bytes come damaged, an upload was cleaned away, or a body breaks off before its first part
_ABANDONED_SECONDS = 3600.0
_SETTLE_SECONDS = 1.0
_DIGEST = "sha256"
_BUCKETS_SEEN: set[tuple[str, str]] = set()  # there a missing object is no missing bucket
_MAKING = threading.Lock()  # boto3 loads its models once, not once a thread
_jitter = random.SystemRandom()  # the seeded streams are for results only


def make_client() -> Any:
    """The client for what the environment says now; threads share it, and equal environments do.

    Endpoint: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or S3_ENDPOINT_URL. Region: AWS_REGION, AWS_DEFAULT_REGION, the profile's, else
    us-east-1. Credentials: the usual chain of boto3. AWS_MAX_ATTEMPTS bounds the attempts of a request, DISTILLERY_S3_TIMEOUT the seconds
    that a server may be silent. DISTILLERY_S3_ADDRESSING (path, virtual or auto) names the bucket's place: path, unless the server is
    Amazon's.

    Raises:
        ConfigError: one of these cannot be.
    """
    names = ("AWS_", "S3_ENDPOINT_URL", "DISTILLERY_S3_")
    environment = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(names)))
    with _MAKING:
        return _make_client(os.getpid(), environment)


@lru_cache(maxsize=8)
def _make_client(process: int, environment: tuple[tuple[str, str], ...]) -> Any:
    """One client a process, because connections do not survive a fork."""
    chosen = dict(environment)
    endpoint = next((chosen[name] for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL") if chosen.get(name)), None)
    style = chosen.get("DISTILLERY_S3_ADDRESSING", "")
    if style not in ("", "auto", "path", "virtual"):
        raise ConfigError(f"DISTILLERY_S3_ADDRESSING = {style!r} is not allowed: give path, virtual or auto.")
    config = Config(
        connect_timeout=3,
        read_timeout=_number("DISTILLERY_S3_TIMEOUT", chosen, 10),
        retries={"mode": "standard", "total_max_attempts": _number("AWS_MAX_ATTEMPTS", chosen, 5)},
        max_pool_connections=32,
    )
    try:
        session = boto3.session.Session()
        region = chosen.get("AWS_REGION") or session.region_name or "us-east-1"
        # a profile may name an endpoint as well
        server = endpoint or session.client("s3", region_name=region).meta.endpoint_url
        return session.client("s3", endpoint_url=endpoint, region_name=region, config=config.merge(_dialect(style, server)))
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"No S3 client can be made ({error}): check AWS_PROFILE, AWS_REGION and AWS_ENDPOINT_URL_S3.") from None


def _dialect(style: str, server: str) -> Config:
    """How to speak to a server: one that is not Amazon's often refuses the checksums that boto3 adds, and knows buckets by path only."""
    if (urlsplit(server).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return Config(s3={"addressing_style": style or "auto"})
    return Config(
        s3={"addressing_style": style or "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _number(name: str, chosen: Mapping[str, str], default: int) -> int:
    value = chosen.get(name) or str(default)
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{name} = {value!r} is not allowed: give a whole number above 0.")
    return int(value)


class S3Store(Store):
    """A store below a prefix of a bucket.

    A server that is not there is an error after DISTILLERY_S3_PATIENCE seconds (10): until then requests are repeated, after pauses that
    grow and jitter. What is written is signed, so that the server refuses other bytes, carries its sha256, and is asked for once it is
    there.

    Args:
        bucket: its name; it must exist.
        prefix: folder inside the bucket; "" is the whole of it.
    """

    remote = True

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"

    def read(self, key: str) -> bytes:
        """The bytes of an object, compared with the sha256 that it carries."""
        about: dict[str, str] = {}
        data = b"".join(self._parts(key, about))
        if about.get(_DIGEST, "") not in ("", hashlib.sha256(data).hexdigest()):
            raise StoreError(f"The object {key!r} in the store {self.uri!r} does not match the sha256 it was written with: write it again.")
        return data

    def stream(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, in parts; a broken connection is taken up where it broke."""
        return self._parts(key, {})

    def write(self, key: str, data: bytes) -> None:
        """Write one object, a large one in parts; it is there whole once the last part is, or not at all."""
        digest = hashlib.sha256(data).hexdigest()
        self._write(key, digest, len(data), lambda: self._send(key, data, digest))

    def write_file(self, key: str, path: Path, sha256: str, give: bool = False) -> None:
        """Write one object from a file, of which a few parts at a time are in memory; readers notice bytes that are not of its hash."""
        size = path.stat().st_size
        if size < LARGE_BYTES:
            self.write(key, b"".join(checked(path, sha256)))
            return

        def send() -> None:
            with path.open("rb") as file:
                self._upload(key, file, sha256)

        self._write(key, sha256, size, send)

    def create(self, key: str, data: bytes) -> bool:
        """Write one object unless one is there.

        A server that honours conditions refuses the same write a second time. On any other the last of several writers at once wins,
        and each waits until all of them must be through before it looks whose bytes stayed.
        """
        if self.exists(key):
            return False
        with self._asking(f"write {key!r} to"):
            if not self._send_once(key, data):
                return False
            if not self._send_once(key, data):
                return True
        time.sleep(_SETTLE_SECONDS)
        return self.read(key) == data

    def size(self, key: str) -> int:
        """Bytes of an object, without reading it."""
        with self._asking(f"read {key!r} from", key):
            return int(self._head(key)["ContentLength"])

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of all objects below the folder `prefix`, by key: one request for a thousand of them."""
        start = f"{self._name(prefix)}/" if prefix else f"{self.prefix}/" if self.prefix else ""
        skip = len(self.prefix) + 1 if self.prefix else 0
        with self._asking("list"):
            pages = self._pages("list_objects_v2", start)
            found = {entry["Key"][skip:]: int(entry["Size"]) for page in pages for entry in page.get("Contents", ())}
        return {key: found[key] for key in sorted(found) if key and not key.endswith("/")}  # web consoles leave objects called like folders

    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys of all objects below the folder `prefix`."""
        return list(self.sizes(prefix))

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """Whether an object of this size was written with this hash; it is not read, for that would take as long as writing it."""
        try:
            with self._asking(f"read {key!r} from", key):
                found = self._head(key)
        except MissingResourceError:
            return False
        return bool(found["ContentLength"] == size and found["Metadata"].get(_DIGEST) == sha256)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with self._asking(f"delete {key!r} from"):
            self._ask("delete_object", self._name(key))

    def below(self, prefix: str) -> "S3Store":
        """The part of this store below the folder `prefix`."""
        return S3Store(self.bucket, self._name(prefix))

    def clean(self, older_than: float = _ABANDONED_SECONDS) -> int:
        """Abort unfinished uploads below this store.

        Args:
            older_than: seconds by the server's clock. Other machines hold other locks, so a young upload may be somebody's; a writer whose
                upload is aborted all the same sends it again.
        """
        start = f"{self.prefix}/" if self.prefix else ""
        aborted = 0
        with self._asking("clean"):
            for page in self._pages("list_multipart_uploads", start):
                now = _server_time(page)
                for upload in page.get("Uploads", ()):
                    if (now - upload["Initiated"]).total_seconds() >= older_than:
                        aborted += self._abort(upload["Key"], upload["UploadId"])
        return aborted

    @property
    def _client(self) -> Any:
        return make_client()

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)

    def _ask(self, operation: str, name: str, **arguments: Any) -> Any:
        return _patiently(lambda: getattr(self._client, operation)(Bucket=self.bucket, Key=name, **arguments))

    def _pages(self, operation: str, start: str) -> Any:
        return _patiently(lambda: [*self._client.get_paginator(operation).paginate(Bucket=self.bucket, Prefix=start)])

    def _abort(self, name: str, upload: str) -> int:
        try:
            self._ask("abort_multipart_upload", name, UploadId=upload)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchUpload":
                raise
            return 0  # finished, or aborted by somebody else
        return 1

    def _write(self, key: str, digest: str, size: int, send: Callable[[], None]) -> None:
        """Send an object until the server has it, and ask whether it has all of it."""
        with self._asking(f"write {key!r} to"):
            _patiently(send)
            found = self._head(key)
        # other metadata are another writer's, who came after us
        if found["Metadata"].get(_DIGEST, digest) == digest and found["ContentLength"] != size:
            raise StoreError(f"The store {self.uri!r} keeps {found['ContentLength']} of the {size} bytes of {key!r}: write it again.")

    def _send(self, key: str, data: bytes, digest: str) -> None:
        if len(data) < LARGE_BYTES:
            self._client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data, Metadata={_DIGEST: digest})
            return
        self._upload(key, io.BytesIO(data), digest)

    def _upload(self, key: str, file: BinaryIO, digest: str) -> None:
        config = TransferConfig(multipart_threshold=LARGE_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
        self._client.upload_fileobj(file, self.bucket, self._name(key), ExtraArgs={"Metadata": {_DIGEST: digest}}, Config=config)

    def _send_once(self, key: str, data: bytes) -> bool:
        """Write on condition that nothing is there; False where the server honours that and something is."""
        about = {_DIGEST: hashlib.sha256(data).hexdigest()}
        try:
            self._ask("put_object", self._name(key), Body=data, Metadata=about, IfNoneMatch="*")
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NotImplemented":
                self._send(key, data, about[_DIGEST])
            elif code in ("PreconditionFailed", "ConditionalRequestConflict", "412"):
                return False
            else:
                raise
        return True

    def _head(self, key: str) -> Any:
        """Size and metadata. A refusal of this request has no body and so no name: one byte is asked for to learn it."""
        name = self._name(key)
        place = (self._client.meta.endpoint_url, self.bucket)
        try:
            found = self._ask("head_object", name)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in ("400", "403", "404") or (code == "404" and place in _BUCKETS_SEEN):
                raise
            try:
                self._ask("get_object", name, Range="bytes=0-0")["Body"].close()
            except ClientError as named:
                if named.response["Error"]["Code"] == "NoSuchKey":
                    _BUCKETS_SEEN.add(place)
                raise
            found = self._ask("head_object", name)
        _BUCKETS_SEEN.add(place)
        return found

    def _parts(self, key: str, about: dict[str, str]) -> Iterator[bytes]:
        """The parts of an object; `about` takes its metadata before the first."""
        name = self._name(key)
        position, length, broken, etag = 0, -1, 0, ""
        with self._asking(f"read {key!r} from", key):
            while position != length:
                answer = self._ask("get_object", name, **({"Range": f"bytes={position}-", "IfMatch": etag} if position else {}))
                about.update(answer["Metadata"])
                etag, length = answer["ETag"], position + int(answer["ContentLength"])
                try:
                    with closing(answer["Body"]) as body:
                        while part := body.read(_CHUNK_BYTES):
                            position, broken = position + len(part), 0
                            yield part
                except BotoCoreError:
                    broken += 1
                    if broken == _TRIES:
                        raise

    @contextmanager
    def _asking(self, what: str, key: str = "") -> Iterator[None]:
        """Turn what boto3 raises into one sentence; a missing object is one of its own where `key` is what was asked for."""
        try:
            yield
        except ClientError as error:
            about = error.response["Error"]
            code, said = about.get("Code") or "", about.get("Message") or ""  # some servers answer without words
            if code in ABSENT and key:
                raise MissingResourceError(f"There is no {key!r} in the store {self.uri!r}: check the URI, or write it first.") from None
            raise StoreError(self._refusal(what, code, said)) from None
        except (BotoCoreError, Boto3Error) as error:
            raise StoreError(self._refusal(what, type(error).__name__, str(error))) from None

    def _refusal(self, what: str, code: str, said: str) -> str:
        client, key_id = self._client, ""
        with suppress(BotoCoreError, AttributeError):  # boto3 has no public way to the key id that it chose
            key_id = client._request_signer._credentials.access_key
        names = {"server": client.meta.endpoint_url, "bucket": self.bucket, "key_id": key_id}
        return f"Cannot {what} the store {self.uri!r}: {refusal(code, said, names)}"


def _patiently(ask: Callable[[], T]) -> T:
    """Repeat a request that got no answer for some seconds, and one that the server got damaged or failed at a few times."""
    began, patience, failures, damaged = time.monotonic(), _number("DISTILLERY_S3_PATIENCE", os.environ, 10), 0, 0
    while True:
        try:
            return ask()
        except ClientError as error:
            damaged += 1
            if error.response["Error"]["Code"] not in AGAIN or damaged == _TRIES:
                raise
        except (HTTPClientError, NoConnectionError) as error:
            failures += 1
            pause = _jitter.uniform(0, min(0.25 * 2.0**failures, 4.0))
            if isinstance(error, SSLError) or time.monotonic() + pause > began + patience:
                raise
            if failures == 1:
                _log.warning("The S3 server does not answer, it is asked again for %d seconds: %s", patience, error)
            time.sleep(pause)


def _server_time(answer: dict[str, Any]) -> datetime:
    """When the server answered, by its own clock."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
