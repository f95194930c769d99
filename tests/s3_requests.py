"""A hand on the requests that the S3 store sends: count them, hold them up, answer them in the server's stead."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from botocore.awsrequest import AWSResponse

from distillery.storage.s3 import make_client

Answer = Callable[[Any], AWSResponse | None]


@contextmanager
def before(operation: str, answer: Answer) -> Iterator[None]:
    """Look at requests on their way out; what is returned is taken for the server's answer."""
    events = make_client().meta.events
    name = f"before-send.s3.{operation}" if operation else "before-send.s3"

    def handler(request: Any, **_: Any) -> AWSResponse | None:
        return answer(request)

    events.register_first(name, handler)
    try:
        yield
    finally:
        events.unregister(name, handler)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Requests by operation."""
    seen: Counter[str] = Counter()
    events = make_client().meta.events

    def count(model: Any, **_: Any) -> None:
        seen[model.name] += 1

    events.register("before-call.s3", count)
    try:
        yield seen
    finally:
        events.unregister("before-call.s3", count)


class Raw:
    """The body of such an answer."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self.data


def refused(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No.</Message></Error>".encode()
    return lambda request: AWSResponse(request.url, status, {"content-type": "application/xml"}, Raw(body))
