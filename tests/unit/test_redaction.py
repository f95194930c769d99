"""No password in a sentence, a log line or a traceback, whichever variable holds it."""

import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from distillery.errors import ConfigError, StoreError
from distillery.redaction import HIDDEN, redact, redact_output, secrets
from distillery.tracking.guard import Guard, first_line

PASSWORD = "p@ss/w:rd %41"
ESCAPED = "p%40ss%2Fw%3Ard%20%2541"
VARIABLES = {
    "MLFLOW_TRACKING_URI": "postgresql://me:{}@db:5432/mlflow",
    "MLFLOW_REGISTRY_URI": "https://me:{}@registry/api",
    "MLFLOW_S3_ENDPOINT_URL": "http://me:{}@store:9000",
    "AWS_ENDPOINT_URL_S3": "https://me:{}@store",
    "HTTPS_PROXY": "http://me:{}@proxy:3128",
    "all_proxy": "socks5://:{}@proxy",
    "MLFLOW_TRACKING_PASSWORD": "{}",
    "MLFLOW_TRACKING_TOKEN": "{}",
    "AWS_SECRET_ACCESS_KEY": "{}",
    "AWS_SESSION_TOKEN": "{}",
    "PGPASSWORD": "{}",
    "MY_API_KEY": "{}",
}


@pytest.fixture(params=VARIABLES)
def variable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A variable of the environment that holds the password."""
    name = str(request.param)
    monkeypatch.setenv(name, VARIABLES[name].format(ESCAPED if "://" in VARIABLES[name] else PASSWORD))
    return name


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a handler of somebody else's writes."""
    factory, hooks = logging.getLogRecordFactory(), (sys.excepthook, threading.excepthook)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("a.library")
    logger.addHandler(handler)
    redact_output()
    redact_output()
    yield stream
    logger.removeHandler(handler)
    logging.setLogRecordFactory(factory)
    sys.excepthook, threading.excepthook = hooks


def is_clean(text: str) -> bool:
    return not any(part in text for part in (PASSWORD, ESCAPED, "p@ss", "w:rd", "me:"))


SAYINGS = (
    "cannot reach {address}",
    "(psycopg2.OperationalError) connection to {address} failed: fe_sendauth {plain}",
    "HTTPConnectionPool(host='{address}', port=80): Max retries exceeded",
    "user 'me', password={plain}",
    "https://else?user=me&password={plain}&x=1 and {escaped}",
)


@pytest.mark.parametrize("saying", SAYINGS)
def test_every_variable_in_every_place(variable: str, saying: str, log: io.StringIO) -> None:
    said = saying.format(address=os.environ[variable], plain=PASSWORD, escaped=ESCAPED)
    logger = logging.getLogger("a.library")
    logger.warning("it says %s", said)
    with suppress(RuntimeError):
        try:
            raise RuntimeError(said)
        finally:
            logger.exception("and then")
    assert is_clean(first_line(RuntimeError(said)))
    Guard("MLflow", "on we go")._note(RuntimeError(said))
    sentence = str(StoreError(f"The store failed ({said}): check it."))
    assert is_clean(sentence)
    assert sentence.startswith("The store failed (")
    assert log.getvalue().count("Traceback") == 1
    assert is_clean(log.getvalue()), log.getvalue()


def test_a_process_that_dies_names_no_password(variable: str) -> None:
    value = os.environ[variable]
    hook = io.StringIO()
    before, hooks = sys.stderr, (sys.excepthook, threading.excepthook, logging.getLogRecordFactory())
    try:
        sys.stderr = hook
        redact_output()
        error = RuntimeError(f"lost {value}")
        sys.excepthook(RuntimeError, error, None)
        thread = threading.Thread(target=lambda: (_ for _ in ()).throw(error))
        thread.start()
        thread.join()
    finally:
        sys.stderr = before
        sys.excepthook, threading.excepthook = hooks[:2]
        logging.setLogRecordFactory(hooks[2])
    assert hook.getvalue().count("RuntimeError: lost") == 2
    assert is_clean(hook.getvalue())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:secret@db/mlflow or https://a:b@c/d", "postgresql://db/mlflow or https://c/d"),
        ("postgresql+psycopg2://me:se@cret@db:5432/m", "postgresql+psycopg2://db:5432/m"),
        ("token only: https://ghp_abc@host/x", "token only: https://host/x"),
        ("Authorization: Basic bWU6c2VjcmV0 sent", f"Authorization: Basic {HIDDEN} sent"),
        ("Bearer abcdef.ghi-jkl_mno", f"Bearer {HIDDEN}"),
        ("db?user=me&password=secret&sslmode=require", f"db?user=me&password={HIDDEN}&sslmode=require"),
        (
            "https://b/k?X-Amz-Credential=AK%2F1&X-Amz-Signature=0f&v=2",
            f"https://b/k?X-Amz-Credential={HIDDEN}&X-Amz-Signature={HIDDEN}&v=2",
        ),
    ],
)
def test_addresses_lose_user_and_password(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/key@v2 and http://host:80/a@b",
        "sqlite:////home of a user/m@x.db",
        "models:/distillery-student@champion",
        "user@host.org: 12 of 30",
        "a basic block, the token of the class, password:",
        "There is no class 'a' in ['b', 'c'], did you mean 'b'?",
    ],
)
def test_nothing_else_changes(text: str) -> None:
    assert redact(text) == text


def test_a_short_password_is_hidden_as_a_word_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "a")
    assert redact("a cat sat; password 'a' refused") == f"{HIDDEN} cat sat; password '{HIDDEN}' refused"


def test_variables_that_say_where_a_secret_lies_hold_none() -> None:
    places = {
        "AWS_SHARED_CREDENTIALS_FILE": "creds",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "token",
        "TOKEN_URL": "https://host/token",
        "TOKENIZERS": "",
    }
    assert secrets(places) == ()
    assert secrets({"DB_PASSWORD": "x y"}) == ("x%20y", "x y", "x+y")


def test_an_error_keeps_what_is_no_text() -> None:
    assert ConfigError("a", 3).args == ("a", 3)


@pytest.mark.usefixtures("log")
def test_a_record_that_does_not_fit_its_arguments_is_left_to_logging() -> None:
    record = logging.getLogger("a.library").makeRecord("a.library", logging.WARNING, "file", 1, "%d", ("no number",), None)
    assert (record.msg, record.args) == ("%d", ("no number",))


def test_the_command_line_redacts(variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from distillery_kfp.pipelines.cli import app as cli

    monkeypatch.setattr(cli, "redact_output", lambda: None)  # the hooks are of a process of its own, looked at above
    monkeypatch.setattr(sys, "argv", ["distillery", "recipes", f"no/{os.environ[variable]}"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    said = capsys.readouterr().err  # as a path it is no address any more
    assert said.startswith("distillery: ")
    assert PASSWORD not in said
    assert ESCAPED not in said


def test_every_door_of_a_process_redacts() -> None:
    code = """
import logging, sys
from unittest import mock
import distillery.redaction as module
from distillery_kfp.pipelines.runner import child
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.demo import run as demo
class Reached(Exception): pass
for door in (child, cli, demo):
    with mock.patch.object(door, "redact_output", side_effect=Reached):
        try:
            door.main()
        except Reached:
            continue
    sys.exit(f"{door.__name__} does not")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
