"""Calls to an observer that may be down: bounded in time, tried rarely while it fails, reported once."""

import logging
import threading
import time
from collections.abc import Callable

from distillery.redaction import redact

log = logging.getLogger(__name__)

REJECTIONS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
"""Answers of a server that is alive: the next call may well succeed."""


class Guard:
    """A circuit breaker: after a failure the observer is left alone for a while, twice as long after each further one.

    Each call has a deadline of its own, because a client may retry for minutes whatever its settings say (MLflow's sqlalchemy
    store waits about 100 s for a database that is not there).
    """

    def __init__(self, name: str, advice: str, deadline: float = 20.0, pause: float = 30.0, longest_pause: float = 600.0) -> None:
        """Guard an observer.

        Args:
            name: what the warning calls it.
            advice: what the warning says is done instead.
            deadline: seconds a call may take.
            pause: seconds for which nothing is tried after the first failure.
            longest_pause: the pause stops doubling here.
        """
        self.name = name
        self.advice = advice
        self.deadline = deadline
        self.failures = 0
        self._first_pause = self._pause = pause
        self._longest_pause = longest_pause
        self._open_until = 0.0

    def attempt(self, call: Callable[[], None], deadline: float = 0.0, insist: bool = False) -> bool:
        """Try a call.

        Args:
            call: what to do.
            deadline: seconds it may take; 0 is the guard's own.
            insist: try although the pause after a failure is not over.

        Returns:
            Whether it was done; False at once while the observer is left alone.
        """
        if time.monotonic() < self._open_until and not insist:
            return False
        error = within(call, deadline or self.deadline)
        if error is None:
            self._pause = self._first_pause
            self._open_until = 0.0
            return True
        self._note(error)
        return False

    def _note(self, error: Exception) -> None:
        self.failures += 1
        if getattr(error, "error_code", "") not in REJECTIONS:
            self._open_until = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, self._longest_pause)
        level = logging.WARNING if self.failures == 1 else logging.DEBUG
        log.log(level, "%s failed (%s); %s.", self.name, first_line(error), self.advice)


def within(call: Callable[[], None], seconds: float) -> Exception | None:
    """Run a call on a thread of its own and wait at most `seconds`; one that takes longer is abandoned.

    Returns:
        What it raised, a TimeoutError where it was abandoned, or None.
    """
    failure: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name="distillery-tracking")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return TimeoutError(f"no answer within {seconds:g} s")
    return failure[0] if failure else None


def first_line(error: Exception) -> str:
    """The first line of an error's text that says what happened, without passwords, shortened to 200 characters."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result")]  # SQLAlchemy's preface
    return redact(lines[0] if lines else type(error).__name__)[:200]  # before it is cut, which could split a password
