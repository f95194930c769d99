"""Requests to Kubeflow's API over HTTP, by the standard library alone: what is tried again, what is refused, and in which words."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from distillery.errors import ConfigError, DistilleryError, MissingResourceError
from distillery.provenance import sha256_bytes
from distillery.redaction import redact
from distillery_kfp.pipelines.registrar.access import TOKEN, TOKEN_PATH, Access

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before a request is tried again."""
SECONDS = 30.0
"""That the server may be silent."""
UNSURE = 0
"""In place of a status: it is not known whether the request was carried out."""
_FAILING = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Request:
    """What goes over the line.

    Attributes:
        method: GET, POST or DELETE.
        path: below the endpoint, with its query.
        headers: with the token, where there is one.
        data: the body; None has none.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    data: bytes | None = None


@dataclass(frozen=True)
class Answer:
    """What comes back.

    Attributes:
        status: of HTTP.
        data: the body.
        place: where a redirection leads.
    """

    status: int
    data: bytes
    place: str = ""


@dataclass(frozen=True)
class Reply:
    """An answer that the caller can go on with: the status, or UNSURE, and the document of a request that was carried out."""

    status: int
    document: dict[str, Any]


class Client:
    """One server.

    A request that changes nothing, or nothing more when it is repeated, is repeated while the server fails. Redirections are not
    followed: they lead to pages where people sign in, and a token would go with them.
    """

    def __init__(
        self, access: Access, send: Callable[[Request], Answer] | None = None, pauses: Sequence[float] = PAUSES, seconds: float = SECONDS
    ) -> None:
        """Speak to the API of `access`.

        Args:
            access: the endpoint and its token.
            send: carries a request over and gives the answer, OSError where there is none; None does it over the network.
            pauses: seconds before each further attempt.
            seconds: that the server may be silent.
        """
        self.access = access
        self._send = send or _Network(access.endpoint, seconds)
        self.pauses = tuple(pauses)

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        file: tuple[str, bytes] | None = None,
        repeat: bool = True,
        expected: tuple[int, ...] = (),
    ) -> Reply:
        """Make a request.

        Args:
            method: GET, POST or DELETE.
            path: below the endpoint.
            query: its parameters; empty ones are left out.
            body: JSON to send.
            file: name and bytes of a file to send instead.
            repeat: whether it may be carried out twice; otherwise the caller has to look what there is where that is UNSURE.
            expected: statuses of refusals that the caller knows what to do with, such as 404 and 409.

        Returns:
            What the server answered.

        Raises:
            ConfigError: the server refuses the request, or whoever makes it.
            MissingResourceError: what it names is not there, or the server is not, or it is no server of Kubeflow's API.
        """
        asked = {name: value for name, value in (query or {}).items() if value not in ("", None)}
        target = f"{path}?{urlencode(asked)}" if asked else path
        what = f"{method} {path}"
        answer = self._answer(what, Request(method, target, *_content(body, file)), repeat)
        if answer.status in (UNSURE, *expected):
            return Reply(answer.status, {})
        if not 200 <= answer.status < 300:
            raise self._refusal(answer, what)
        try:
            document = json.loads(answer.data or b"{}")
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise MissingResourceError(
                f"{self.access.endpoint!r} answers {what} with something else than JSON, perhaps a page to sign in: "
                "give the address of Kubeflow's API, and a token that it takes."
            )
        return Reply(answer.status, document)

    def _answer(self, what: str, request: Request, repeat: bool) -> Answer:
        renewed, said = False, ""
        pauses = list(self.pauses)
        while True:
            try:
                answer = self._send(self._signed(request))
            except (OSError, HTTPException) as error:
                said = redact(str(getattr(error, "reason", "") or error) or type(error).__name__)
            else:
                if answer.status == 401 and not renewed:
                    renewed = True  # the file was replaced between reading and asking: it is read again
                    continue
                if answer.status not in _FAILING:
                    return answer
                said = f"status {answer.status}: {_words(answer)}"
            if not repeat:
                return Answer(UNSURE, b"")
            if not pauses:
                raise self.unanswered(f"{what}: {said}")
            time.sleep(pauses.pop(0))

    def unanswered(self, said: str) -> DistilleryError:
        """The error about a server that fails, or is not there."""
        return MissingResourceError(
            f"Kubeflow's API at {self.access.endpoint!r} does not do its work ({said}): look at its address and its log, then try again."
        )

    def _signed(self, request: Request) -> Request:
        token = self.access.token()
        headers = {**request.headers, "Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        return Request(request.method, request.path, headers, request.data)

    def _refusal(self, answer: Answer, what: str) -> DistilleryError:
        said, where = _words(answer), self.access.endpoint
        if 300 <= answer.status < 400:
            other = urlsplit(answer.place).hostname or "another page"
            return MissingResourceError(
                f"{where!r} sends {what} on to {other}, where people sign in: give the API's own address, and a token that it takes."
            )
        if answer.status == 401:
            return ConfigError(
                f"{where!r} does not know who asks ({said}): put a valid token into the file that {TOKEN_PATH} names, or into {TOKEN}."
            )
        if answer.status == 403:
            return ConfigError(f"{where!r} does not allow {what} ({said}): give the token's account the right, or another --namespace.")
        if answer.status == 404:
            return MissingResourceError(
                f"{where!r} has nothing at {what} ({said}): check the name, and that the address is that of Kubeflow's API."
            )
        return ConfigError(f"{where!r} refuses {what} with status {answer.status}: {said}.")


class _Network:
    def __init__(self, endpoint: str, seconds: float) -> None:
        self._endpoint, self._seconds = endpoint, seconds
        # over plain HTTP a proxy would read the token, and what is asked so is near
        proxies = (urllib.request.ProxyHandler({}),) if urlsplit(endpoint).scheme == "http" else ()
        self._opener = urllib.request.build_opener(_Staying, *proxies)

    def __call__(self, request: Request) -> Answer:
        asked = urllib.request.Request(self._endpoint + request.path, request.data, dict(request.headers), method=request.method)
        try:
            with self._opener.open(asked, timeout=self._seconds) as answer:
                return Answer(answer.status, answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return Answer(refused.code, refused.read(), refused.headers.get("Location", ""))
        except (socket.gaierror, TimeoutError) as error:
            raise OSError(str(error)) from None


class _Staying(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        return None


def _content(body: Mapping[str, Any] | None, file: tuple[str, bytes] | None) -> tuple[dict[str, str], bytes | None]:
    if file is not None:
        name, data = file
        edge = f"distillery-{sha256_bytes(data)}"
        told = f'Content-Disposition: form-data; name="uploadfile"; filename="{name}"\r\nContent-Type: application/octet-stream'
        whole = f"--{edge}\r\n{told}\r\n\r\n".encode() + data + f"\r\n--{edge}--\r\n".encode()
        return {"Content-Type": f"multipart/form-data; boundary={edge}"}, whole
    if body is not None:
        return {"Content-Type": "application/json"}, json.dumps(body, allow_nan=False).encode()
    return {}, None


def _words(answer: Answer) -> str:
    """What the server says, in one line."""
    try:
        document = json.loads(answer.data)
    except ValueError:
        document = {}
    found = document if isinstance(document, dict) else {}
    said = next((str(found[name]) for name in ("error_message", "message", "error") if found.get(name)), "no reason given")
    return redact(" ".join(said.split()))[:300].rstrip(".")
