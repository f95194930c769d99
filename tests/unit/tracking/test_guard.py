"""A guard waits a bounded time, leaves a dead observer alone, and says so once."""

import threading

import pytest

from distillery.tracking import guard as module
from distillery.tracking.guard import Guard, first_line, within


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        """Start at 1000 s."""
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Observer:
    """Fails as told, and counts."""

    def __init__(self) -> None:
        """Start alive."""
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.error:
            raise self.error


class RejectedError(Exception):
    """An answer of a server that is alive."""

    error_code = "INVALID_PARAMETER_VALUE"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_dead_observer_is_left_alone_and_the_pause_doubles(clock: Clock) -> None:
    guard, observer = Guard("it", "on we go", pause=30, longest_pause=100), Observer()
    observer.error = ConnectionError("no")
    waited = []
    for _ in range(4):
        assert not guard.attempt(observer)
        calls, start = observer.calls, clock.now
        while observer.calls == calls:
            clock.now += 1
            guard.attempt(observer)
        waited.append(clock.now - start)
        clock.now += 1000  # past any pause
    assert waited[0] == 30
    assert max(waited) == 100


def test_success_closes_the_breaker_and_forgets_the_pause(clock: Clock) -> None:
    guard, observer = Guard("it", "on we go", pause=30), Observer()
    observer.error = ConnectionError("no")
    guard.attempt(observer)
    clock.now += 31
    observer.error = None
    assert guard.attempt(observer)
    assert guard.attempt(observer)
    observer.error = ConnectionError("again")
    guard.attempt(observer)
    clock.now += 31
    observer.error = None
    assert guard.attempt(observer)


def test_insist_tries_although_the_pause_is_not_over(clock: Clock) -> None:
    guard, observer = Guard("it", "on we go"), Observer()
    observer.error = ConnectionError("no")
    guard.attempt(observer)
    observer.error = None
    assert not guard.attempt(observer)
    assert guard.attempt(observer, insist=True)


def test_a_rejection_does_not_open_the_breaker(clock: Clock) -> None:
    guard, observer = Guard("it", "on we go"), Observer()
    observer.error = RejectedError("bad name")
    assert not guard.attempt(observer)
    observer.error = None
    assert guard.attempt(observer)


def test_one_warning_however_often_it_fails(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    guard, observer = Guard("MLflow at X", "the step goes on"), Observer()
    observer.error = ConnectionError("refused\nsecond line")
    for _ in range(3):
        guard.attempt(observer)
        clock.now += 10_000
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["MLflow at X failed (refused); the step goes on."]
    assert guard.failures == 3


@pytest.mark.timeout(30)
def test_a_call_that_hangs_is_abandoned() -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait()

    try:
        assert isinstance(within(hang, 0.05), TimeoutError)
    finally:
        release.set()


def test_within_returns_what_was_raised() -> None:
    error = ValueError("x")

    def fail() -> None:
        raise error

    assert within(fail, 5) is error
    assert within(lambda: None, 5) is None


def test_first_line_of_an_empty_message_is_the_type() -> None:
    assert first_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("x" * 999))) == 200
