"""Passwords never leave the process in words: one redaction for every sentence, log record and traceback.

Two things are taken out of a text: what stands before the `@` of an address, whoever's address it is, and the very value of every secret
that the environment holds, wherever it turns up and however it is escaped.
"""

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"

_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE_?KEY|PGPASS", re.IGNORECASE)
_PLACE_NAME = re.compile(r"(?:FILE|PATH|DIR|URI|URL|NAME|TIMEOUT|ATTEMPTS|ENABLED)$", re.IGNORECASE)
"""Variables that say where a secret lies, or how it is fetched, and hold none; an address is looked through as any other is."""
_USER_INFO = re.compile(r"://[^/\s'\"<>?#]*@")
_PASSWORD_IN_VARIABLE = re.compile(
    r"\s*[a-zA-Z][\w+.-]*://[^:/@\s]*:(\S+)@"
)  # to the last @, as SQLAlchemy reads it: people leave / and @ unescaped
_PARAMETER = re.compile(r"([?&;](?:password|passwd|pwd|token|secret|sslpassword|signature|x-amz-[a-z-]*)=)[^&\s'\"]+", re.IGNORECASE)
_AUTHORIZATION = re.compile(r"\b(Basic|Bearer)\s+[A-Za-z0-9+/=._~-]{6,}")


def secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets that an environment holds, each as it is written and as addresses escape it, longest first.

    Args:
        environment: variables by name. One is a secret where its name says so (AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_PASSWORD, ...);
            of one that holds an address with a user and a password the password is.
    """
    found: set[str] = set()
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name):
            found.add(value.strip())
        if address := _PASSWORD_IN_VARIABLE.match(value):
            found.add(address[1])
    forms = {form for secret in found for form in (secret, unquote(secret), quote(secret, safe=""), quote(secret), quote_plus(secret))}
    return tuple(sorted((form for form in forms if form), key=lambda form: (-len(form), form)))


def redact(text: str) -> str:
    """A text without passwords: no user and password in any address of it, and none of the environment's secrets."""
    for secret in secrets(os.environ):
        if secret in text:  # a short one stands in many words: only where it is a word of its own
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text) if len(secret) < 6 else text.replace(secret, HIDDEN)
    text = _USER_INFO.sub("://", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text)


def redact_output() -> None:
    """Redact what this process logs, through whatever handler and of whatever library, and the tracebacks that it dies with.

    Every door of a process calls it; a second call changes nothing.
    """
    make = logging.getLogRecordFactory()
    if not isinstance(make, _RedactingFactory):
        logging.setLogRecordFactory(_RedactingFactory(make))
    if sys.excepthook is not _die:
        sys.excepthook = _die
        threading.excepthook = _die_in_thread


@contextmanager
def redacting_logs() -> Iterator[None]:
    """Redact what this process logs within the block, and leave its logging as it was: for work in somebody else's process."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _RedactingFactory):
        logging.setLogRecordFactory(_RedactingFactory(make))
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)


class _RedactingFactory:
    """Makes log records whose message and traceback are redacted before any handler or filter sees them."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit their format: logging tells that itself, without the values
            return record
        if (clean := redact(message)) != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = _told(record.exc_info[1])  # a Formatter takes it instead of formatting the exception anew
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return record


def _told(error: BaseException | None) -> str:
    return redact("".join(traceback.format_exception(error))).rstrip("\n")


def _die(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(_told(error) + "\n")


def _die_in_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit:
        sys.stderr.write(f"Exception in thread {failed.thread.name if failed.thread else '?'}:\n{_told(failed.exc_value)}\n")
